"""Examples from files (JSON, JSONL, Parquet, TSV, CSV) or from the hub, as lists of dictionaries."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.files.bounded_reading import parse_json, read_parquet, read_table
from pipeline.lm.errors import InputError, one_line
from pipeline.lm.hub import is_local, named
from pipeline.lm.settings import DataSettings

Record = dict[str, Any]
Convert = Callable[[list[Record], str], list[Record]]
"""(records as read, their source for messages) -> examples"""

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv", ".csv")
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev", "val", "valid", "eval", "validation_matched", "dev_matched", "test"),
}
"""What a split is called, as a file's stem or on the hub; the first that exists is taken. MNLI has the matched ones."""


def read_records(path: Path) -> list[Record]:
    """The examples of one file. Raises InputError that names file and line."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a file of examples ends in one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return _read_parquet(path)
    text = read_text(path)
    if suffix in (".tsv", ".csv"):
        return read_delimited(path, text, "\t" if suffix == ".tsv" else ",")
    if suffix == ".json" and text.lstrip().startswith("["):
        try:
            records = parse_json(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
        lines: Sequence[tuple[int, Any]] = list(enumerate(records, 1))
        place = "entry"
    else:
        lines, place = list(_json_lines(path, text)), "line"
    for number, record in lines:
        if not isinstance(record, dict):
            found = type(record).__name__
            raise InputError(f"{path}, {place} {number}: an example is an object with named fields, found {found}")
    if not lines:
        raise InputError(f"{path}: no examples in it")
    return [record for _, record in lines]


def read_text(path: Path) -> str:
    """All of a text file, without a byte order mark. Raises InputError, OSError."""
    try:
        return read_table(path, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error.msg} (one object per line expected)") from error


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow

    try:
        records = read_parquet(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Arrow's own have no number
            raise
        raise InputError(f"{path}: not Parquet: {one_line(error)}") from error
    if not records:
        raise InputError(f"{path}: no examples in it")
    return records


def read_delimited(path: Path, text: str, delimiter: str, header: Sequence[str] | None = None) -> list[Record]:
    """Rows of a TSV (quotes are characters, as in GLUE) or CSV file; ``header`` for one that has none.

    Raises InputError that names file and line.
    """
    if delimiter == "\t":
        reader = csv.reader((line.rstrip("\r") for line in text.split("\n")), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if row not in ([], [""])]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: an open quote, or no such table") from error
    if header is None and rows:
        header = rows.pop(0)[1]
    if header and len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: two columns of one name: {', '.join(header)}")
    if not rows:
        raise InputError(f"{path}: no examples in it")
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} columns, expected {len(header)}: {', '.join(header)}")
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def load_split(source: str, split: str, subset: str | None = None) -> list[Record] | None:
    """The examples of a split of ``source``: a file, a directory of files named after splits (or of ``datasets``), or a
    hub name.

    A file has only the split ``train``. ``None`` where there is no such split. Raises InputError.
    """
    if not is_local(source):
        return _from_hub(source, split, subset)
    path = Path(source)
    if path.is_file():
        return read_records(path) if split == "train" else None
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _saved_dataset(path, split)
    file = split_file(path, split)
    return None if file is None else read_records(file)


def _saved_dataset(path: Path, split: str) -> list[Record] | None:
    """A split of what ``datasets`` has written by ``save_to_disk``."""
    import datasets

    with named(str(path), "dataset"):
        found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.Dataset):
        found = {"train": found}
    name = next((candidate for candidate in SPLIT_NAMES[split] if candidate in found), None)
    return None if name is None else found[name].to_list()


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a directory: train.jsonl, dev.tsv, validation.parquet, ..."""
    for stem in SPLIT_NAMES[split]:
        for suffix in SUFFIXES:
            if (file := folder / f"{stem}{suffix}").is_file():
                return file
    return None


def _from_hub(name: str, split: str, subset: str | None) -> list[Record] | None:
    import datasets

    with named(name, "dataset"):
        available = datasets.get_dataset_split_names(name, subset)
        found = next((candidate for candidate in SPLIT_NAMES[split] if candidate in available), None)
        return None if found is None else datasets.load_dataset(name, subset, split=found).to_list()


def train_and_validation(data: DataSettings, convert: Convert) -> tuple[list[Record], list[Record]]:
    """The two sets of examples that ``data`` names, converted. Raises InputError when one cannot be had or is empty."""
    if not data.train:
        raise InputError("no training examples: give --data FILE, directory or hub name")
    train = load_split(data.train, "train")
    if train is None:
        raise InputError(f"{data.train}: no training examples: a file train.* ({', '.join(SUFFIXES)}) is expected")
    source = data.validation or data.train
    held_out = load_split(source, "train" if data.validation else "validation")
    if data.validation and held_out is None:
        raise InputError(f"{source}: no file train.* with examples in it")
    if not train or held_out == []:
        raise InputError(f"{source if train else data.train}: no examples in it")
    train = convert(train, data.train)  # before they are split: messages count them as the file does
    if held_out is None:
        train, held_out = split_off(train, data.validation_fraction)
    else:
        held_out = convert(held_out, source)
    return limited(train, data.limit), limited(held_out, data.validation_limit)


def split_off(records: list[Record], fraction: float) -> tuple[list[Record], list[Record]]:
    """A fixed random share of the examples as validation set, in the order of the file. Raises InputError."""
    count = round(len(records) * fraction)
    if not 0 < count < len(records):
        raise InputError(f"data.validation_fraction {fraction} of {len(records)} examples leaves an empty set")
    chosen = set(random.Random(0).sample(range(len(records)), count))
    return (
        [record for index, record in enumerate(records) if index not in chosen],
        [record for index, record in enumerate(records) if index in chosen],
    )


def limited(records: list[Record], limit: int) -> list[Record]:
    """The first ``limit`` examples; 0: all."""
    return records[:limit] if limit else records
