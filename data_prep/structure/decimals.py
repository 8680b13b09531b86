"""Decimal numbers from tables of bytes, a column at a time, and nothing that is not a plain decimal number.

``float`` and NumPy understand "nan", "inf", "1e5" and "1_0" too; in a structure file these are damage. Values are
exactly those of ``float``: an integer below 2^53 divided by a power of ten is correctly rounded.

Characters are read in pairs: a table says what each of the 65,536 pairs adds to the number at its place in the cell,
and in the bits above the number whether it may stand there.
"""

import re
from functools import lru_cache

import numpy as np

_MAX_WIDTH = 10
"""Characters of a cell that is read by pairs; longer ones are rare and read one by one."""

_OPEN, _BAD, _NEGATIVE = 40, 50, -(1 << 63)
"""The bits above a number of 10 digits. Two from ``_OPEN`` on for each place where pairs meet: one is added by a pair
that ends in a sign or digit, one by a pair that then begins with no digit, and both together are no number. From
``_BAD`` on the pairs that may not stand where they are. ``_NEGATIVE`` is the sign bit, of a minus."""

_NO_NUMBER = (0b1010101010 << _OPEN) | (0b111 << _BAD)

_PLAIN_NUMBER = re.compile(rb" *[-+]?(\d+\.?\d*|\.\d+) *")


def read_decimals(cells: np.ndarray, places: int, default: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in fixed columns: uint8 [..., w] to float64 [...], and bool [...] whether the cell states a number.

    Right-aligned numbers with ``places`` decimals are read all at once, other cells one by one; ``default`` stands
    where a cell holds no number.
    """
    values, stated = _fixed_point(cells, places, b"+-")
    return _complete(cells, values, stated, default)


def read_left_aligned(cells: np.ndarray, default: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for left-aligned cells (uint8 [n, w]) without inner blanks, whatever their number of decimals."""
    values, stated = np.full(len(cells), default), np.zeros(len(cells), dtype=bool)
    length = (cells != ord(" ")).sum(axis=1)
    is_point = cells == ord(".")
    usual = is_point.any(axis=1) & (length <= _MAX_WIDTH)
    layout = np.where(usual, is_point.argmax(axis=1) * 64 + length, -1)
    for key in np.unique(layout[layout >= 0]).tolist():
        point, width = divmod(key, 64)
        rows = np.flatnonzero(layout == key)
        values[rows], stated[rows] = _fixed_point(cells[rows, :width], width - point - 1, b"+-")
    return _complete(cells, values, stated, default)


def read_integers(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right-aligned whole numbers, uint8 [n, w] to int64 [n], and bool [n] which cells are such numbers."""
    values, stated = _fixed_point(cells, 0, b"-")
    return values.astype(np.int64), stated


def _fixed_point(cells: np.ndarray, places: int, signs: bytes) -> tuple[np.ndarray, np.ndarray]:
    """float64 [...] and which cells have the form: blanks, a sign or none, digits, the point, ``places`` digits.

    Without places the point is left out too. Values where the form is another are arbitrary.
    """
    width = cells.shape[-1]
    if width > _MAX_WIDTH or width - places < (2 if places else 1):
        return np.zeros(cells.shape[:-1]), np.zeros(cells.shape[:-1], dtype=bool)
    if width % 2:
        padded = np.full((*cells.shape[:-1], width + 1), ord(" "), dtype=np.uint8)
        padded[..., 1:] = cells
        cells, width = padded, width + 1
    pairs = cells.view("<u2").astype(np.intp)  # low byte first: the left character
    total = _pair_table(0, width, places, signs).take(pairs[..., 0])  # faster than an index in brackets
    for place in range(1, width // 2):
        total += _pair_table(place, width, places, signs).take(pairs[..., place])
    values = (total & ((1 << _OPEN) - 1)) / 10.0**places
    return np.copysign(values, total), (total & _NO_NUMBER) == 0


@lru_cache(maxsize=256)
def _pair_table(place: int, width: int, places: int, signs: bytes) -> np.ndarray:
    """int64 [65536]: what the pair of characters number ``place`` adds, by its code."""
    last_whole = width - places - (2 if places else 1)
    code = np.arange(1 << 16)
    table = np.zeros(1 << 16, dtype=np.int64)
    is_open = np.zeros(1 << 16, dtype=bool)  # a sign or digit was there: a digit must follow
    is_bad = np.zeros(1 << 16, dtype=bool)
    for column, character in ((2 * place, code & 255), (2 * place + 1, code >> 8)):
        is_digit = (character >= ord("0")) & (character <= ord("9"))
        if column == last_whole + 1:
            is_bad |= character != ord(".")
            continue
        exponent = last_whole - column if column <= last_whole else last_whole + 1 - column
        table += np.where(is_digit, (character - ord("0")) * 10 ** (exponent + places), 0)
        if column >= last_whole:
            is_bad |= ~is_digit
            continue
        is_sign = np.isin(character, list(signs))
        is_bad |= ~(is_digit | is_sign | (character == ord(" "))) | (is_open & ~is_digit)
        table += (character == ord("-")) * np.int64(_NEGATIVE)
        if column % 2 == 0 and column > 0:
            table += (~is_digit).astype(np.int64) << (_OPEN + 2 * (place - 1))
        is_open = is_digit | is_sign
        if column % 2 == 1 and column + 1 < last_whole:
            table += is_open.astype(np.int64) << (_OPEN + 2 * place)
    return table + (is_bad.astype(np.int64) << _BAD)


def _complete(
    cells: np.ndarray, values: np.ndarray, stated: np.ndarray, default: float
) -> tuple[np.ndarray, np.ndarray]:
    if stated.all():
        return values, stated
    known: dict[bytes, float | None] = {}
    for row in zip(*np.nonzero(~stated), strict=True):
        cell = cells[row].tobytes()
        if cell not in known:
            known[cell] = float(cell) if _PLAIN_NUMBER.fullmatch(cell) else None
        number = known[cell]
        values[row], stated[row] = (default, False) if number is None else (number, True)
    return values, stated


PER_ANGSTROM = 1000


def thousandths(positions: np.ndarray) -> np.ndarray:
    """angstrom to the nearest whole thousandth, float64, so that squares of distances are exact too."""
    return np.rint(positions.astype(np.float64) * PER_ANGSTROM)
