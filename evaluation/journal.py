"""``targets.jsonl``: every finished target of a run, so that a stopped run can go on where it was (``--resume``).

The first line says how the run scores; each line after it is one target with all its numbers. Lines are appended as
targets end and the file is put in order when the run is over. A target is taken from it when it was scored, with the
same settings, from files that have the same bytes today.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from data_prep.files.bounded_reading import parse_json, read_table
from data_prep.files.checksums import sha256
from data_prep.files.release import release
from evaluation.evaluate import Row, Settings
from evaluation.lddt import DEFINITION
from evaluation.output import write_atomically
from evaluation.residue_table import ResidueTable
from evaluation.score import PairScore
from evaluation.targets import Target, UsageError
from evaluation.trace import Trace

NAME: str = "targets.jsonl"
"""Name of the file in the directory of ``--out``."""


class Journal:
    """The file while a run goes on. Use as a context manager.

    Raises:
        UsageError: on entering with ``resume``: the file is of a run with other settings, or it is damaged.
    """

    def __init__(self, directory: Path, settings: Settings, resume: bool):
        self.path = directory / NAME
        self._header = _header(settings)
        self._resume = resume
        self._found: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._resume and self.path.exists():
            self._read()
        else:
            write_atomically(self.path, json.dumps(self._header) + "\n")
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def finished(self, target: Target) -> Row | None:
        """The row of a target that needs no scoring again."""
        entry = self._found.get(target.name)
        if entry is None or entry["true_chain"] != target.true_chain or target.prediction is None or target.problem:
            return None
        row = _row(entry["row"])
        if row.score is None or row.prediction_sha256 != _digest(target.prediction):
            return None
        if row.truth_sha256 != _truth_digest(target):
            return None
        return replace(row, prediction=str(target.prediction), truth=target.truth_name)

    def add(self, target: Target, row: Row) -> None:
        """Keeps the row of a target that has just ended."""
        self._file.write(_line(target, row))
        self._file.flush()

    def close_with(self, targets: Sequence[Target], rows: Sequence[Row]) -> None:
        """Puts the file in the order of the targets, each once."""
        lines = [_line(target, row) for target, row in zip(targets, rows, strict=True)]
        write_atomically(self.path, json.dumps(self._header) + "\n" + "".join(lines))

    def _read(self) -> None:
        text = read_table(self.path)
        whole = text[: text.rfind("\n") + 1]
        lines = whole.splitlines()
        try:
            header = parse_json(lines[0]) if lines else None
            entries = [parse_json(line) for line in lines[1:]]
        except json.JSONDecodeError as error:
            raise UsageError(f"--resume: {self.path} is damaged ({error}): delete it, or leave --resume out") from None
        if header != self._header:
            changed = _changed(header, self._header) if isinstance(header, dict) else "no header"
            raise UsageError(
                f"--resume: {self.path} is of a run with other settings ({changed}): use the same, another --out, or "
                "leave --resume out"
            )
        self._found = {entry["row"]["target"]: entry for entry in entries}
        if whole != text:  # the run was stopped while it wrote its last line
            write_atomically(self.path, whole)


def _header(settings: Settings) -> dict[str, Any]:
    return {"version": release(), "definition": DEFINITION, **asdict(settings)}


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} was {old.get(name)}, now {new.get(name)}" for name in names)


def _line(target: Target, row: Row) -> str:
    score = row.score and vars(row.score) | {name: getattr(row.score, name).columns() for name in ("residues", "trace")}
    return json.dumps({"true_chain": target.true_chain, "row": vars(row) | {"score": score}}, allow_nan=False) + "\n"


def _row(entry: dict[str, Any]) -> Row:
    score = entry["score"]
    if score is not None:
        tables = {name: kind.of_columns(score[name]) for name, kind in (("residues", ResidueTable), ("trace", Trace))}
        score = PairScore(**score | tables | {name: tuple(score[name]) for name in ("notes", "warnings")})
    return Row(**entry | {"score": score})


def _digest(path: Path) -> str:
    """Hash of a file's bytes, '' where it cannot be read: scoring it again says why."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _truth_digest(target: Target) -> str:
    if target.truth is None:
        return ""
    if target.record_id is None:
        return _digest(target.truth)
    return _record_digests(target.truth).get(target.record_id, "")


@cache
def _record_digests(dataset: Path) -> dict[str, str]:
    from data_prep.dataset.store import StructureDataset  # loads file formats that no other truth needs

    data = StructureDataset(dataset)
    ids = data.ids()
    return dict(zip(ids, data.column("source_sha256", ids), strict=True))
