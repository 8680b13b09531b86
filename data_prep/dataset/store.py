"""The dataset directory: records in shards, an index over them, the ledger, a card. See docs/data-format.md."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.dataset.ledger import LedgerRow, read_ledger, write_ledger
from data_prep.dataset.shards import RECORDS_PER_SHARD, ShardReader, check_storable, save_shard
from data_prep.files.atomic import move_directory, partial_path
from data_prep.files.bounded_reading import read_json, read_parquet
from data_prep.files.checksums import damaged_files, write_checksums
from data_prep.files.command_line import program
from data_prep.files.errors import UserError
from data_prep.files.text import is_file_name
from data_prep.structure.record import ProteinRecord

_STATED = ("id", "split", "length", "sequence", "warnings", "shard", "residue_start", "atom_start", "n_atoms")
_USUAL_ID = "^[A-Za-z0-9_][A-Za-z0-9._+%-]*$"
_NOT_NEGATIVE = ("length", "shard", "residue_start", "atom_start", "n_atoms")


def checked_index(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of ``schema`` in its types, others after them.

    Raises ``ValueError``, whose text goes on after the file's name: a column is missing, of another type, blank or
    negative where it must not be; an id is there twice, or is no name of a file inside a directory.
    """
    for field in schema:
        if field.name not in table.schema.names:
            raise ValueError(f"has no column {field.name}")
        place = table.schema.get_field_index(field.name)
        try:
            table = table.set_column(place, field, table.column(place).cast(field.type))
        except pa.ArrowException as error:
            found = table.schema.field(place).type
            reason = str(error).splitlines()[0]
            raise ValueError(f"has {found} as {field.name}, expected {field.type} ({reason})") from None
    for name in _STATED:
        if table[name].null_count:
            raise ValueError(f"has a blank {name}")
    for name in _NOT_NEGATIVE:
        if len(table) and pc.min(table[name]).as_py() < 0:
            raise ValueError(f"has a negative {name}")
    ids = table["id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        twice = pc.value_counts(ids).to_pylist()
        raise ValueError(f"has the id {next(v['values'] for v in twice if v['counts'] > 1)!r} twice")
    # Of those that are not as pipeline.prepare writes them, the rule decides one by one.
    unusual = pc.or_(pc.invert(pc.match_substring_regex(ids, _USUAL_ID)), pc.greater(pc.binary_length(ids), 100))
    for record_id in ids.filter(unusual).to_pylist():
        if not is_file_name(record_id):
            raise ValueError(f"has the id {record_id[:40]!a}, which is no name of a file")
    return table


FORMAT_NAME = "lorta-fold dataset"
FORMAT_VERSION = 1

INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),  # train, val, test or none
        ("length", pa.int32()),
        ("n_observed", pa.int32()),  # residues whose alpha carbon is stated
        ("cluster", pa.int32()),
        ("cluster_size", pa.int32()),
        ("nearest_train_id", pa.string()),  # of a val or test chain, null where none is similar
        ("nearest_train_identity", pa.float32()),
        ("chain_id", pa.string()),
        ("sequence", pa.string()),
        ("resolution", pa.float64()),
        ("method", pa.string()),
        ("deposition_date", pa.string()),
        ("release_date", pa.string()),
        ("source_file", pa.string()),
        ("source_sha256", pa.string()),
        ("model_number", pa.int32()),
        ("warnings", pa.list_(pa.string())),
        ("shard", pa.int32()),
        ("residue_start", pa.int64()),
        ("atom_start", pa.int64()),
        ("n_atoms", pa.int32()),
    ]
)
_RECORD_COLUMNS = (
    *("chain_id", "sequence", "resolution", "method", "deposition_date", "release_date"),
    *("source_file", "source_sha256", "model_number"),
)
_PLACEMENT_COLUMNS = ("split", "cluster", "cluster_size", "nearest_train_id", "nearest_train_identity")
_KNOWN_WHEN_ADDED = pa.schema([column for column in INDEX_SCHEMA if column.name not in _PLACEMENT_COLUMNS])


