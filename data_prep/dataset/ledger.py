"""The ledger: what became of every file and every chain of the input. Nothing that was in the input is missing."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal

from data_prep.files.bounded_reading import read_table

Status = Literal["accepted", "rejected", "unreadable"]


@dataclass(frozen=True, order=True)
class LedgerRow:
    """One chain, or one file without a usable chain (``chain`` is then empty)."""

    file: str
    """Path relative to the input directory."""
    chain: str
    """The author's chain id; empty where the row speaks of the file (and for a blank chain id)."""
    status: Status
    """accepted: in the dataset. rejected: read, and left out for the reason given; also files that are no structure
    files. unreadable: damaged, not a structure, or not to be used beside another file."""
    reason: str = ""
    """For accepted chains what was repaired or is worth knowing; else why, with the value found and the threshold."""
    id: str = ""
    """Id of the record in the dataset; empty unless accepted."""
    sha256: str = ""
    """Hash of the file as it lies on disk; empty where it could not be read."""


def write_ledger(path: str | os.PathLike, rows: Iterable[LedgerRow]) -> None:
    """CSV with a header line, sorted by file, in the order given within a file."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(LedgerRow))
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.file))


def read_ledger(path: str | os.PathLike) -> list[LedgerRow]:
    """Rows of a ``ledger.csv``; columns that this version does not know are ignored.

    Raises ``ValueError`` where it is none, or damaged.
    """
    known = {field.name for field in fields(LedgerRow)}
    text = read_table(path, errors="surrogateescape")
    try:
        table = list(csv.DictReader(io.StringIO(text, newline="")))
        return [LedgerRow(**{name: value for name, value in row.items() if name in known}) for row in table]  # type: ignore[arg-type]
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{path}: is not a ledger, or damaged ({error})") from None


def reasons(rows: Sequence[LedgerRow], examples: int = 3) -> list[tuple[str, str, int, list[str]]]:
    """Why chains and files were left out: (status, kind of reason, count, examples), most frequent first.

    The kind of a reason is its text up to the first ``:`` or ``(``, so that values do not split a kind.
    """
    counts: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status == "accepted":
            continue
        key = (row.status, row.reason.split(":")[0].split("(")[0].strip())
        counts[key] += 1
        where.setdefault(key, []).append(f"{row.file} {row.chain}".strip())
    return [(*key, count, where[key][:examples]) for key, count in counts.most_common()]
