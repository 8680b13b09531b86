"""GLUE tasks: columns, labels and the metric of each, from the official TSV files or the hub."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, is_local
from pipeline.lm.records import SUFFIXES, Record, split_file, train_and_validation
from pipeline.lm.settings import DataSettings

HUB_NAME = "nyu-mll/glue"


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of equal class numbers; both [n]."""
    return float(np.mean(predicted == true))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation of two classes 0 and 1; both [n]. 0 where one side has a single class, as scikit-learn."""
    predicted, true = predicted.astype(bool), true.astype(bool)
    tp, tn = np.sum(predicted & true), np.sum(~predicted & ~true)
    fp, fn = np.sum(predicted & ~true), np.sum(~predicted & true)
    product = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    return float((float(tp) * tn - float(fp) * fn) / np.sqrt(product)) if product else 0.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation; both [n]. 0 where one side is constant: a collapsed model predicts one number."""
    a, b = predicted - predicted.mean(dtype=np.float64), true - true.mean(dtype=np.float64)
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else 0.0


@dataclass(frozen=True)
class Task:
    """One task."""

    folder: str
    """Directory name in the official archive."""
    texts: tuple[tuple[str, ...], ...]
    """Columns of the one or two texts; alternatives, the first that an example has."""
    labels: tuple[str, ...] = ("0", "1")
    """Names in the order of the hub's class numbers; empty: regression."""
    label_columns: tuple[str, ...] = ("label",)
    metric_name: str = "accuracy"
    metric: Callable[[np.ndarray, np.ndarray], float] = accuracy
    header: tuple[str, ...] | None = None
    """Columns of a TSV file that has no header."""


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": Task(
        "CoLA", (("sentence",),), metric_name="matthews", metric=matthews,
        header=("source", "label", "star", "sentence"),
    ),
    "sst2": Task("SST-2", (("sentence",),)),
    "mrpc": Task("MRPC", (("#1 String", "#2 String"), PAIR), label_columns=("Quality", "label")),
    "stsb": Task("STS-B", (PAIR,), (), ("score", "label"), "pearson", pearson),
    "qnli": Task("QNLI", (("question", "sentence"),), ENTAILMENT),
    "rte": Task("RTE", (PAIR,), ENTAILMENT),
    "qqp": Task("QQP", (("question1", "question2"),), label_columns=("is_duplicate", "label")),
    "mnli": Task(
        "MNLI", (PAIR, ("premise", "hypothesis")), ("entailment", "neutral", "contradiction"), ("gold_label", "label"),
    ),
    "wnli": Task("WNLI", (PAIR,)),
}  # fmt: skip
"""The first six are those of the LoRTA paper's Table 1."""


@dataclass(frozen=True)
class Example:
    """One or two texts and the label: a class number, or a score."""

    texts: tuple[str, ...]
    label: float


def task_key(name: str) -> str:
    """``stsb`` for ``STS-B`` and the like; a name of no task is treated in the same way."""
    return "".join(character for character in name.lower() if character.isalnum())


def find_task(name: str) -> Task:
    """The task of a name such as ``stsb`` or ``STS-B``. Raises ConfigError."""
    if task_key(name) not in TASKS:
        raise ConfigError(f"task {name!r} is unknown: one of {', '.join(TASKS)}")
    return TASKS[task_key(name)]


def to_example(task: Task, record: Record, where: str) -> Example:
    """The example of one record. Raises InputError that says ``where`` and which columns were expected."""
    texts = next((names for names in task.texts if all(name in record for name in names)), None)
    column = next((name for name in task.label_columns if name in record), None)
    if texts is None or column is None:
        expected = " or ".join(", ".join(names) for names in task.texts)
        found = ", ".join(map(str, record))
        raise InputError(f"{where}: columns {expected} and {' or '.join(task.label_columns)} expected, found {found}")
    label = record[column]
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = float(task.labels.index(label)) if label in task.labels else float("nan")
    classes = len(task.labels)
    if not np.isfinite(number) or (classes and number not in range(classes)):
        expected = f"one of {', '.join(task.labels)} or a class number" if classes else "a number"
        raise InputError(f"{where}: label {label!r} is not {expected}")
    values = tuple(record[name] for name in texts)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{where}: {', '.join(texts)} must be text, found {values!r}")
    try:
        "".join(values).encode()
    except UnicodeEncodeError as error:  # half of a pair, which JSON can hold and no tokenizer takes
        raise InputError(f"{where}: not Unicode text: {error}") from error
    return Example(values, number)


def _task_folder(task: Task, folder: Path) -> Path:
    """``folder``, or the directory of the task in it; whichever has the training examples."""
    names = (task.folder.lower(), task.folder.lower().replace("-", ""))
    inner = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name.lower() in names]
    for candidate in (folder, *inner):
        if split_file(candidate, "train"):
            return candidate
    raise InputError(f"{folder}: no train.* ({', '.join(SUFFIXES)}) in it, nor in a directory {task.folder}")


def load_task(name: str, data: DataSettings) -> tuple[list[Example], list[Example]]:
    """Training and validation examples of a task; without ``data.train`` from the hub.

    Raises ConfigError, InputError.
    """
    task, source = find_task(name), data.train or HUB_NAME
    if is_local(source) and Path(source).is_dir():
        source = str(_task_folder(task, Path(source)))

    def convert(records: list[Record], where: str) -> list[Example]:
        return [to_example(task, record, f"{where}, example {number}") for number, record in enumerate(records, 1)]

    subset = task_key(name) if source == HUB_NAME else None
    return train_and_validation(replace(data, train=source), convert, subset, task.header)
