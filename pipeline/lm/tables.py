"""Rows to CSV and Markdown; means over seeds."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any


def csv_text(rows: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> bytes:
    """Rows as CSV, the columns ``first`` before the others in the order of their first appearance."""
    names = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and sample standard deviation, ``0.845 ± 0.005``; one value alone without a spread."""
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"
