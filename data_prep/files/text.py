"""Text with a meaning: days of the calendar, names that may become names of files, lists in messages, tables."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import date


def is_date(text: str) -> bool:
    """Whether this is a day of the calendar as ``2020-05-01``."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


MAX_NAME_BYTES = 200
"""Of a name before its suffix; file systems allow 255 bytes with it."""


def is_file_name(text: str) -> bool:
    """Whether ``text``, with a suffix, names a file in a directory, and not one elsewhere, on every system."""
    return (
        0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        and not text.startswith(".")
        and text.isprintable()
        and not set(text) & set("/\\:")
    )


def some(items: Sequence[str], limit: int = 5) -> str:
    """The first few items and how many more there are: 'a, b and 3 more'."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV with lines that end as on Unix, the same on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
