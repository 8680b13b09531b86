"""The _atom_site loop of an mmCIF file as columns, whichever way it is written.

The wwPDB writes it as a table: rows of one length, every item at the same place in each. Such a table is cut into
columns at once and never goes through the CIF parser, which would take most of the time of reading. Anything else
(quoted blanks, items over several lines, ragged rows) is parsed as CIF.
"""

import re
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
from gemmi import cif

from data_prep.structure.decimals import read_left_aligned
from data_prep.structure.structure_bytes import StructureError
from data_prep.structure.words import Words

_CATEGORY = b"\n_atom_site."
_HEADER = re.compile(rb"^loop_[ \t]*\n((?:_atom_site\.\S+[ \t]*\n)+)", re.MULTILINE)
_NOTHING = (".", "?")


class AtomLoop(ABC):
    """The columns of _atom_site, named without the category."""

    def __init__(self, path: str, length: int) -> None:
        self.path = path
        self.length = length

    def __len__(self) -> int:
        return self.length

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether the loop has this column."""

    @abstractmethod
    def only(self, rows: np.ndarray) -> Self:
        """A loop of only these rows (int, increasing)."""

    @abstractmethod
    def _raw(self, name: str) -> Words:
        """The items of a column as they stand in the file, quotes and all."""

    @abstractmethod
    def _decimals(self, name: str, default: float) -> tuple[np.ndarray, np.ndarray]:
        """float64 [rows] and bool [rows]: which of the items are plain decimal numbers."""

    def words(self, *names: str, optional: bool = False) -> Words:
        """The first of the named columns that is there; '' for '.' and '?', and throughout if optional and missing."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            if optional:
                return Words.constant("", self.length)
            raise StructureError(self.path, f"no column _atom_site.{' or '.join(names)}")
        return self._raw(name).map(lambda item: "" if item in _NOTHING else cif.as_string(item).strip())

    def numbers(self, name: str, default: float, damaged: dict[int, str] | None = None) -> np.ndarray:
        """float64 [rows]; ``default`` for '.', '?' and a missing column other than a coordinate's.

        Rows that hold other text than a number go into ``damaged`` with it and have the default too; without
        ``damaged`` they raise ``StructureError``.
        """
        if not self.has(name):
            if name.startswith("Cartn_"):
                raise StructureError(self.path, f"no column _atom_site.{name}")
            return np.full(self.length, default)
        values, stated = self._decimals(name, default)
        rest = np.flatnonzero(~stated)
        if len(rest):
            items = self._raw(name).take(rest)
            found = items.lookup(lambda item: default if item in _NOTHING else cif.as_number(item), np.float64)
            no_number = np.isnan(found) & items.lookup(lambda item: item not in _NOTHING, bool)
            texts = {int(rest[i]): f'_atom_site.{name} holds "{items[i][:20]}"' for i in np.flatnonzero(no_number)}
            if texts and damaged is None:
                raise StructureError(self.path, f"{next(iter(texts.values()))}, expected a number")
            values[rest] = np.where(no_number, default, found)
            (damaged if damaged is not None else {}).update(texts)
        return values

    def integers(self, name: str, default: int) -> np.ndarray:
        """int32 [rows]; ``default`` for '.', '?' and a missing column."""
        if not self.has(name):
            return np.full(self.length, default, dtype=np.int32)
        items = self._raw(name)
        try:
            return items.lookup(lambda item: default if item in _NOTHING else int(cif.as_string(item)), np.int32)
        except (ValueError, OverflowError) as error:
            raise StructureError(self.path, f"_atom_site.{name} holds a value that is no integer: {error}") from None


class ParsedLoop(AtomLoop):
    """A loop that the CIF parser has read."""

    def __init__(self, path: str, block: cif.Block, rows: np.ndarray | None = None) -> None:
        super().__init__(path, len(block.find_values("_atom_site.Cartn_x")) if rows is None else len(rows))
        self._block, self._rows = block, rows

    def has(self, name: str) -> bool:  # noqa: D102 (AtomLoop says it)
        return len(self._block.find_values(f"_atom_site.{name}")) > 0

    def only(self, rows: np.ndarray) -> Self:  # noqa: D102
        return self if len(rows) == self.length else type(self)(self.path, self._block, rows)

    def _items(self, name: str) -> list[str]:
        items = list(self._block.find_values(f"_atom_site.{name}"))
        return items if self._rows is None else [items[row] for row in self._rows.tolist()]

    def _raw(self, name: str) -> Words:
        return Words.of(self._items(name))

    def _decimals(self, name: str, default: float) -> tuple[np.ndarray, np.ndarray]:
        try:
            cells = np.array(self._items(name), dtype="S")
        except UnicodeEncodeError:  # none of them can be trusted: they are looked at one by one
            return np.full(self.length, default), np.zeros(self.length, dtype=bool)
        table = cells.view(np.uint8).reshape(self.length, -1)
        return read_left_aligned(np.where(table == 0, np.uint8(ord(" ")), table), default)


