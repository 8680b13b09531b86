"""The alpha carbons of a structure file, for those who need nothing else: what ``structure_io`` reads, sooner.

Most PDB files are ordinary: fixed columns, standard residues in the order of their numbers, sound coordinates, no
SEQRES to place them along. Of such a file only the alpha carbons are converted, once it is certain that reading all of
it would find nothing to repair, drop or report. In doubt, and for the other formats, the whole file is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from data_prep.atom_arrays import ALLOWED_ATOMS, is_hydrogen
from data_prep.atom_site import AtomSite
from data_prep.components import ATOM_NAMES_EVERYWHERE
from data_prep.conformers import conformer_rows
from data_prep.decimals import read_decimals
from data_prep.pdb_header import PdbHeader
from data_prep.record import ProteinRecord
from data_prep.residues import ATOM37_INDEX, RESNAMES, RESTYPES
from data_prep.structure_bytes import StructureText, read_text
from data_prep.structure_io import read_structure
from data_prep.words import Words


@dataclass(frozen=True, eq=False)
class CalphaTrace:
    """The alpha carbons of one protein chain; fields and N residues as of ``ProteinRecord``."""

    chain_id: str
    sequence: str
    residue_index: np.ndarray
    auth_seq_id: np.ndarray
    insertion_code: np.ndarray
    ca_positions: np.ndarray
    """float32 [N, 3], angstrom; 0 where the mask is False."""
    ca_mask: np.ndarray
    """bool [N]."""
    b_column: "BColumn"
    method: str | None
    source_sha256: str
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sequence)

    @classmethod
    def of(cls, record: ProteinRecord) -> Self:
        """The trace of a chain that has been read whole."""
        residue, atom = np.nonzero(record.atom37_mask)
        return cls(
            chain_id=record.chain_id,
            sequence=record.sequence,
            residue_index=record.residue_index,
            auth_seq_id=record.auth_seq_id,
            insertion_code=record.insertion_code,
            ca_positions=record.ca_positions,
            ca_mask=record.ca_mask,
            b_column=BColumn(len(record), residue, atom == _CA, record.b_factors[residue, atom]),
            method=record.method,
            source_sha256=record.source_sha256,
            warnings=record.warnings,
        )


@dataclass(frozen=True, eq=False)
class BColumn:
    """The B-factors of the A heavy atoms of N residues."""

    n_residues: int
    residue: np.ndarray
    """int64 [A], increasing."""
    is_ca: np.ndarray
    """bool [A]."""
    content: np.ndarray
    """float32 [A], or uint8 [A, 6], the column as it stands in the file."""

    @cached_property
    def values(self) -> np.ndarray:
        """float32 [A]; 0 where the file states none."""
        if self.content.ndim == 1:
            return self.content
        return read_decimals(self.content, 2, 0.0)[0].astype(np.float32)

    @cached_property
    def of_ca(self) -> np.ndarray:
        """float32 [N]: those of the alpha carbons; 0 without one."""
        values = np.zeros(self.n_residues, dtype=np.float32)
        values[self.residue[self.is_ca]] = self.values[self.is_ca]
        return values

    @cached_property
    def n_atoms(self) -> np.ndarray:
        """int64 [N]: heavy atoms of each residue."""
        return np.bincount(self.residue, minlength=self.n_residues)


def read_calpha(path: str | Path) -> list[CalphaTrace]:
    """The alpha carbons of all protein chains of the first model, in file order; never empty.

    Chains, residues, conformers and warnings are those of ``structure_io.read_structure``, and so are the errors.
    """
    text = read_text(path)
    traces = _ordinary(text) if text.format == "pdb" else None
    return [CalphaTrace.of(record) for record in read_structure(path)] if traces is None else traces


_CA = ATOM37_INDEX["CA"]
_MOST_REGIONS = 16
"""Stretches of lines of one width after which a file is not taken for ordinary."""

_AATYPE_OF_CELL: dict[int, int] = {
    int.from_bytes(name.encode(), "little"): i for i, name in enumerate(RESNAMES[: len(RESTYPES)])
}
"""Columns 18-20 of a standard residue, as a little-endian number -> 0 to 19."""

_LETTERS = np.frombuffer(RESTYPES.encode(), dtype=np.uint8)

_ALLOWED = (ALLOWED_ATOMS.astype(np.int64) << np.arange(ALLOWED_ATOMS.shape[1])).sum(axis=1)
"""int64 [21]: bits of the atoms that a residue may have, by their place in atom37."""

_ATOM, _HETATM, _ANISOU, _CONECT = (int.from_bytes(word, "little") for word in (b"ATOM", b"HETA", b"ANIS", b"CONE"))
"""The first four letters of the records that are many."""

_TM = int.from_bytes(b"TM", "little")

_NARROWEST = 67
"""Bytes of a line that holds an ATOM record up to its B-factor."""


class _AtomBits:
    """Columns 13-16 of an atom as a number -> the bit of its place in atom37, 0 for a hydrogen, -1 for anything else.

    A table by hash value that learns the names as they come.
    """

    def __init__(self) -> None:
        self._key = np.zeros(1 << 16, dtype=np.uint32)
        self._bit = np.full(1 << 16, -1, dtype=np.int64)

    def __getitem__(self, names: np.ndarray) -> np.ndarray:
        """int64 [A] of uint32 [A]."""
        slot = ((names * np.uint32(0x9E3779B1)) >> np.uint32(16)).astype(np.int64)
        unknown = self._key[slot] != names
        if unknown.any():
            for name in np.unique(names[unknown]).tolist():
                self._learn(name)
            bits = self._bit[slot]
            bits[self._key[slot] != names] = -1  # two names of one hash value: the file counts as unusual
            return bits
        return self._bit[slot]

    def _learn(self, name: int) -> None:
        slot = ((name * 0x9E3779B1) & 0xFFFFFFFF) >> 16
        text = name.to_bytes(4, "little").decode("latin-1").strip()
        self._key[slot] = name
        if text in ATOM37_INDEX and text not in ATOM_NAMES_EVERYWHERE:
            self._bit[slot] = 1 << ATOM37_INDEX[text]
        else:
            self._bit[slot] = 0 if is_hydrogen(text) else -1


_ATOM_BITS = _AtomBits()


def _leading_pairs() -> np.ndarray:
    """bool [65536]: two characters, the left one in the low byte, that may follow each other before a digit."""
    blank, sign, digits = [ord(" ")], [ord("+"), ord("-")], list(range(ord("0"), ord("9") + 1))
    table = np.zeros((256, 256), dtype=bool)  # [right, left]
    for left, right in ((blank, blank + sign + digits), (sign, digits), (digits, digits)):
        table[np.ix_(right, left)] = True
    return table.ravel()


_LEADING = _leading_pairs()
_DIGITS_AND_POINT = np.uint64(int.from_bytes(b"\0\0\0\xf0\xff\xf0\xf0\xf0", "little"))
_THEIR_HIGH_HALF = np.uint64(int.from_bytes(b"\0\0\0\x30.\x30\x30\x30", "little"))
_SIX = np.uint64(int.from_bytes(b"\0\0\0\6\0\6\6\6", "little"))


def _sound_coordinates(words: np.ndarray) -> bool:
    """Whether every word (uint64, 8 characters) is a right-aligned number with three decimals."""
    if not ((words & _DIGITS_AND_POINT) == _THEIR_HIGH_HALF).all():
        return False
    if not (((words + _SIX) & _DIGITS_AND_POINT) == _THEIR_HIGH_HALF).all():  # ":" to "?" end up above "9"
        return False
    leading = (words & np.uint64(0xFFFFFF)).view(np.int64)
    return bool(_LEADING[leading & 0xFFFF].all() and _LEADING[leading >> 8].all())


_SHARE_OF_DIGIT = 10.0 ** np.array([3, 2, 1, 0, 0, -1, -2, -3])  # of each character, the point among them


def _coordinates(words: np.ndarray) -> np.ndarray:
    """float64 [n, 3], angstrom, of uint64 [n, 3] that are ``_sound_coordinates``."""
    cells = words.view(np.uint8).reshape(-1, 3, 8)
    values = np.where(cells >= ord("0"), cells & 15, 0) @ (1000 * _SHARE_OF_DIGIT)
    return np.copysign(values, 0.5 - (cells[..., :3] == ord("-")).any(axis=-1)) / 1000


def _residue_numbers(cells: np.ndarray) -> np.ndarray | None:
    """int64 [n] of uint8 [n, 4]; None where one is not blanks, a minus or none, digits."""
    pairs = cells[:, :3].astype(np.int64) + 256 * cells[:, 1:].astype(np.int64)
    if not _LEADING[pairs].all() or (cells[:, 3] < ord("0")).any() or (cells == ord("+")).any():
        return None
    values = np.where(cells >= ord("0"), cells & 15, 0) @ np.array([1000, 100, 10, 1])
    return np.where((cells[:, :3] == ord("-")).any(axis=-1), -values, values)


@dataclass(frozen=True, eq=False)
class _Atoms:
    """ATOM and HETATM records as views of the text, a part of the columns each. A rows."""

    head: np.ndarray
    """uint32 [A]: columns 1-4."""
    name: np.ndarray
    """uint32 [A]: 13-16."""
    altloc: np.ndarray
    """uint8 [A]: 17."""
    residue: np.ndarray
    """uint64 [A]: 18-25, component, chain and most of the number."""
    number: np.ndarray
    """uint32 [A]: 24-27, the end of the number and the insertion code."""
    coordinates: np.ndarray
    """uint64 [A, 3]: 31-54."""
    factors: np.ndarray
    """uint8 [A, 12]: 55-66."""

    def __len__(self) -> int:
        return len(self.head)

    @classmethod
    def of_lines(cls, data: bytes, start: int, width: int, rows: int) -> Self:
        """Of ``rows`` lines of ``width`` bytes from ``start`` on."""

        def column(first: int, dtype: str, *more: int) -> np.ndarray:
            shape, strides = (rows, *more), (width, *(np.dtype(dtype).itemsize for _ in more))
            return np.ndarray(shape, dtype, data, start + first - 1, strides)

        return cls(
            column(1, "<u4"), column(13, "<u4"), column(17, "u1"), column(18, "<u8"), column(24, "<u4"),
            column(31, "<u8", 3), column(55, "u1", 12),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rows of several."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns)) if len(parts) > 1 else parts[0]

    def take(self, rows: np.ndarray) -> Self:
        """Some of the rows (int or bool index)."""
        return type(self)(*(column[rows] for column in vars(self).values()))

    @property
    def chain(self) -> np.ndarray:
        """uint8 [A]: column 22."""
        return (self.residue >> np.uint64(32)).astype(np.uint8)


def _first_atom(data: bytes) -> int:
    """Where the first line that begins with ATOM starts, -1 without one."""
    return 0 if data.startswith(b"ATOM") else data.find(b"\nATOM") + 1 or -1


def _polymer_atoms(data: bytes, start: int) -> _Atoms | None:
    """The ATOM records of the only model from ``start`` on; None unless all lines are ordinary.

    They are in stretches of lines of one width. What is HETATM must follow the end of its chain, as ligands and water
    do: the chain does not have it.
    """
    parts: list[_Atoms] = []
    ends: list[tuple[int, int]] = []  # atoms before a TER, and the chain that it ends
    n_atoms = 0
    for _ in range(_MOST_REGIONS):
        width = data.find(b"\n", start) + 1 - start
        rows = (len(data) - start) // width
        is_line = np.ndarray((rows,), np.uint8, data, start + width - 1, (width,)) == ord("\n")
        rows = rows if is_line.all() else int(is_line.argmin())
        text = np.frombuffer(data, np.uint8, rows * width, start)
        if np.count_nonzero(text - np.uint8(32) > 94) != rows:  # all is printable but the ends of the lines
            return None
        closed = -1
        if width < _NARROWEST:
            lines = data[start : start + rows * width].splitlines()
            others = list(enumerate(lines))
            is_atom = np.zeros(rows, dtype=bool)
        else:
            atoms = _Atoms.of_lines(data, start, width, rows)
            is_atom = atoms.head == _ATOM
            hetero = atoms.head == _HETATM
            if hetero.any():
                is_atom |= hetero & (np.ndarray((rows,), "<u2", data, start + 4, (width,)) == _TM)
            told = is_atom | (atoms.head == _ANISOU) | (atoms.head == _CONECT)
            others = [
                (row, data[start + row * width : start + (row + 1) * width - 1])
                for row in np.flatnonzero(~told).tolist()
            ]
        for row, line in others:
            if line.startswith(b"ENDMDL"):
                is_atom[row:], closed = False, row
                break
            if line.startswith(b"TER") and not line[3:6].strip() and (n_atoms or len(line) > 21):
                ended = line[21] if len(line) > 21 else int(parts[-1].chain[-1])  # a bare TER: the chain before it
                ends.append((n_atoms + int(np.count_nonzero(is_atom[:row])), ended))
            elif line.strip() not in (b"", b"END") and not line.startswith((b"CONECT", b"MASTER")):
                return None
        if is_atom.any():
            parts.append(atoms if is_atom.all() else atoms.take(is_atom))
            n_atoms += len(parts[-1])
        start += (rows if closed < 0 else closed) * width
        if closed >= 0 or start == len(data):
            break
    else:
        return None
    if any(record in data[start:] for record in (b"\nMODEL", b"\nSEQRES", b"\nEXPDTA")):
        return None  # the line of ENDMDL comes before
    atoms = _Atoms.joined(parts)
    if not _sound_coordinates(np.ascontiguousarray(atoms.coordinates).ravel()):
        return None
    hetero = atoms.head == _HETATM
    if not ends and not hetero.any():
        return atoms
    after = np.zeros(len(atoms), dtype=bool)
    chains = atoms.chain
    for place, chain in ends:
        after[place:] |= chains[place:] == chain
    if (after != hetero).any():
        return None
    return atoms.take(~hetero) if hetero.any() else atoms


def _ordinary(text: StructureText) -> list[CalphaTrace] | None:
    """The traces of a file of which nothing has to be said but its alternate locations; None for any other."""
    data = text.data if text.data.endswith(b"\n") else text.data + b"\n"
    start = _first_atom(data)
    header = b"\n" + data[: max(start, 0)]
    if start < 0 or b"\nHETATM" in header or b"\nSEQRES" in header or header.count(b"\nMODEL") > 1:
        return None
    atoms = _polymer_atoms(data, start)
    if atoms is None or not len(atoms):
        return None
    method = PdbHeader(header.splitlines()).method() if b"EXPDTA" in header else None
    chains = atoms.chain
    cuts = np.flatnonzero(chains[1:] != chains[:-1]) + 1
    if len({int(chains[0]), *chains[cuts].tolist()}) <= len(cuts):
        return None  # a chain that comes again
    traces = []
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(atoms)], strict=True):
        chain = atoms.take(slice(first, last)) if len(cuts) else atoms
        trace = _trace(chain, method, text.sha256)
        if trace is None:
            return None
        traces.append(trace)
    return traces


def _trace(atoms: _Atoms, method: str | None, sha256: str) -> CalphaTrace | None:
    """The trace of one chain, None unless it is ordinary."""
    new = np.ones(len(atoms), dtype=bool)
    new[1:] = (atoms.residue[1:] != atoms.residue[:-1]) | (atoms.number[1:] != atoms.number[:-1])
    start = np.flatnonzero(new)
    first = atoms.residue[start]
    aatypes = [_AATYPE_OF_CELL.get(cell, -1) for cell in (first & np.uint64(0xFFFFFF)).tolist()]
    if -1 in aatypes:
        return None
    aatype = np.array(aatypes)
    codes = (atoms.number[start] >> np.uint32(24)).astype(np.uint8)
    # The number is columns 23-26: the last three bytes of one word and of the other, but for the insertion code.
    cells = np.empty((len(start), 4), dtype=np.uint8)
    cells[:, 0] = first >> np.uint64(40)
    cells[:, 1:] = np.ascontiguousarray(atoms.number[start]).view(np.uint8).reshape(-1, 4)[:, :3]
    number = _residue_numbers(cells)
    if number is None:
        return None
    place = number * 256 + codes
    if not (place[1:] > place[:-1]).all():
        return None

    warnings: list[str] = []
    residue = np.cumsum(new) - 1
    if (atoms.altloc != ord(" ")).any():
        chosen = _conformers(atoms, start, residue, warnings)
        atoms, residue = atoms.take(chosen), residue[chosen]
        new = np.ones(len(atoms), dtype=bool)
        new[1:] = residue[1:] != residue[:-1]
        start = np.flatnonzero(new)
    bits = _ATOM_BITS[np.ascontiguousarray(atoms.name)]
    present = np.bitwise_or.reduceat(bits, start)
    if (present < 0).any() or (present != np.add.reduceat(bits, start)).any():
        return None  # an unknown name, or one twice
    if (present & ~_ALLOWED[aatype]).any() or not present.any():
        return None

    is_ca = bits == 1 << _CA
    rows, where = np.flatnonzero(is_ca), residue[is_ca]
    size = len(aatype)
    positions, mask = np.zeros((size, 3), dtype=np.float32), np.zeros(size, dtype=bool)
    positions[where] = _coordinates(np.ascontiguousarray(atoms.coordinates[rows]))
    mask[where] = True
    heavy = slice(None) if bits.all() else bits != 0
    steps = np.ones(size, dtype=np.int64)
    steps[1:] = np.diff(number)
    blank = (codes == ord(" ")).all()
    return CalphaTrace(
        chain_id=chr(int(first[0] >> np.uint64(32)) & 0xFF).strip(),
        sequence=_LETTERS[aatype].tobytes().decode("ascii"),
        residue_index=(np.cumsum(np.maximum(steps, 1)) - 1).astype(np.int32),
        auth_seq_id=number.astype(np.int32),
        insertion_code=np.zeros(size, "<U1") if blank else np.array([chr(code).strip() for code in codes], "<U1"),
        ca_positions=positions,
        ca_mask=mask,
        b_column=BColumn(size, residue[heavy], is_ca[heavy], atoms.factors[heavy, 6:]),
        method=method,
        source_sha256=sha256,
        warnings=tuple(warnings),
    )


def _conformers(atoms: _Atoms, start: np.ndarray, residue: np.ndarray, warnings: list[str]) -> np.ndarray:
    """bool [A]: the atoms of the chosen conformer of each residue; all of those without alternate locations."""
    labelled = np.zeros(len(start), dtype=bool)
    labelled[residue[atoms.altloc != ord(" ")]] = True
    rows = np.flatnonzero(labelled[residue])
    count = np.bincount(residue[rows], minlength=len(start))[labelled]
    n = len(count)
    nothing, same = np.zeros(n, dtype=np.int32), Words.constant("", n)
    site = AtomSite(
        name=Words.constant("", len(rows)),
        altloc=Words.of_cells(atoms.altloc[rows, None]),
        xyz=np.zeros((len(rows), 3)),
        occupancy=_occupancy(atoms.factors[rows, :6]),
        b_factor=np.zeros(len(rows), dtype=np.float32),
        start=np.cumsum(count) - count,
        resname=same, chain=same, segment=same, seqnum=nothing, icode=same, label_seq=nothing,
        hetero=np.zeros(n, dtype=bool),
    )  # fmt: skip
    kept, _ = conformer_rows(np.arange(n), site, warnings)
    chosen = np.ones(len(atoms), dtype=bool)
    chosen[rows] = False
    chosen[rows[kept]] = True
    return chosen


def _occupancy(cells: np.ndarray) -> np.ndarray:
    """float32 [A] of uint8 [A, 6]; 1 where none is stated."""
    values, stated = read_decimals(cells, 2, 0.0)
    values = values.astype(np.float32)
    values[~stated] = 1.0
    return values
