"""Decimal numbers from tables of bytes, a column at a time, and nothing that is not a plain decimal number.

``float`` and NumPy understand "nan", "inf", "1e5" and "1_0" too; in a structure file these are damage. Values are
exactly those of ``float``: an integer below 2^53 divided by a power of ten is correctly rounded.
"""

import re

import numpy as np

_MAX_DIGITS = 15
"""More may not fit in the 53 bits of a float64."""

_PLAIN_NUMBER = re.compile(rb" *[-+]?(\d+\.?\d*|\.\d+) *")


def read_decimals(cells: np.ndarray, places: int, default: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in fixed columns: uint8 [n, w] to float64 [n], and bool [n] whether the cell states a number.

    Right-aligned numbers with ``places`` decimals are read all at once, other cells one by one; ``default`` stands
    where a cell holds no number.
    """
    values, stated = _fixed_point(cells, places)
    return _complete(cells, values, stated, default)


def read_left_aligned(cells: np.ndarray, default: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for left-aligned cells without inner blanks, whatever their number of decimals."""
    values, stated = np.full(len(cells), default), np.zeros(len(cells), dtype=bool)
    length = (cells != ord(" ")).sum(axis=1)
    is_point = cells == ord(".")
    usual = is_point.any(axis=1) & (length <= _MAX_DIGITS)
    layout = np.where(usual, is_point.argmax(axis=1) * 64 + length, -1)
    for key in np.unique(layout[layout >= 0]).tolist():
        point, width = divmod(key, 64)
        rows = np.flatnonzero(layout == key)
        values[rows], stated[rows] = _fixed_point(cells[rows, :width], width - point - 1)
    return _complete(cells, values, stated, default)


def read_integers(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right-aligned whole numbers, uint8 [n, w] to int64 [n], and bool [n] which cells are such numbers."""
    columns = np.ascontiguousarray(cells.T)
    if not 0 < len(columns) <= _MAX_DIGITS:
        return np.zeros(len(cells), dtype=np.int64), np.zeros(len(cells), dtype=bool)
    digits = columns - np.uint8(ord("0"))
    is_digit = digits < 10
    fits = _is_whole(columns, is_digit) & (columns != ord("+")).all(axis=0)
    return _signed(_number(list(digits), list(is_digit)), columns).astype(np.int64), fits


def _fixed_point(cells: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and which rows have the form: blanks, a sign or none, digits, the point, ``places`` digits."""
    n, width = cells.shape
    point = width - places - 1
    if point < 1 or places < 1 or width > _MAX_DIGITS:
        return np.zeros(n), np.zeros(n, dtype=bool)
    columns = np.ascontiguousarray(cells.T)
    digits = columns - np.uint8(ord("0"))
    is_digit = digits < 10
    fits = _is_whole(columns[:point], is_digit[:point]) & (columns[point] == ord("."))
    for place in range(point + 1, width):
        fits &= is_digit[place]
    whole = _number([*digits[:point], *digits[point + 1 :]], [*is_digit[:point], *is_digit[point + 1 :]])
    return _signed(whole / 10.0**places, columns[:point]), fits


def _number(digits: list[np.ndarray], is_digit: list[np.ndarray]) -> np.ndarray:
    """The number that the digit columns spell, int [n]; what is no digit counts as 0."""
    number = np.zeros(len(digits[0]), dtype=np.int32 if len(digits) <= 9 else np.int64)
    for column, here in zip(digits, is_digit, strict=True):
        number *= 10
        number += column * here
    return number


def _is_whole(columns: np.ndarray, is_digit: np.ndarray) -> np.ndarray:
    """bool [n]: blanks, a sign or none, and at least one digit up to the end; ``columns`` uint8 [w, n]."""
    fits = is_digit[-1].copy()
    for place in range(len(columns) - 1):
        is_blank = columns[place] == ord(" ")
        is_sign = (columns[place] == ord("-")) | (columns[place] == ord("+"))
        fits &= is_blank | ((is_digit[place] | is_sign) & is_digit[place + 1])
    return fits


def _signed(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    negative = columns[0] == ord("-")
    for column in columns[1:]:
        negative = negative | (column == ord("-"))
    return np.where(negative, -values, values)


def _complete(
    cells: np.ndarray, values: np.ndarray, stated: np.ndarray, default: float
) -> tuple[np.ndarray, np.ndarray]:
    rest = np.flatnonzero(~stated)
    if len(rest):
        known: dict[bytes, float | None] = {}
        for row in rest.tolist():
            cell = cells[row].tobytes()
            if cell not in known:
                known[cell] = float(cell) if _PLAIN_NUMBER.fullmatch(cell) else None
            number = known[cell]
            values[row], stated[row] = (default, False) if number is None else (number, True)
    return values, stated
