"""Dates as the project keeps them: ISO text, which sorts by time."""

import re
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
