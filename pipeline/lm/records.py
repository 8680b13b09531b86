"""Examples from files (JSON, JSONL, Parquet, TSV, CSV) or from the hub, as lists of dictionaries."""

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_prep.files.bounded_reading import parse_json, read_parquet, read_table
from pipeline.lm.errors import InputError, is_local, named, one_line
from pipeline.lm.settings import DataSettings

Record = dict[str, Any]
Example = TypeVar("Example")
Convert = Callable[[list[Record], str], list[Example]]
"""(records as read, their source for messages) -> examples"""

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv", ".csv")
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev", "val", "valid", "eval", "validation_matched", "dev_matched", "test"),
}
"""What a split is called, as a file's stem or on the hub; the first that exists is taken. MNLI has the matched ones."""


def read_records(path: Path, header: Sequence[str] | None = None) -> list[Record]:
    """The examples of one file; ``header`` for TSV without one. Raises InputError that names file and line."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a file of examples ends in one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        records = _read_parquet(path)
    elif suffix in (".tsv", ".csv"):
        records = _read_delimited(path, suffix == ".tsv", header if suffix == ".tsv" else None)
    else:
        records = _read_json(path)
    if not records:
        raise InputError(f"{path}: no examples in it")
    return records


def _read_text(path: Path) -> str:
    """All of a text file, without a byte order mark. Raises InputError, OSError."""
    try:
        return read_table(path, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _read_json(path: Path) -> list[Record]:
    """An object per line, or in a JSON file one list of objects."""
    text = _read_text(path)
    is_list = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    found: list[tuple[int, Any]] = []
    for number, piece in enumerate([text] if is_list else text.split("\n"), 1):
        try:
            if piece.strip():
                found.append((number, parse_json(piece)))
        except json.JSONDecodeError as error:
            line, expected = (error.lineno, "") if is_list else (number, " (one object per line expected)")
            raise InputError(f"{path}, line {line}: not JSON: {error.msg}{expected}") from error
    if is_list:
        found = list(enumerate(found[0][1], 1))
    for number, record in found:
        if not isinstance(record, dict):
            place, kind = "entry" if is_list else "line", type(record).__name__
            raise InputError(f"{path}, {place} {number}: an example is an object with named fields, found {kind}")
    return [record for _, record in found]


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow

    try:
        return read_parquet(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Arrow's own have no number
            raise
        raise InputError(f"{path}: not Parquet: {one_line(error)}") from error


def _read_delimited(path: Path, tabs: bool, header: Sequence[str] | None) -> list[Record]:
    """Rows of a TSV (quotes are characters, as in GLUE) or CSV file."""
    text = _read_text(path)
    if tabs:
        reader = csv.reader((line.rstrip("\r") for line in text.split("\n")), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader if row not in ([], [""])]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: an open quote, or no such table") from error
    if header is None:
        header = rows.pop(0)[1] if rows else ()
    if len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: two columns of one name: {', '.join(header)}")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} columns, expected {len(header)}: {', '.join(header)}")
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def load_split(
    source: str, split: str, subset: str | None = None, header: Sequence[str] | None = None
) -> tuple[list[Record], str] | None:
    """The examples of a split of ``source``, and what messages call the place they are from.

    ``source`` is a file, which has only the split ``train``, a directory of files named after splits (or of
    ``datasets``), or a hub name. ``None`` where there is no such split. Raises InputError.
    """
    path = Path(source)
    if not is_local(source):
        if path.suffix.lower() in SUFFIXES:
            raise InputError(f"{source}: no such file")
        return _from_datasets(source, split, subset)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _from_datasets(source, split)
    file = split_file(path, split) if path.is_dir() else path if split == "train" else None
    return None if file is None else (read_records(file, header), str(file))


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a directory: train.jsonl, dev.tsv, validation.parquet, ..."""
    candidates = (folder / f"{stem}{suffix}" for stem in SPLIT_NAMES[split] for suffix in SUFFIXES)
    return next((file for file in candidates if file.is_file()), None)


def _from_datasets(name: str, split: str, subset: str | None = None) -> tuple[list[Record], str] | None:
    """A split of a hub name, or of a directory that ``datasets`` has written by ``save_to_disk``."""
    import datasets

    with named(name, "dataset"):
        saved = datasets.load_from_disk(name) if is_local(name) else None
        if isinstance(saved, datasets.Dataset):
            saved = {"train": saved}
        available = datasets.get_dataset_split_names(name, subset) if saved is None else saved
        found = next((candidate for candidate in SPLIT_NAMES[split] if candidate in available), None)
        if found is None:
            return None
        chosen = datasets.load_dataset(name, subset, split=found) if saved is None else saved[found]
        return chosen.to_list(), name


def train_and_validation(
    data: DataSettings, convert: Convert[Example], subset: str | None = None, header: Sequence[str] | None = None
) -> tuple[list[Example], list[Example]]:
    """The two sets of examples that ``data`` names, converted. Raises InputError when one cannot be read or is empty.

    ``subset`` is that of a hub name; ``header`` that of TSV files without one.
    """
    if not data.train:
        raise InputError("no training examples: give --data FILE, directory or hub name")
    train = load_split(data.train, "train", subset, header)
    if train is None:
        raise InputError(
            f"{data.train}: no training examples: a split train, or a file train.* ({', '.join(SUFFIXES)}) is expected"
        )
    if data.validation:
        held_out = load_split(data.validation, "train", None, header)
        if held_out is None:
            raise InputError(f"{data.validation}: no file train.* with examples in it")
    else:
        held_out = load_split(data.train, "validation", subset, header)
    for found in (train, held_out):
        if found is not None and not found[0]:
            raise InputError(f"{found[1]}: no examples in it")
    examples = convert(*train)  # before they are split: messages count them as the file does
    if held_out is None:
        examples, others = split_off(examples, data.validation_fraction)
    else:
        others = convert(*held_out)
    return examples[: data.limit or None], others[: data.validation_limit or None]


def split_off(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """A fixed random share of the examples as validation set, in the order of the file. Raises InputError."""
    count = round(len(examples) * fraction)
    if not 0 < count < len(examples):
        raise InputError(f"data.validation_fraction {fraction} of {len(examples)} examples leaves an empty set")
    chosen = set(random.Random(0).sample(range(len(examples)), count))
    return (
        [example for index, example in enumerate(examples) if index not in chosen],
        [example for index, example in enumerate(examples) if index in chosen],
    )