class DatasetError(UserError):
    """A directory that is not a dataset, or a dataset that cannot be written."""


@dataclass(frozen=True)
class Placement:
    """Where a record belongs: its split, its cluster, and for a validation chain the nearest training chain."""

    split: str = "train"
    cluster: int = 0
    cluster_size: int = 1
    nearest_train_id: str | None = None
    nearest_train_identity: float | None = None


def check_target(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Raise ``DatasetError`` where no dataset may be written: something is there already, and it is not an empty
    directory, nor a dataset that may be overwritten.
    """
    target = Path(path)
    if os.path.lexists(target) and not _is_empty_directory(target):
        if not (target / "dataset.json").is_file():
            raise DatasetError(
                f"{target}: is not a dataset (no dataset.json), so it is not overwritten; give another --out"
            )
        if not overwrite:
            raise DatasetError(
                f"{target}: is a finished dataset; --update adds what is new in the input, --overwrite makes it anew "
                "from all files, another --out leaves it"
            )


class DatasetWriter:
    """Writes a dataset beside its final place and moves it there at the end: a half-written one never has the name.

    Use as a context manager: ``add`` records in a fixed order, then ``finish``; leaving without ``finish`` removes
    what was written. Memory holds one shard and the index as a table. Raises ``DatasetError`` if ``path`` is there
    already, unless ``overwrite`` is true and it is a dataset or an empty directory. ``work`` is where it is written
    until then, a directory on the same file system whose content is lost; by default one of this process beside
    ``path``.
    """

    def __init__(self, path: str | os.PathLike, *, overwrite: bool = False, work: Path | None = None) -> None:
        self.path = Path(path)
        check_target(self.path, overwrite=overwrite)
        self._work = work or partial_path(self.path)
        try:
            if self._work.is_dir():
                shutil.rmtree(self._work)  # of a run that was killed
            (self._work / "shards").mkdir(parents=True)
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._pending: list[ProteinRecord] = []
        self._residues = self._atoms = self._n_shards = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def add(self, record: ProteinRecord) -> None:
        """Append a record. Raises ``ValueError`` for an id seen before or arrays that the format cannot hold."""
        if record.id in self._ids:
            raise DatasetError(f"{self.path}: two records have the id {record.id}")
        if not is_file_name(record.id):
            raise DatasetError(f"{self.path}: the id {record.id[:40]!a} cannot be the name of a file")
        check_storable(record)
        self._ids.add(record.id)
        n_atoms = int(record.atom37_mask.sum())
        row = {name: getattr(record, name) for name in _RECORD_COLUMNS}
        row |= {"id": record.id, "length": len(record), "n_observed": int(record.ca_mask.sum())}
        row |= {"warnings": list(record.warnings), "shard": self._n_shards, "n_atoms": n_atoms}
        row |= {"residue_start": self._residues, "atom_start": self._atoms}
        self._rows.append(row)
        self._pending.append(record)
        self._residues += len(record)
        self._atoms += n_atoms
        if len(self._pending) == RECORDS_PER_SHARD:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            save_shard(self._work / shard_name(self._n_shards), self._pending)
            self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=_KNOWN_WHEN_ADDED))
            self._pending, self._rows = [], []
            self._residues = self._atoms = 0
            self._n_shards += 1

    def finish(
        self,
        placements: Mapping[str, Placement],
        *,
        ledger: Iterable[LedgerRow] = (),
        settings: Mapping[str, Any] | None = None,
        extra_warnings: Mapping[str, Sequence[str]] | None = None,
        pages: Callable[[pa.Table, list[LedgerRow], dict[str, Any]], Mapping[str, str]] | None = None,
    ) -> None:
        """Write index, ledger and card, and move the dataset to its place.

        ``placements`` by record id, all of them; ``settings`` is anything that JSON can hold; ``extra_warnings`` by
        record id are appended to the records' own. ``pages(index, ledger, description)`` gives further text files
        by name.
        """
        if not self._ids:
            raise DatasetError(f"{self.path}: no records to write")
        self._flush()
        index = _index(self._batches, placements, extra_warnings or {})
        pq.write_table(index.replace_schema_metadata({"tool": program()}), self._work / "index.parquet")
        rows = list(ledger)
        write_ledger(self._work / "ledger.csv", rows)
        description = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "tool": program(),
            "records": len(index),
            "shards": self._n_shards,
            "settings": dict(settings or {}),
        }
        (self._work / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
        (self._work / "README.md").write_text(_card(index, description))
        for name, text in (pages(index, rows, description) if pages is not None else {}).items():
            (self._work / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        write_checksums(self._work)
        move_directory(self._work, self.path)


def _index(
    batches: Sequence[pa.RecordBatch], placements: Mapping[str, Placement], extra_warnings: Mapping[str, Sequence[str]]
) -> pa.Table:
    """The index of ``INDEX_SCHEMA`` from what was known as records were added and what was decided about all."""
    known = pa.Table.from_batches(batches)
    ids = known["id"].to_pylist()
    columns = {name: known[name] for name in known.schema.names}
    for name in _PLACEMENT_COLUMNS:
        columns[name] = pa.array(
            (getattr(placements[record_id], name) for record_id in ids), INDEX_SCHEMA.field(name).type
        )
    if extra_warnings:
        own = zip(ids, known["warnings"].to_pylist(), strict=True)
        columns["warnings"] = [[*warnings, *extra_warnings.get(record_id, ())] for record_id, warnings in own]
    return pa.table(columns, schema=INDEX_SCHEMA)


class StructureDataset:
    """Read access to a dataset directory. Safe to hand to worker processes; files are opened on first use."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.description = _read_description(self.path)
        """The content of dataset.json."""
        try:
            self.table: pa.Table = checked_index(read_parquet(self.path / "index.parquet"), INDEX_SCHEMA)
            """The index, one row per record, columns as in ``INDEX_SCHEMA``."""
        except (OSError, pa.ArrowException) as error:
            reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
            raise DatasetError(f"{self.path}: its index.parquet cannot be read ({reason})") from None
        except ValueError as error:
            raise DatasetError(f"{self.path}: its index.parquet {error}") from None
        self._shards: dict[int, ShardReader] = {}

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {record_id: i for i, record_id in enumerate(self.ids())}

    def __len__(self) -> int:
        return self.table.num_rows

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._row_of

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}

    def ids(self, split: str | None = None) -> list[str]:
        """Record ids in the order of the index, of one split ('train', 'val', 'test', 'none') or of all."""
        ids = self.table["id"]
        return (ids if split is None else ids.filter(pc.equal(self.table["split"], split))).to_pylist()

    def column(self, name: str, ids: Sequence[str]) -> list[Any]:
        """A column of the index (see ``INDEX_SCHEMA``) for these records. Raises ``KeyError`` for an unknown id."""
        places = pa.array([self._place(record_id) for record_id in ids], pa.int64())  # typed, for no ids too
        return self.table[name].take(places).to_pylist()

    def row(self, record_id: str) -> dict[str, Any]:
        """The index row of a record, by column name. Raises ``KeyError`` for an unknown id."""
        return self.table.slice(self._place(record_id), 1).to_pylist()[0]

    def _place(self, record_id: str) -> int:
        if record_id not in self._row_of:
            raise KeyError(f"{self.path}: no record {record_id}")
        return self._row_of[record_id]

    def load(self, record_id: str) -> ProteinRecord:
        """The record exactly as it was written. Raises ``KeyError`` for an unknown id."""
        row = self.row(record_id)
        residues = slice(row["residue_start"], row["residue_start"] + row["length"])
        atoms = slice(row["atom_start"], row["atom_start"] + row["n_atoms"])
        arrays = self._shard(row["shard"]).arrays(residues, atoms)
        return ProteinRecord(
            id=record_id, warnings=tuple(row["warnings"]), **{name: row[name] for name in _RECORD_COLUMNS}, **arrays
        )

    def _shard(self, number: int) -> ShardReader:
        if number not in self._shards:
            path = self.path / shard_name(number)
            try:
                self._shards[number] = ShardReader(path)
            except (OSError, ValueError) as error:
                raise DatasetError(f"{path}: cannot be read ({error})") from None
        return self._shards[number]


