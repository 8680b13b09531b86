"""What instruction tuning and preference optimisation share: base, adapter, trl's trainer, what is written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from rich.console import Console
from transformers import Trainer, TrainerCallback, set_seed

from pipeline.config.schema import ConfigError
from pipeline.lm.adapters import adapter_config, check_export, count_parameters
from pipeline.lm.engine import total_steps
from pipeline.lm.errors import InputError, one_line
from pipeline.lm.examples import prompt_form, texts_of
from pipeline.lm.models import load_causal_lm, prepare_base
from pipeline.lm.outcome import train_and_write
from pipeline.lm.records import Record
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import DpoConfig, SftConfig
from pipeline.lm.tokenizer import ensure_chat_template


def check_lengths(before: dict[str, int], after: dict[str, int], length: int, console: Console) -> None:
    """Say how many examples trl has left out, because cut at ``length`` tokens they have nothing to learn from.

    ``before`` and ``after`` are numbers of examples by kind. Raises InputError when none of a kind are left.
    """
    for name, number in before.items():
        lost = number - after[name]
        if lost == number:
            raise InputError(
                f"none of the {lost} {name} examples has an answer within model.max_length = {length} tokens: "
                "a larger --model.max_length, or shorter prompts"
            )
        if lost:
            console.print(f"{lost} of {number} {name} examples are left out: prompts of {length} tokens or more.")


def train_causal(
    stage: str,
    config: SftConfig | DpoConfig,
    path: Path,
    console: Console,
    examples: tuple[Sequence[Record], Sequence[Record]],
    make_trainer: Callable[..., Trainer],
    *,
    export_lora: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train a causal language model; returns what ``results.json`` holds.

    Args:
        stage: ``sft`` or ``dpo``.
        config: resolved.
        path: run directory.
        console: where progress goes.
        examples: training and held-out ones, converted.
        make_trainer: called with run, model, processing_class, train_dataset, eval_dataset, peft_config, callbacks.
        export_lora: write the adapter as plain LoRA too.
        callbacks: of the trainer.

    Raises:
        ConfigError, InputError: wrong settings or files.
        StageFailed, Interrupted: see ``run_trainer``.
    """
    run, (train, held_out) = LanguageRun(path), examples
    if config.adapter.method == "head":
        raise ConfigError("adapter 'head' is for a classifier: it has no meaning here")
    set_seed(config.training.seed)
    place, tokenizer = prepare_base(
        config.model, run.base, lambda: texts_of(train), classifier=False, reuse=run.exists()
    )
    templated = ensure_chat_template(tokenizer)
    set_seed(config.training.seed)
    model = load_causal_lm(config.model, place, tokenizer)
    adapter = adapter_config(
        config.adapter, model, task_type="CAUSAL_LM", total_steps=total_steps(config.training, len(train))
    )
    if export_lora:
        check_export(adapter)
    try:
        trainer = make_trainer(
            run=run,
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(list(train)),
            eval_dataset=Dataset.from_list(list(held_out)),
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template does not take these examples: {one_line(error)}") from error
    except ValueError as error:
        raise ConfigError(f"this model or adapter does not fit: {one_line(error)}") from error
    check_lengths(
        {"training": len(train), "held-out": len(held_out)},
        {"training": len(trainer.train_dataset), "held-out": len(trainer.eval_dataset)},
        config.model.max_length,
        console,
    )
    counts = count_parameters(trainer.model, ())
    console.print(
        f"{len(train):,} examples, {len(held_out):,} held out. {config.adapter.method}: {counts.adapter:,} trainable "
        f"parameters of {counts.total:,}. Seed {config.training.seed}."
    )
    if templated and isinstance(train[0].get("prompt"), list):
        console.print("The tokenizer has no chat template: a plain one is used and saved with it.")
    return train_and_write(
        trainer, config, run, console, stage=stage, metric="loss", greater=False, counts=counts, adapter=adapter,
        tokenizer=tokenizer, export_lora=export_lora,
        about={
            "base": place, "data": config.data.train, "train_examples": len(train),
            "validation_examples": len(held_out), "prompt": prompt_form(train[0]),
        },
    )  # fmt: skip
