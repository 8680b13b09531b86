"""The tables of a run: they grow by rows, outlive a crash at any moment, and are cut back when a run is resumed.

Those with a row per step have a million of them in the end, so they are read by columns or row after row.
"""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.csv import ConvertOptions, read_csv

from data_prep.files.atomic import writing
from data_prep.files.bounded_reading import read_table, read_table_bytes
from data_prep.files.errors import UserError


class TableError(UserError):
    """A table that cannot be gone on with; the message is one line."""


TEXT_COLUMN = "target"
"""The one column that holds no numbers."""


def read_rows(path: Path, up_to_step: int) -> list[dict[str, str]]:
    """Complete rows of steps up to ``up_to_step``; none without a file. A half-written last line is left out.

    Every cell but that of ``TEXT_COLUMN`` is a number or blank, that of ``step`` a whole number.

    Raises TableError: it is not so.
    """
    return list(_rows(path, up_to_step))


def _rows(path: Path, up_to_step: int) -> Iterator[dict[str, str]]:
    if not path.is_file():
        return
    try:
        complete, newline, _ = read_table(path).rpartition("\n")
        for number, row in enumerate(csv.DictReader(io.StringIO(complete + newline), strict=True), start=2):
            if not _is_complete(row):
                raise TableError(f"{path}: line {number} is damaged: numbers in all columns of the header are expected")
            if int(row["step"]) <= up_to_step:
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as a table: {error}") from error


def read_columns(path: Path, up_to_step: int | None = None) -> dict[str, np.ndarray]:
    """Columns of a table that holds numbers alone, float64 [rows] each, blanks as nan; none without a file.

    Rows of steps up to ``up_to_step``; None: all. A half-written last line is left out.

    Raises TableError: it is no such table.
    """
    if not path.is_file():
        return {}
    content = read_table_bytes(path)
    complete = content[: content.rfind(b"\n") + 1]
    if not complete:
        return {}
    try:
        names = complete[: complete.index(b"\n")].decode().strip().split(",")
        options = ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[""])
        table = read_csv(pa.BufferReader(complete), convert_options=options)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise TableError(f"{path}: cannot be read as a table of numbers: {error}") from error
    columns = {name: table[name].to_numpy() for name in names}
    kept = slice(None) if up_to_step is None else columns["step"] <= up_to_step
    return {name: values[kept] for name, values in columns.items()}


def _is_complete(row: Mapping[Any, Any]) -> bool:
    if None in row or None in row.values() or not row.get("step", "").isdecimal():
        return False
    try:
        for cell in (cell for name, cell in row.items() if cell and name != TEXT_COLUMN):
            float(cell)
    except ValueError:
        return False
    return True


class CsvLog:
    """A table whose rows are with the system when ``append`` returns, and on disk after ``sync``."""

    def __init__(self, path: Path, columns: Sequence[str], after_step: int) -> None:
        """Open ``path``; rows of a later step than ``after_step`` are dropped. The first column must be ``step``.

        Raises TableError: the file there has other columns.
        """
        self.columns = list(columns)
        with writing(path) as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            for row in _rows(path, after_step):
                if list(row) != self.columns:
                    raise TableError(f"{path}: has the columns {', '.join(row)}; expected {', '.join(columns)}")
                writer.writerow(row)
        self._stream = path.open("a", newline="", encoding="utf-8")

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write rows in one go; floats with 9 significant digits, which hold a float32 exactly; nan as a blank."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        self._stream.write(text.getvalue())
        self._stream.flush()

    def sync(self) -> None:
        """Return when all rows are on disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"


def mean_score(scores: Iterable[float]) -> float:
    """Mean of the scores that are defined; nan without any."""
    defined = [score for score in scores if not math.isnan(score)]
    return sum(defined) / len(defined) if defined else math.nan


def validation_history(path: Path, up_to_step: int) -> dict[int, float]:
    """Mean lDDT-Calpha by step, from ``validation.csv``; over the chains for which it is defined."""
    by_step: dict[int, list[float]] = {}
    for row in read_rows(path, up_to_step):
        by_step.setdefault(int(row["step"]), []).append(float(row["lddt_ca"] or "nan"))
    return {step: mean_score(scores) for step, scores in by_step.items()}


def best_step(history: Mapping[int, float]) -> int | None:
    """Step of the best mean, the first of equal ones; None where no mean is defined."""
    defined = {step: mean for step, mean in history.items() if not math.isnan(mean)}
    return max(defined, key=lambda step: (defined[step], -step)) if defined else None
