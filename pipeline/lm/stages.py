"""One run of a stage, from its configuration to ``results.json``.

``nlu`` classifies texts with Hugging Face's Trainer, ``sft`` learns to follow instructions with trl's SFTTrainer, and
``dpo`` learns preferences with its DPOTrainer, where the reference is the model with its adapter switched off.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from datasets import Dataset
from jinja2 import TemplateError
from rich.console import Console
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from trl import DPOConfig as DpoArguments
from trl import DPOTrainer, SFTTrainer
from trl import SFTConfig as SftArguments

import lorta
from data_prep.files.atomic import write_text
from data_prep.files.errors import UserError
from pipeline.config.schema import ConfigError
from pipeline.lm.adapters import (
    ParameterCount,
    adapter_config,
    check_export,
    count_parameters,
    export_as_lora,
    in_modules,
    train_without_adapter,
    wrap,
)
from pipeline.lm.engine import best_row, is_complete, memory_errors, quiet, run_trainer, total_steps, training_arguments
from pipeline.lm.errors import InputError, StageFailed, one_line, system_errors
from pipeline.lm.examples import convert, convert_pairs, instruction_example, prompt_form, texts_of
from pipeline.lm.glue import HUB_NAME, Example, Task, find_task, load_task
from pipeline.lm.models import ensure_chat_template, head_modules, load_causal_lm, load_classifier, prepare_base
from pipeline.lm.records import train_and_validation
from pipeline.lm.results import model_card
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import DpoConfig, NluConfig, SftConfig, StageConfig

MEMORY_ADVICE = (
    "lower --training.micro_batch (the batch stays as it is), --model.max_length or --rank, or give "
    "--training.gradient_checkpointing true"
)
PACKAGES = ("lorta-fold", "torch", "transformers", "peft", "trl")
"""Packages whose versions a run states."""

UNTRAINED = "The base model was untrained: it knew nothing of language before, and nothing but these examples since."

FIRST_LOSS_TOLERANCE = 1e-5
"""Of the held-out loss at step 0 against ln 2; float32 sums of equal numbers."""


@dataclass(frozen=True)
class Prepared:
    """What a stage has made of its configuration."""

    trainer: Trainer
    adapter: peft.PeftConfig | None
    counts: ParameterCount
    tokenizer: PreTrainedTokenizerBase
    """Saved beside the adapter or model."""
    metric: str
    """Column that decides which evaluation is the best; ``loss``: the less the better."""
    about: dict[str, Any]
    """Further entries of ``results.json``."""


def train_stage(
    stage: str, config: StageConfig, path: Path, console: Console, *, resume: bool = False, export_lora: bool = False
) -> dict[str, Any]:
    """Train and evaluate in the directory ``path``; return what its ``results.json`` holds, which is written last.

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
    quiet()
    run = LanguageRun(path)
    with memory_errors(MEMORY_ADVICE), system_errors(path):
        if is_complete(config, run, resume):
            console.print(f"{path}: complete already")
            return run.results()
        if isinstance(config, NluConfig):
            prepared = prepare_classifier(config, run, console, export_lora)
        else:
            prepared = prepare_causal(stage, config, run, console, export_lora)
        greater = prepared.metric != "loss"
        begun = time.perf_counter()
        rows = run_trainer(
            prepared.trainer, config, run, console, metric=prepared.metric, greater=greater, at_start=stage != "nlu"
        )
        seconds = time.perf_counter() - begun
        model: Any = prepared.trainer.model
        saved = run.model if prepared.adapter is None else run.adapter
        model.save_pretrained(str(saved))
        prepared.tokenizer.save_pretrained(str(saved))
        if export_lora:
            export_as_lora(model, run.adapter, run.lora)
        result = {
            "stage": stage,
            "model": config.model.name or f"{config.model.init_config} (untrained)",
            "method": config.adapter.method,
            "rank": config.adapter.rank,
            "seed": config.training.seed,
            "metric": prepared.metric,
            "greater_is_better": greater,
            "best": best_row(rows, prepared.metric, greater),
            "first": rows[0],
            "last": rows[-1],
            "parameters": asdict(prepared.counts),
            "train_seconds": round(seconds, 1),
            "versions": {name: version(name) for name in PACKAGES},
            "needs_lorta": isinstance(prepared.adapter, (lorta.LortaConfig, lorta.OutputAdapterConfig)),
            **prepared.about,
        }
        write_text(run.card, model_card(config, result, [UNTRAINED] if config.model.init_config else []))
        write_text(run.results_file, json.dumps(result, indent=1) + "\n")
        return result