def shard_name(number: int) -> str:
    """Path of a shard inside its dataset."""
    return f"shards/{number:05d}.safetensors"


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = read_json(path / "dataset.json")
    except FileNotFoundError:
        what = "is not a dataset (no dataset.json)" if path.is_dir() else "no such directory"
        raise DatasetError(f"{path}: {what}; make one with: python -m pipeline.prepare") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: its dataset.json cannot be read ({error})") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT_NAME:
        raise DatasetError(f"{path}: its dataset.json does not describe a {FORMAT_NAME}")
    if description.get("format_version") != FORMAT_VERSION:
        found = description.get("format_version")
        raise DatasetError(f"{path}: has format version {found}, this program reads version {FORMAT_VERSION}")
    return description


def _card(index: pa.Table, description: Mapping[str, Any]) -> str:
    lengths = np.array(index["length"])
    splits = index["split"].to_pylist()
    counts = ", ".join(f"{splits.count(name)} {name}" for name in dict.fromkeys(sorted(splits, reverse=True)))
    return f"""# Protein structure dataset

{len(lengths)} protein chains ({counts}) of {lengths.min()} to {lengths.max()} residues, median {np.median(lengths):g}.
Written by {description["tool"]}, format version {description["format_version"]}.

- `index.parquet`: one row per chain (id, split, cluster, sequence, resolution, dates, source, place in the shards)
- `shards/*.safetensors`: coordinates in thousandths of an angstrom, masks, numbering, B-factors
- `ledger.csv`: what became of every input file and chain, with the reason
- `dataset.json`: format version and the settings that made it
- `SHA256SUMS`: checksums, for `python -m pipeline.prepare --verify` or `sha256sum -c`

Read it with `data_prep.dataset.StructureDataset`, or from any language with the description in `docs/data-format.md`
of the project.
"""


