"""The tables of a run: they grow by rows, outlive a crash at any moment, and are cut back when a run is resumed."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.bounded_reading import read_table


class TableError(ValueError):
    """A table that cannot be gone on with; the message is one line."""


TEXT_COLUMN = "target"
"""The one column that holds no numbers."""


def read_rows(path: Path, up_to_step: int) -> list[dict[str, str]]:
    """Complete rows of steps up to ``up_to_step``; none without a file. A half-written last line is left out.

    Every cell but that of ``TEXT_COLUMN`` is a number or blank, that of ``step`` a whole number.

    Raises TableError: it is not so.
    """
    if not path.is_file():
        return []
    try:
        complete, newline, _ = read_table(path).rpartition("\n")
        rows = list(csv.DictReader(io.StringIO(complete + newline), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as a table: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not _is_complete(row):
            raise TableError(f"{path}: line {number} is damaged: numbers in all columns of the header are expected")
    return [row for row in rows if int(row["step"]) <= up_to_step]


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
        kept = read_rows(path, after_step)
        if kept and list(kept[0]) != list(columns):
            raise TableError(f"{path}: has the columns {', '.join(kept[0])}; expected {', '.join(columns)}")
        temporary = path.with_suffix(".tmp")
        self._stream = temporary.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._stream, columns, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(kept)
        self.sync()
        temporary.rename(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; floats with 9 significant digits, which hold a float32 exactly; nan as a blank."""
        self._writer.writerow({name: _cell(value) for name, value in row.items()})
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
