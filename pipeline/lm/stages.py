"""The stages by name, with the errors that all of them can end in."""

from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.lm.classification import train_classifier
from pipeline.lm.engine import is_complete, memory_errors, quiet
from pipeline.lm.errors import system_errors
from pipeline.lm.instruction import train_instructions
from pipeline.lm.preference import train_preferences
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import StageConfig

TRAINERS = {"nlu": train_classifier, "sft": train_instructions, "dpo": train_preferences}


def train_stage(
    stage: str, config: StageConfig, path: Path, console: Console, *, resume: bool = False, export_lora: bool = False
) -> dict[str, Any]:
    """One run of ``stage`` in the directory ``path``; returns what its ``results.json`` holds.

    Args:
        stage: ``nlu``, ``sft`` or ``dpo``.
        config: resolved.
        path: run directory.
        console: where progress goes.
        resume: go on with a run in ``path``, if there is one.
        export_lora: write the adapter as plain LoRA too.

    Raises:
        ConfigError, InputError: wrong settings or files.
        StageFailed: the loss is no number, or memory has ended.
        Interrupted: the user stopped it; the last step is saved.
        OSError: a file cannot be written.
    """
    advice = (
        "lower --training.micro_batch (the batch stays as it is), --model.max_length or --rank, or give "
        "--training.gradient_checkpointing true"
    )
    quiet()
    run = LanguageRun(path)
    with memory_errors(advice), system_errors(path):
        if is_complete(config, run, resume):
            console.print(f"{path}: complete already")
            return run.results()
        return TRAINERS[stage](config, path, console, export_lora=export_lora)