def problems(path: str | os.PathLike) -> list[str]:
    """Everything that is wrong with a dataset, one line each; empty if it is sound.

    Raises ``DatasetError`` for a directory that is no dataset.
    """
    dataset = StructureDataset(path)
    found = damaged_files(Path(path))
    ids = dataset.ids()
    if len(ids) != dataset.description.get("records"):
        found.append(
            f"{path}: index.parquet has {len(ids)} rows, dataset.json says {dataset.description.get('records')}"
        )
    for record_id in ids:
        found += _record_problems(dataset, record_id)
    try:
        ledger = read_ledger(Path(path) / "ledger.csv")
    except (OSError, ValueError) as error:
        return [*found, str(error)]
    accepted = {row.id for row in ledger if row.status == "accepted"}
    if accepted and accepted != set(ids):
        different = sorted(accepted ^ set(ids))
        found.append(f"{path}: ledger.csv and index.parquet disagree about {len(different)} ids, as {different[0]}")
    return found


def _record_problems(dataset: StructureDataset, record_id: str) -> list[str]:
    try:
        record = dataset.load(record_id)
        check_storable(record)
    except (DatasetError, ValueError, IndexError) as error:
        return [f"{dataset.path}: record {record_id} cannot be loaded ({error})"]
    row, wrong = dataset.row(record_id), []
    if len(record) != row["length"] or int(record.ca_mask.sum()) != row["n_observed"]:
        wrong.append(f"{dataset.path}: record {record_id} has not the length or observed residues of its index row")
    return wrong