def load_base(
    config: StageConfig, run: LanguageRun, texts: Callable[[], Iterable[str]], *, classifier: bool
) -> tuple[str, PreTrainedTokenizerBase]:
    """Return the place of the base model and its tokenizer, with the random generators at the start of the run."""
    set_seed(config.training.seed)
    found = prepare_base(config.model, run.base, texts, classifier=classifier, reuse=run.exists())
    set_seed(config.training.seed)
    return found


# Text classification


def tokenize(tokenizer: PreTrainedTokenizerBase, task: Task, examples: list[Example], length: int) -> list[dict]:
    """Token ids and the label of every example, not padded.

    Class numbers are integers and scores floats: the type decides the model's loss.
    """
    columns = list(zip(*(example.texts for example in examples), strict=True))
    encoded = tokenizer(*(list(column) for column in columns), truncation=True, max_length=length)
    kind = int if task.labels else float
    return [
        {**{key: encoded[key][index] for key in encoded}, "label": kind(example.label)}
        for index, example in enumerate(examples)
    ]


def score(task: Task, prediction: EvalPrediction) -> dict[str, float]:
    """The task's metric from logits [n, classes] (regression: [n, 1]) and labels [n]."""
    logits = np.asarray(prediction.predictions)
    predicted = logits.argmax(-1) if task.labels else logits.squeeze(-1)
    return {task.metric_name: task.metric(np.asarray(predicted), np.asarray(prediction.label_ids))}


def parameter_groups(model: torch.nn.Module, config: NluConfig, heads: list[str]) -> list[dict[str, Any]]:
    """Adapter and head with learning rates of their own; no decay on vectors (biases, norms)."""
    optimizer = config.optimizer
    groups = []
    for is_head, lr in ((False, optimizer.lr), (True, optimizer.head_lr or optimizer.lr)):
        for decays in (True, False):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and in_modules(name, heads) == is_head and (parameter.ndim > 1) == decays
            ]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": optimizer.weight_decay * decays})
    return groups


