"""Text columns in which few values repeat many times, as integer codes and the values that they stand for.

Atom tables consist of such columns (atom names, component ids, chain ids). Codes compare and sort as integers, and a
question about a word is answered once per value instead of once per row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Categorical:
    """Row i holds ``values[code[i]]``; no value is listed twice."""

    code: np.ndarray
    """int64 [rows]."""
    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, row: int | np.integer) -> str:
        return self.values[self.code[row]]

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """From one word per row."""
        codes: dict[str, int] = {}
        code = np.array([codes.setdefault(word, len(codes)) for word in words], dtype=np.int64)
        return cls(code, tuple(codes))

    @classmethod
    def constant(cls, word: str, rows: int) -> Self:
        """The same word in every row."""
        return cls(np.zeros(rows, dtype=np.int64), (word,))

    @classmethod
    def of_cells(cls, cells: np.ndarray) -> Self:
        """From uint8 [rows, w], w bytes of Latin-1 text per row; blanks at the ends do not count."""
        rows, width = cells.shape
        if rows == 0 or width == 0:
            return cls.constant("", rows)
        if width in (1, 4, 8) and cells.strides[1] == 1:
            keys = cells.view(f"u{width}")[:, 0]
        elif width <= 8:
            packed = np.zeros((rows, 4 if width <= 4 else 8), dtype=np.uint8)
            packed[:, :width] = cells
            keys = packed.view(np.uint32 if width <= 4 else np.uint64)[:, 0]
        else:
            keys = np.ascontiguousarray(cells).view(f"S{width}")[:, 0]
        if (keys == keys[0]).all():
            return cls.constant(cells[0].tobytes().decode("latin-1").strip(), rows)
        first, code = _first_rows(keys)
        text = cells[first].tobytes().decode("latin-1")
        values = [text[start : start + width].strip() for start in range(0, len(text), width)]
        words = cls(code, tuple(values))
        return words if len(set(values)) == len(values) else words.map(str)

    def take(self, rows: np.ndarray) -> Self:
        """The words of some rows (int or bool index)."""
        return type(self)(self.code[rows], self.values)

    def map(self, change: Callable[[str], str]) -> Self:
        """Every word changed; words that become equal share their code."""
        codes: dict[str, int] = {}
        new = [codes.setdefault(change(value), len(codes)) for value in self.values]
        if new == list(range(len(new))):
            return type(self)(self.code, tuple(codes))
        return type(self)(np.array(new, dtype=np.int64)[self.code], tuple(codes))

    def lookup(self, answer: Callable[[str], Any], dtype: Any) -> np.ndarray:
        """``answer(word)`` of each row, as an array of this type."""
        return np.array([answer(value) for value in self.values], dtype=dtype)[self.code]

    def list(self) -> list[str]:
        """One string per row."""
        return [self.values[code] for code in self.code.tolist()]


_HASH_BITS = 16
_HASH_FACTOR = {4: np.uint32(0x9E3779B1), 8: np.uint64(0x9E3779B97F4A7C15)}
"""By the size of the key: odd numbers near 2^32 and 2^64 over the golden ratio (Knuth, vol. 3, 6.4)."""


def _first_rows(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [different keys]: a row of each; int64 [rows]: which of these each row equals.

    A table by hash value takes the place of sorting, unless two of the keys share theirs.
    """
    size = keys.dtype.itemsize
    if size == 1 or size in _HASH_FACTOR:
        slot = (keys if size == 1 else (keys * _HASH_FACTOR[size]) >> (8 * size - _HASH_BITS)).astype(np.int64)
        row = np.arange(len(keys))
        table = np.empty(1 << (8 if size == 1 else _HASH_BITS), dtype=np.int64)
        table[slot] = row
        holder = table.take(slot)
        if size == 1 or (keys.take(holder) == keys).all():
            first = np.flatnonzero(holder == row)
            table[slot.take(first)] = row[: len(first)]
            return first, table.take(slot)
    _, first, code = np.unique(keys, return_index=True, return_inverse=True)
    return first, code


def joint_codes(*columns: np.ndarray) -> np.ndarray:
    """int64 [rows]: equal where all the integer columns [rows] are equal, in the order of the columns."""
    joint = np.zeros(len(columns[0]), dtype=np.int64)
    span = 1
    for column in columns:
        if not len(column):
            return joint
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        width = high - low + 1
        if span * width > 2**62:  # too large to count on in 64 bits: number what is there so far
            unique, joint = np.unique(joint, return_inverse=True)
            span = len(unique)
        joint = joint * width + (column.astype(np.int64) - low)
        span *= width
    return joint
