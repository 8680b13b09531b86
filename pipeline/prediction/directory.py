"""The output directory: which rows are there, of which settings, and rows that survive a kill.

PREDS/predictions.csv             a row per sequence; with --shard I/N predictions.I-of-N.csv
PREDS/predictions.json            model and settings that everything in the directory was made with
PREDS/NAME.pdb  NAME.cif  NAME.pae.json
PREDS/relaxed/NAME.pdb  NAME.cif
PREDS/report.html
"""

import csv
import io
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json, read_table
from data_prep.files.journal import differing
from data_prep.files.lock import is_open, lock
from pipeline.prediction.files import ERROR_SUFFIX, RELAXED
from pipeline.prediction.rows import COLUMNS, PredictionRow
from pipeline.prediction.sequences import InputError, Query

TABLE = "predictions.csv"
SETTINGS = "predictions.json"
OPTIONS = {"model": "--run or --checkpoint", "recycles": "--recycles", "format": "--format"}
"""What decides a setting."""
WAYS_OUT = "use another --out, or --overwrite"
_SHARD_TABLE = re.compile(r"predictions\.\d+-of-\d+\.csv")
_LOCKS = ".predictions*.csv.lock"
_LEFTOVER = re.compile(r"\..+\.(pdb|cif|json|csv|html)\.\d+\.partial")
"""What ``data_prep.files.atomic`` leaves where it is killed."""
_LOCK_SECONDS = 1.0
"""How long a lock is asked for: another command that looks whether it is free has it for a moment."""


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2/8``. Raises InputError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text!r} is not I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    @property
    def table(self) -> str:
        """Name of its table."""
        return f"predictions.{self.number}-of-{self.count}.csv"