def prepare_classifier(config: NluConfig, run: LanguageRun, console: Console, export_lora: bool) -> Prepared:
    """Task, model, adapter and a new head in a Trainer. Raises ConfigError, InputError."""
    task = find_task(config.task)
    train, held_out = load_task(config.task, config.data)
    place, tokenizer = load_base(
        config, run, lambda: (text for example in train for text in example.texts), classifier=True
    )
    model: Any = load_classifier(config.model, place, tokenizer, len(task.labels) or 1)
    heads = head_modules(model)
    adapter = adapter_config(
        config.adapter, model, task_type="SEQ_CLS", modules_to_save=heads,
        total_steps=total_steps(config.training, len(train)),
    )  # fmt: skip
    if export_lora:
        check_export(adapter)
    if adapter is None:
        train_without_adapter(model, config.adapter.method, heads)
    else:
        model = wrap(model, adapter)
    counts = count_parameters(model, heads)
    console.print(
        f"{task.folder}: {len(train):,} examples, {len(held_out):,} held out. {config.adapter.method}: "
        f"{counts.adapter:,} parameters, head {counts.head:,}, of {counts.total:,}. Seed {config.training.seed}."
    )
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config, heads), betas=(config.optimizer.beta1, config.optimizer.beta2)
    )
    trainer = Trainer(
        model=model,
        args=training_arguments(TrainingArguments, config, run),
        train_dataset=tokenize(tokenizer, task, train, config.model.max_length),
        eval_dataset=tokenize(tokenizer, task, held_out, config.model.max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=partial(score, task),
        optimizers=(optimizer, None),
    )
    about = {
        "task": config.task, "base": place, "labels": len(task.labels) or 1, "data": config.data.train or HUB_NAME,
        "train_examples": len(train), "validation_examples": len(held_out),
    }  # fmt: skip
    return Prepared(trainer, adapter, counts, tokenizer, task.metric_name, about)


# Instruction tuning and preference optimisation


class FirstLoss(TrainerCallback):
    """Before training, policy and reference are one model: every margin is 0 and the loss is ln 2, or the run stops."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Look at the evaluation before the first step."""
        if state.global_step == 0 and abs(metrics["eval_loss"] - math.log(2)) > FIRST_LOSS_TOLERANCE:
            raise StageFailed(
                f"the loss before the first step is {metrics['eval_loss']:.6f}, not ln 2 = {math.log(2):.6f}: the "
                "reference is not the model without its adapter"
            )


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


def prepare_causal(
    stage: str, config: SftConfig | DpoConfig, run: LanguageRun, console: Console, export_lora: bool
) -> Prepared:
    """Examples, language model and adapter in trl's trainer of the stage. Raises ConfigError, InputError."""
    length = config.model.max_length
    trainer_class: Any
    arguments_class: type[TrainingArguments]
    own: dict[str, Any]
    if isinstance(config, DpoConfig):
        shape = partial(convert_pairs, data=config.data, say=console.print)
        trainer_class, arguments_class, own = DPOTrainer, DpoArguments, {"beta": config.beta}
    else:
        shape = partial(convert, shape=instruction_example)
        trainer_class, arguments_class = SFTTrainer, SftArguments
        own = {"completion_only_loss": config.loss_on == "completion"}
    train, held_out = train_and_validation(config.data, shape)
    if own.get("completion_only_loss") and "text" in train[0]:
        raise ConfigError("plain text has no completion: --loss-on all")
    if config.adapter.method == "head":
        raise ConfigError("adapter 'head' is for a classifier: it has no meaning here")
    place, tokenizer = load_base(config, run, lambda: texts_of(train), classifier=False)
    templated = ensure_chat_template(tokenizer)
    model = load_causal_lm(config.model, place, tokenizer)
    adapter = adapter_config(
        config.adapter, model, task_type="CAUSAL_LM", total_steps=total_steps(config.training, len(train))
    )
    if export_lora:
        check_export(adapter)
    try:
        trainer: Any = trainer_class(
            model=model,
            args=training_arguments(arguments_class, config, run, max_length=length, **own),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(held_out),
            peft_config=adapter,
            callbacks=[FirstLoss()] if stage == "dpo" else [],
        )
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template does not take these examples: {one_line(error)}") from error
    except UserError:
        raise
    except ValueError as error:
        raise ConfigError(f"this model or adapter does not fit: {one_line(error)}") from error
    check_lengths(
        {"training": len(train), "held-out": len(held_out)},
        {"training": len(trainer.train_dataset), "held-out": len(trainer.eval_dataset)},
        length,
        console,
    )
    counts = count_parameters(trainer.model, ())
    console.print(
        f"{len(train):,} examples, {len(held_out):,} held out. {config.adapter.method}: {counts.adapter:,} trainable "
        f"parameters of {counts.total:,}. Seed {config.training.seed}."
    )
    if templated and isinstance(train[0].get("prompt"), list):
        console.print("The tokenizer has no chat template: a plain one is used and saved with it.")
    about = {
        "base": place, "data": config.data.train, "train_examples": len(train), "validation_examples": len(held_out),
        "prompt": prompt_form(train[0]),
    }  # fmt: skip
    return Prepared(trainer, adapter, counts, tokenizer, "loss", about)
