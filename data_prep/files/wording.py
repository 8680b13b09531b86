"""Lists in messages."""

from collections.abc import Sequence


def some(items: Sequence[str], limit: int = 5) -> str:
    """The first few items and how many more there are: 'a, b and 3 more'."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