class AlignedLoop(AtomLoop):
    """A table of rows of one length; ``table`` uint8 [rows, width], ``columns`` name -> (from, to)."""

    def __init__(self, path: str, table: np.ndarray, columns: dict[str, tuple[int, int]]) -> None:
        super().__init__(path, len(table))
        self._table, self._columns = table, columns

    def has(self, name: str) -> bool:  # noqa: D102 (AtomLoop says it)
        return name in self._columns

    def only(self, rows: np.ndarray) -> Self:  # noqa: D102
        return self if len(rows) == self.length else type(self)(self.path, self._table[rows], self._columns)

    def _raw(self, name: str) -> Words:
        return Words.of_cells(self._table[:, slice(*self._columns[name])])

    def _decimals(self, name: str, default: float) -> tuple[np.ndarray, np.ndarray]:
        return read_left_aligned(self._table[:, slice(*self._columns[name])], default)


class AtomText:
    """The aligned _atom_site table of a file, if it has one: ``columns`` is empty where it has none.

    ``table`` uint8 [rows, width], ``columns`` name -> (from, to), ``rest`` the text with only the first of the rows,
    so that the CIF parser sees a loop that is whole.
    """

    def __init__(self, data: bytes) -> None:
        self.rest, self.columns = data, {}
        place = data.find(_CATEGORY)
        header = _HEADER.search(data, max(place - 64, 0), place + 4096) if place >= 0 else None
        if header is None or data.find(_CATEGORY, header.end()) >= 0:
            return
        first = header.end()
        width = data.find(b"\n", first) + 1 - first
        if width <= 1:
            return
        rows = (len(data) - first) // width
        table = np.frombuffer(data, dtype=np.uint8, count=rows * width, offset=first).reshape(rows, width)
        is_row = (table[:, -1] == ord("\n")) & ((table[:, 0] == ord("A")) | (table[:, 0] == ord("H")))
        n = rows if is_row.all() else int(is_row.argmin())
        stop = first + n * width
        if n == 0 or data[stop : stop + 1] not in (b"", b"#", b"_", b"l", b"d"):
            return  # a row of another length follows
        self.table = table[:n, :-1]
        if self.table.min() < 32 or self.table.max() >= 127 or data.find(b"#", first, stop) >= 0:
            return
        self.columns = self._find_columns(header[1].decode("latin-1").split())
        if self.columns:
            self.rest = data[: first + width] + data[stop:]

    def _find_columns(self, tags: list[str]) -> dict[str, tuple[int, int]]:
        """Byte ranges by column name; empty unless every row has exactly one left-aligned item in each."""
        blank = np.ascontiguousarray((self.table == ord(" ")).T)  # [width, rows]
        gap = np.concatenate([[True], blank.all(axis=1), [True]])
        edges = np.flatnonzero(gap[1:] != gap[:-1]).reshape(-1, 2).tolist()
        if len(edges) != len(tags) or len(set(tags)) != len(tags):
            return {}
        for start, stop in edges:
            if blank[start].any() or any((blank[i] & ~blank[i + 1]).any() for i in range(start, stop - 1)):
                return {}
        names = [tag.removeprefix("_atom_site.") for tag in tags]
        return {name: (start, stop) for name, (start, stop) in zip(names, edges, strict=True)}


def read_atom_loop(path: str, data: bytes) -> tuple[AtomLoop, cif.Block, int]:
    """The atoms of the first data block that has some, that block, and how many more blocks have atoms.

    Raises ``StructureError`` for broken syntax and where there are no atoms.
    """
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            data = data.decode("latin-1").encode("utf-8")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = AtomText(data)
    if text.columns:
        blocks = _blocks_with_atoms(path, text.rest)
        # The row that stayed must be found: the table might have stood inside a text field.
        if len(blocks) == 1 and len(blocks[0].find_values("_atom_site.Cartn_x")) == 1:
            return AlignedLoop(path, text.table, text.columns), blocks[0], 0
    blocks = _blocks_with_atoms(path, data)
    if not blocks:
        raise StructureError(path, "no _atom_site rows with Cartn_x: no atoms")
    return ParsedLoop(path, blocks[0]), blocks[0], len(blocks) - 1


def _blocks_with_atoms(path: str, data: bytes) -> list[cif.Block]:
    try:
        document = cif.read_string(data)
    except (ValueError, RuntimeError) as error:
        raise StructureError(path, f"broken mmCIF syntax: {error}") from None
    return [block for block in document if len(block.find_values("_atom_site.Cartn_x")) > 0]
