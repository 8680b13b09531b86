"""One run of direct preference optimisation, on trl's DPOTrainer; the reference is the adapter switched off."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback
from trl import DPOConfig as DpoArguments
from trl import DPOTrainer

from pipeline.lm.causal import train_causal
from pipeline.lm.engine import training_arguments
from pipeline.lm.errors import StageFailed
from pipeline.lm.examples import convert_pairs
from pipeline.lm.records import train_and_validation
from pipeline.lm.settings import DpoConfig

FIRST_LOSS_TOLERANCE = 1e-5
"""Of the held-out loss at step 0 against ln 2; float32 sums of equal numbers."""


class FirstLoss(TrainerCallback):
    """Before training, policy and reference are one model: every margin is 0 and the loss is ln 2, or the run stops."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Look at the evaluation before the first step."""
        if state.global_step == 0 and abs(metrics["eval_loss"] - math.log(2)) > FIRST_LOSS_TOLERANCE:
            raise StageFailed(
                f"the loss before the first step is {metrics['eval_loss']:.6f}, not ln 2 = {math.log(2):.6f}: the "
                "reference is not the model without its adapter"
            )


def train_preferences(config: DpoConfig, path: Path, console: Console, *, export_lora: bool = False) -> dict[str, Any]:
    """Train and evaluate; returns what ``results.json`` holds. Raises as ``train_causal``."""
    train, held_out = train_and_validation(config.data, partial(convert_pairs, data=config.data, say=console.print))

    def make_trainer(run, **parts: Any) -> DPOTrainer:
        arguments = training_arguments(
            DpoArguments,
            config,
            run,
            max_length=config.model.max_length,
            beta=config.beta,
        )
        return DPOTrainer(args=arguments, **parts)

    return train_causal(
        "dpo", config, path, console, (train, held_out), make_trainer,
        export_lora=export_lora, callbacks=[FirstLoss()],
    )  # fmt: skip
