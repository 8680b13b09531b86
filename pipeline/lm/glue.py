"""GLUE tasks: columns, labels and the metric of each, from the official TSV files or the hub."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError
from pipeline.lm.hub import is_local
from pipeline.lm.metrics import accuracy, matthews, pearson
from pipeline.lm.records import (
    SUFFIXES,
    Record,
    limited,
    load_split,
    read_delimited,
    read_records,
    read_text,
    split_file,
    split_off,
)
from pipeline.lm.settings import DataSettings

HUB_NAME = "nyu-mll/glue"


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


def _examples(task: Task, records: Sequence[Record], source: str) -> list[Example]:
    return [to_example(task, record, f"{source}, example {number}") for number, record in enumerate(records, 1)]


def _from_file(task: Task, file: Path) -> list[Example]:
    if task.header is not None and file.suffix == ".tsv":
        records = read_delimited(file, read_text(file), "\t", task.header)
    else:
        records = read_records(file)
    return _examples(task, records, str(file))


def _task_folder(task: Task, folder: Path) -> Path:
    """``folder``, or the directory of the task in it; whichever has the training examples."""
    if split_file(folder, "train"):
        return folder
    for child in sorted(folder.iterdir()):
        named = child.is_dir() and child.name.lower() in (task.folder.lower(), task.folder.lower().replace("-", ""))
        if named and split_file(child, "train"):
            return child
    raise InputError(f"{folder}: no train.* ({', '.join(SUFFIXES)}) in it, nor in a directory {task.folder}")


def load_task(name: str, data: DataSettings) -> tuple[list[Example], list[Example]]:
    """Training and validation examples of a task; without ``data.train`` from the hub.

    Raises ConfigError, InputError.
    """
    task = find_task(name)
    source = data.train or HUB_NAME
    held_out: list[Example] | None = None
    if is_local(source):
        path = Path(source)
        train_file = path
        if path.is_dir():
            path = _task_folder(task, path)
            train_file = split_file(path, "train")
            held_out_file = split_file(path, "validation")
            held_out = None if held_out_file is None else _from_file(task, held_out_file)
        train = _from_file(task, train_file)
    else:
        subset = task_key(name) if source == HUB_NAME else None
        records = load_split(source, "train", subset)
        if not records:
            raise InputError(f"{source}: has no split train with examples in it")
        train = _examples(task, records, source)
        records = load_split(source, "validation", subset)
        held_out = None if records is None else _examples(task, records, source)
    if data.validation:
        file = Path(data.validation)
        if not file.is_file():
            raise InputError(f"{file}: no such file")
        held_out = _from_file(task, file)
    if not held_out:
        train, held_out = split_off(train, data.validation_fraction)
    return limited(train, data.limit), limited(held_out, data.validation_limit)
