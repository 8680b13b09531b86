"""One run of instruction tuning, on trl's SFTTrainer."""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from trl import SFTConfig as SftArguments
from trl import SFTTrainer

from pipeline.config.schema import ConfigError
from pipeline.lm.causal import train_causal
from pipeline.lm.engine import training_arguments
from pipeline.lm.examples import convert, instruction_example
from pipeline.lm.records import train_and_validation
from pipeline.lm.settings import SftConfig


def train_instructions(config: SftConfig, path: Path, console: Console, *, export_lora: bool = False) -> dict[str, Any]:
    """Train and evaluate; returns what ``results.json`` holds. Raises as ``train_causal``."""
    train, held_out = train_and_validation(config.data, partial(convert, shape=instruction_example))
    if config.loss_on == "completion" and "text" in train[0]:
        raise ConfigError("plain text has no completion: --loss-on all")

    def make_trainer(run, **parts: Any) -> SFTTrainer:
        arguments = training_arguments(
            SftArguments,
            config,
            run,
            max_length=config.model.max_length,
            completion_only_loss=config.loss_on == "completion",
        )
        return SFTTrainer(args=arguments, **parts)

    return train_causal("sft", config, path, console, (train, held_out), make_trainer, export_lora=export_lora)
