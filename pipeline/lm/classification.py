"""One run of text classification or regression: a task, a model, an adapter, a seed."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pipeline.lm.adapters import (
    adapter_config,
    check_export,
    count_parameters,
    in_modules,
    train_without_adapter,
    wrap,
)
from pipeline.lm.engine import total_steps, training_arguments
from pipeline.lm.glue import HUB_NAME, Example, Task, find_task, load_task
from pipeline.lm.models import head_modules, load_classifier, prepare_base
from pipeline.lm.outcome import train_and_write
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import NluConfig


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: list[Example], length: int) -> list[dict[str, Any]]:
    """Token ids and the label of every example, not padded."""
    columns = list(zip(*(example.texts for example in examples), strict=True))
    encoded = tokenizer(*(list(column) for column in columns), truncation=True, max_length=length)
    return [
        {**{key: encoded[key][index] for key in encoded}, "label": example.label}
        for index, example in enumerate(examples)
    ]


def score(task: Task, prediction: EvalPrediction) -> dict[str, float]:
    """The task's metric from logits [n, classes] (regression: [n, 1]) and labels [n]."""
    logits = prediction.predictions
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


def train_classifier(config: NluConfig, path: Path, console: Console, *, export_lora: bool = False) -> dict[str, Any]:
    """Train and evaluate; returns what ``results.json`` holds.

    Raises:
        ConfigError, InputError: wrong settings or files.
        StageFailed, Interrupted: see ``run_trainer``.
    """
    run, task = LanguageRun(path), find_task(config.task)
    train, held_out = load_task(config.task, config.data)
    set_seed(config.training.seed)
    place, tokenizer = prepare_base(
        config.model, run.base, lambda: (text for example in train for text in example.texts),
        classifier=True, reuse=run.exists(),
    )  # fmt: skip
    set_seed(config.training.seed)
    model = load_classifier(config.model, place, tokenizer, len(task.labels) or 1)
    heads = head_modules(model)
    adapter = adapter_config(
        config.adapter,
        model,
        task_type="SEQ_CLS",
        modules_to_save=heads,
        total_steps=total_steps(config.training, len(train)),
    )
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
        train_dataset=_typed(task, tokenize(tokenizer, train, config.model.max_length)),
        eval_dataset=_typed(task, tokenize(tokenizer, held_out, config.model.max_length)),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=partial(score, task),
        optimizers=(optimizer, None),
    )
    return train_and_write(
        trainer, config, run, console, stage="nlu", metric=task.metric_name, greater=True, counts=counts,
        adapter=adapter, tokenizer=tokenizer, export_lora=export_lora,
        about={
            "task": config.task, "base": place, "labels": len(task.labels) or 1,
            "data": config.data.train or HUB_NAME, "train_examples": len(train), "validation_examples": len(held_out),
        },
    )  # fmt: skip


def _typed(task: Task, features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Class numbers as integers, scores as floats: the type decides the model's loss."""
    kind = int if task.labels else float
    return [{**feature, "label": kind(feature["label"])} for feature in features]
