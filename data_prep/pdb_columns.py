"""Columns of the ATOM records of an ordinary PDB file as 8-byte words, cut without converting them.

A record of 80 columns is far more than most questions need. Words compare, mask and reduce as integers, so a property
of all records is checked in a few operations over the whole file: a bit that is the same in all words is the same in
their conjunction and their disjunction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Self

import numpy as np

from data_prep.pdb_fields import word

_MOST_STRETCHES = 16
"""Stretches of records of one width after which a file is not taken for ordinary."""

_NARROWEST = 67
"""Bytes of a line that holds an ATOM record up to its B-factor."""

_NOT_AFTER_A_MODEL = (b"\nMODEL", b"\nATOM", b"\nHETATM", b"\nSEQRES", b"\nEXPDTA")
"""What makes a file unusual behind its first ENDMDL."""

_MANY = (b"ATOM", b"HETATM", b"ANISOU")
"""Records that come many at a time, read a stretch at once."""


_ATOM, _HETA, _TM, _ANIS, _CONE = map(word, (b"ATOM", b"HETA", b"TM", b"ANIS", b"CONE"))


@dataclass(frozen=True, eq=False)
class AtomRecords:
    """A records."""

    identity: np.ndarray
    """uint64 [A]: columns 13-20, atom name, alternate location, component."""
    residue: np.ndarray
    """uint64 [A]: columns 21-28, from the second byte on: chain, residue number (4 bytes), insertion code."""
    coordinates: np.ndarray
    """uint64 [A, 3]: columns 31-54."""
    factors: np.ndarray
    """uint8 [A, 12]: columns 55-66."""
    head: np.ndarray
    """uint32 [A]: columns 1-4."""

    @classmethod
    def of(cls, lines: np.ndarray) -> Self:
        """Of lines with a ``_layout``."""
        return cls(*(lines[name] for name in cls.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def chain(self) -> np.ndarray:
        """uint8 [A]: column 22."""
        return (self.residue >> np.uint64(8)).astype(np.uint8)

    def take(self, rows: np.ndarray | slice) -> Self:
        """Some of the records (slice, int or bool index)."""
        return type(self)(*(column[rows] for column in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The records of several (at least one), one after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns)) if len(parts) > 1 else parts[0]


def polymer_records(data: bytes, start: int) -> AtomRecords | None:
    """The ATOM records of the only model of a PDB file; None where a line is anything but ordinary.

    HETATM records must follow the end of their chain, as ligands and water do, and have sound coordinates; they are
    left out.

    Args:
        data: the text, which ends in a line break.
        start: where the first ATOM record begins.
    """
    parts: list[AtomRecords] = []
    ends: list[tuple[int, int]] = []  # records before a TER, and the chain that it ends
    n_records = 0
    while start < len(data):
        stop = data.index(b"\n", start) + 1
        if stop - start >= _NARROWEST and data.startswith(_MANY, start):
            stretch = _stretch(data, start, stop - start)
            if stretch is None or len(parts) == _MOST_STRETCHES:
                return None
            part, start = stretch
            parts.append(part)
            n_records += len(part)
            continue
        line = data[start : stop - 1]
        if not (line.isascii() and line.decode("ascii").isprintable()):
            return None
        if line.startswith(b"ENDMDL"):
            if any(data.find(record, start) >= 0 for record in _NOT_AFTER_A_MODEL):
                return None
            break
        if line.startswith(b"TER") and not line[3:6].strip() and (n_records or len(line) > 21):
            # A bare TER ends the chain of the record before it.
            ends.append((n_records, line[21] if len(line) > 21 else int(parts[-1].chain[-1])))
        elif line.strip() not in (b"", b"END") and not line.startswith((b"CONECT", b"MASTER")):
            return None
        start = stop
    return _before_the_ends(AtomRecords.joined(parts), ends)


def _stretch(data: bytes, start: int, width: int) -> tuple[AtomRecords, int] | None:
    """The lines of ``width`` bytes from ``start`` on as long as they are ATOM, HETATM or ANISOU, the last left out, and
    where they end; None where one has anything but printable ASCII."""
    ends = data[start + width - 1 :: width]
    rows = len(ends) - len(ends.lstrip(b"\n"))
    lines = np.frombuffer(data, _layout(width), rows, start)
    head = lines["head"]
    is_atom = head == _ATOM
    all_atoms = is_atom.all()
    if not all_atoms:
        wanted = is_atom | (head == _ANIS) | ((head == _HETA) & (lines["head_end"] == _TM))
        rows = rows if wanted.all() else int(wanted.argmin())
        lines = lines[:rows]
    text = np.frombuffer(data, np.uint8, rows * width, start)
    if text.max() > ord("~") or np.count_nonzero(text < ord(" ")) != rows:
        return None
    records = AtomRecords.of(lines)
    if not all_atoms and (records.head == _ANIS).any():
        records = records.take(records.head != _ANIS)
    return records, start + rows * width


@lru_cache(maxsize=256)
def _layout(width: int) -> np.dtype:
    """The columns of a line of ``width`` bytes."""
    names = ["head", "head_end", "identity", "residue", "coordinates", "factors"]
    formats = ["<u4", "<u2", "<u8", "<u8", ("<u8", 3), ("u1", 12)]
    return np.dtype({"names": names, "formats": formats, "offsets": [0, 4, 12, 20, 30, 54], "itemsize": width})


def _before_the_ends(records: AtomRecords, ends: Sequence[tuple[int, int]]) -> AtomRecords | None:
    """The ATOM records; None unless all of them stand before the end of their chain and sound HETATM after it."""
    hetero = records.head == _HETA
    any_hetero = hetero.any()
    if not any_hetero and all(place == len(records) for place, _ in ends):
        return records
    after = np.zeros(len(records), dtype=bool)
    chains = records.chain
    for place, chain in ends:
        after[place:] |= chains[place:] == chain
    if (after != hetero).any():
        return None
    if not any_hetero:
        return records
    return None if leading_codes(records.coordinates[hetero].ravel()) is None else records.take(~hetero)


_FIRST_THREE = 0x1F1F1F  # the low five bits of three characters
_FIXED_BITS, _NUMBER = word(b"\xe0\xe0\xe0\xf0\xff\xf0\xf0\xf0"), word(b"   0.000")
_FIXED_BITS_WHOLE, _WHOLE_NUMBER = word(b"\xe0\xe0\xe0\xf0"), word(b"   0")
"""Bits that all numbers have alike: blanks, minus and point are 0x20 to 0x2e, digits 0x30 to 0x39."""
_SIX, _OVER_NINE = np.uint64(word(b"\0\0\0\6\0\6\6\6")), word(b"\0\0\0\x40\0\x40\x40\x40")


def leading_codes(words: np.ndarray) -> np.ndarray | None:
    """int16 [n], the first three characters of right-aligned numbers with three decimals (uint64 [n]), as ``decimals``
    takes them; None where one of the words is no such number. A plus counts as none."""
    if not _are_alike(words, _FIXED_BITS, _NUMBER) or int(np.bitwise_or.reduce(words + _SIX)) & _OVER_NINE:
        return None
    codes = _leading().take((words & np.uint64(_FIRST_THREE)).view(np.int64))
    return codes if codes.all() else None


def decimals(words: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """float64 [...], the numbers in ``words`` (uint64 [...]) whose ``leading_codes`` are ``codes``."""
    codes = codes - 1
    size = (codes >> 1) * 10_000.0
    for place, worth in ((3, 1000), (5, 100), (6, 10), (7, 1)):
        size += ((words >> np.uint64(8 * place)) & np.uint64(15)).view(np.int64) * worth
    return np.where(codes & 1, -size, size) / 1000


def whole_numbers(words: np.ndarray) -> np.ndarray | None:
    """int64 [n]: the right-aligned numbers in the first four bytes of uint64 [n]; None where one is none."""
    if not _are_alike(words, _FIXED_BITS_WHOLE, _WHOLE_NUMBER):
        return None
    last = ((words >> np.uint64(24)) & np.uint64(15)).view(np.int64)
    codes = _leading().take((words & np.uint64(_FIRST_THREE)).view(np.int64))
    if last.max() > 9 or not codes.all():
        return None
    codes = codes.astype(np.int64) - 1
    size = (codes >> 1) * 10 + last
    return np.where(codes & 1, -size, size)


def _are_alike(words: np.ndarray, bits: int, expected: int) -> bool:
    """Whether these bits are as expected in all words (at least one)."""
    return int(np.bitwise_and.reduce(words)) & bits == int(np.bitwise_or.reduce(words)) & bits == expected


@cache
def _leading() -> np.ndarray:
    """int16 [2^21]: for three characters in front of a digit 1 + 2 * their value, and 1 more with a minus; 0 where they
    may not stand there. Of the 4 MB only the few pages that are used take memory."""
    codes = np.zeros(_FIRST_THREE + 1, dtype=np.int16)
    for sign in ("", "-"):
        for digits in ("", *(f"{value:0{width}d}" for width in (1, 2, 3) for value in range(10**width))):
            if len(sign + digits) <= 3:
                cell = word((sign + digits).rjust(3).encode())
                codes[cell & _FIRST_THREE] = 1 + 2 * int(digits or 0) + len(sign)
    return codes