class PredictionDirectory:
    """An output directory while a command works in it. Use as a context manager."""

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path = path
        self.table = path / (shard.table if shard else TABLE)
        self._settings = path / SETTINGS
        self._lock = path / f".{self.table.name}.lock"
        self._lock_stream: io.TextIOBase | None = None
        self._stream: io.TextIOBase | None = None
        self._rows: dict[str, PredictionRow] = {}

    def open(self, settings: Mapping[str, Any], about: Mapping[str, Any], *, overwrite: bool) -> None:
        """Start, or go on with what is there.

        Args:
            settings: what decides the predictions; must be the same as that of what is there.
            about: written beside them, not compared.
            overwrite: delete the predictions that are there.

        Raises:
            InputError: predictions with other settings, a damaged table, or another command at work.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        leftovers = self._leftovers()  # before the locks are tried, so that they are of no command that begins now
        alone = self._is_alone()
        if overwrite and not alone:
            raise InputError(f"{self.path}: another command is writing in it, whose files --overwrite would delete")
        if overwrite:
            self._delete()
        for path in leftovers if alone else ():
            path.unlink(missing_ok=True)
        tables = self._tables()
        if self._settings.is_file():
            self._check(settings, about)
        elif tables:
            raise InputError(f"{self.path}: holds {tables[0].name} but no {SETTINGS}: {WAYS_OUT}")
        else:
            document = {"settings": dict(settings), **about}
            write_text(self._settings, json.dumps(document, indent=1) + "\n")
        own: list[str] = []
        for table in tables:
            for row in _read(table):
                if row.status == "done" or row.name not in self._rows:
                    self._rows[row.name] = row
                if table == self.table:
                    own.append(row.name)
        self._write([self._rows[name] for name in dict.fromkeys(own)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._lock_stream is not None:
            self._lock.unlink(missing_ok=True)
            self._lock_stream.close()

    def finished(self, query: Query, *, relax: bool = False) -> PredictionRow | None:
        """The row of a query that needs no folding again; with ``relax``, if its relaxation was tried too.

        Raises InputError for another sequence of its name.
        """
        row = self._rows.get(query.name)
        if row is None or row.status != "done":
            return None
        if row.sequence_sha256 != query.key:
            raise InputError(
                f"{self.path}: has a prediction of another sequence under the name {query.name!r}: {WAYS_OUT}"
            )
        files = [self.path / row.file, *([self.path / RELAXED / row.file] if row.relaxed == "done" else [])]
        if relax and not row.relaxed:
            return None
        return row if all(file.is_file() for file in files) else None

    def add(self, row: PredictionRow) -> None:
        """Append a row; it is with the system when this returns, so a killed command does not lose it."""
        assert self._stream is not None, "open() first"
        self._rows[row.name] = row
        csv.DictWriter(self._stream, COLUMNS, lineterminator="\n").writerow(row.as_cells())
        self._stream.flush()

    def finish(self, order: Iterable[str]) -> list[PredictionRow]:
        """Put the table in the order of the input, each name once, other names after; returns its rows."""
        names = list(order)
        wanted = set(names)
        rows = [self._rows[name] for name in names if name in self._rows]
        if self.table.name == TABLE:  # a shard's table is its own part alone
            rows += [row for name, row in self._rows.items() if name not in wanted]
        self._write(rows)
        return rows

    def _write(self, rows: Sequence[PredictionRow]) -> None:
        """The table with these rows, whole or not at all; further rows go to it."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.as_cells() for row in rows)
        if self._stream is not None:
            self._stream.close()
        write_text(self.table, buffer.getvalue())
        self._stream = self.table.open("a", newline="", encoding="utf-8")

    def _take_lock(self) -> None:
        """Keep other commands from the same table until this one is left; the system frees it if we are killed."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while self._lock_stream is None:
            stream = self._lock.open("a")
            free = lock(stream)
            if free and is_open(self._lock, stream):
                self._lock_stream = stream
                continue
            stream.close()
            if not free and time.monotonic() > deadline:
                raise InputError(f"{self.table}: another command is writing it: use another --out, or --shard")
            time.sleep(0.02)

    def _leftovers(self) -> list[Path]:
        """Half-written files."""
        return [p for p in (*self.path.iterdir(), *self.path.glob(f"{RELAXED}/*")) if _LEFTOVER.fullmatch(p.name)]

    def _is_alone(self) -> bool:
        """Whether no other command is at work in this directory; removes the locks of those that were killed."""
        for path in self.path.glob(_LOCKS):
            if path == self._lock:
                continue
            try:
                with path.open() as stream:
                    if not lock(stream, shared=True):
                        return False
                    path.unlink()
            except OSError:  # not ours to open, or its command has ended just now: no matter, but not known
                return False
        return True

    def _tables(self) -> list[Path]:
        shards = sorted(path for path in self.path.iterdir() if _SHARD_TABLE.fullmatch(path.name))
        whole = self.path / TABLE
        return [*([whole] if whole.is_file() else []), *shards]

    def _check(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        try:
            document = read_json(self._settings)
            old = document["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._settings}: cannot be read ({error}): {WAYS_OUT}") from error
        changed = {name: (old.get(name), settings.get(name)) for name in differing(old, settings)}
        described = document.get("description"), about.get("description")
        if "model" in changed and described[0] != described[1]:  # else two hashes say that the weights differ
            changed["model"] = described
        if changed:
            what = "; ".join(f"{OPTIONS.get(n, n)} was {_short(a)}, now {_short(b)}" for n, (a, b) in changed.items())
            raise InputError(f"{self.path}: holds predictions with other settings ({what}): {WAYS_OUT}")

    def _delete(self) -> None:
        """Everything that the tables name, and the tables: nothing else in the directory is touched."""
        for table in self._tables():
            with suppress(InputError):  # a table that cannot be read names no files
                for row in _read(table):
                    stem = Path(row.file).stem
                    if row.file and Path(row.file).name == row.file:
                        for name in (f"{stem}.pdb", f"{stem}.cif", f"{stem}{ERROR_SUFFIX}"):
                            (self.path / name).unlink(missing_ok=True)
                            (self.path / RELAXED / name).unlink(missing_ok=True)
            table.unlink()
        with suppress(OSError):  # not there, or with files that are not ours
            (self.path / RELAXED).rmdir()
        self._settings.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _read(path: Path) -> list[PredictionRow]:
    """Rows of a table; a last line without an end, where a command was killed, is dropped. Raises InputError."""
    try:
        text = read_table(path)
        whole = text[: text.rfind("\n") + 1]
        return [PredictionRow.from_cells(cells) for cells in csv.DictReader(io.StringIO(whole, newline=""))]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}): {WAYS_OUT}") from error
