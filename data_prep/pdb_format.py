"""PDB text to ``ParsedStructure`` (format version 3.3, wwPDB 2012, and what older and foreign writers made of it).

The columns are cut here and not by a parser library: the ones measured turn ``********`` or a blank into 0.0, refuse
pre-1996 files whose columns 73-80 carry the entry id, or stop at a line that is only foreign.
"""

import re
from bisect import bisect_left
from operator import itemgetter

import numpy as np

from data_prep.atom_site import MAX_DAMAGED_FRACTION, AtomSite, ParsedStructure, plausible
from data_prep.decimals import read_decimals, read_integers
from data_prep.models import ModelChoice, choose_models, model_note
from data_prep.pdb_fields import HYBRID36_DIGITS, word
from data_prep.pdb_header import PdbHeader
from data_prep.structure_bytes import StructureError
from data_prep.words import Words

_READ = 66
"""Columns of an ATOM record that are read, up to the B-factor."""

_LEAST_MEAN_WIDTH, _ANY_LINES = 20, 10_000_000
"""Characters of a line in the mean, in texts of more bytes than the latter: each line takes some sixty bytes more, so
that a text of line breaks would fill the memory."""

_LAST_COORDINATE = (46, 54)
"""Where z begins and ends."""

_WIDTH = 72
"""Columns that are cut out of the text: a whole number of 8-byte words, so that words can be compared."""


_RESIDUE_WORDS = ((2, word(b"\0\xff\xff\xff\xff\xff\xff\xff")), (3, word(b"\xff\xff\xff")))
"""Words of a record and their bytes that say which residue an atom belongs to: component (columns 18-20), chain (21 and
22), number (23-26), insertion code (27)."""

_CHAIN = slice(20, 22)
"""Where the chain id stands: one letter in the second of these columns, or two (see ``_clear_column_21``)."""

_ONE_FORM = frozenset(
    ("GLY", "ALA", "VAL", "LEU", "ILE", "PRO", "PHE", "TRP", "TYR", "SER", "THR", "ASN", "GLN", "MET")
)
"""Residues that no force field tells apart by a fourth letter, as it does LYSH or HISB."""


_READ_BESIDE_ATOMS = tuple(
    word(name) for name in (b"HEAD", b"EXPD", b"REVD", b"REMA", b"SEQR", b"MODR", b"MODE", b"ENDM")
)
"""The first four letters of the other records of interest, beside TER."""


class _Lines:
    """The lines of a text as places in one buffer, so that whole columns can be cut at once."""

    def __init__(self, data: bytes) -> None:
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self.data, self.has_tabs = data, b"\t" in data
        padded = np.frombuffer(data + b" " * _WIDTH, dtype=np.uint8)
        breaks = np.flatnonzero(padded[: len(data)] == ord("\n"))
        self.start = np.concatenate([[0], breaks + 1])
        self.end = np.append(breaks, len(data))
        if self.start[-1] == len(data):
            self.start, self.end = self.start[:-1], self.end[:-1]
        # Overlapping windows, one from each byte on; numpy takes a row of a void type as one copy.
        self._windows = np.ndarray((len(data) + 1,), f"V{_WIDTH}", padded, 0, (1,))
        head = np.ndarray((len(data) + 1,), "<u8", padded, 0, (1,))[self.start]
        first, six = head & word(b"\xff" * 4), head & word(b"\xff" * 6)
        self.is_atom = (first == word(b"ATOM")) | (six == word(b"HETATM"))
        # The many records that state nothing of interest here are passed over at once.
        passed_over = self.is_atom | (first == word(b"ANIS")) | (first == word(b"CONE"))
        remark = (six == word(b"REMARK")) & (head != word(b"REMARK  "))
        others = np.flatnonzero(~(passed_over | remark))
        first = first[others]
        is_read = first & word(b"\xff" * 3) == word(b"TER")
        for beginning in _READ_BESIDE_ATOMS:
            is_read |= first == beginning
        others = others[is_read]
        places = zip(others.tolist(), self.start[others].tolist(), self.end[others].tolist(), strict=True)
        self.others = [(number, data[start:end]) for number, start, end in places]
        """The other lines that are read, with their numbers."""

    def __getitem__(self, number: int) -> bytes:
        return self.data[self.start[number] : self.end[number]]

    def table(self, numbers: np.ndarray) -> np.ndarray:
        """uint8 [lines, _WIDTH], filled with blanks up to ``_READ``; what stands from there on means nothing. Of a line
        that ends inside the last coordinate that coordinate is blank: it may lack digits.
        """
        table = self._windows[self.start[numbers]].view(np.uint8).reshape(-1, _WIDTH)
        length = self.end[numbers] - self.start[numbers]
        short = np.flatnonzero(length < _READ)
        if len(short):
            begin, end = _LAST_COORDINATE
            length = np.where(length < end, np.minimum(length, begin), length)
            inside = np.arange(_READ) < length[short, None]
            table[short, :_READ] = np.where(inside, table[short, :_READ], ord(" "))
        return table


def parse_pdb(path: str, data: bytes, model: ModelChoice = None) -> list[ParsedStructure]:
    """Parse the chosen models of PDB text; their numbers are those of the MODEL records.

    Raises ``StructureError`` without ATOM records, for a model that is not there, for text in other than fixed
    columns, and where more than ``MAX_DAMAGED_FRACTION`` of the ATOM records of a model are damaged.
    """
    if len(data) > _ANY_LINES and data.count(b"\n") + data.count(b"\r") > len(data) // _LEAST_MEAN_WIDTH:
        raise StructureError(path, f"lines of fewer than {_LEAST_MEAN_WIDTH} characters in the mean: no PDB file")
    lines = _Lines(data)
    models = _models(lines)
    if not models:
        raise StructureError(path, "no ATOM records")
    header = PdbHeader(line for _, line in lines.others)
    sequences, parents = header.sequences(), header.parents()
    ters = [(number, line) for number, line in lines.others if line.startswith(b"TER")]
    parsed = []
    for position in choose_models(path, [number for _, _, number in models], model):
        first, stop, number = models[position]
        records = np.flatnonzero(lines.is_atom[first:stop]) + first
        inside = slice(*(bisect_left(ters, place, key=itemgetter(0)) for place in (first, stop)))
        atoms, ended, warnings = _read_model(path, lines, records, ters[inside])
        parsed.append(
            ParsedStructure(
                atoms=atoms,
                sequences=sequences,
                parents=parents,
                ended_chains=ended,
                n_models=len(models),
                model_number=number,
                resolution=header.resolution(),
                method=header.method(),
                deposition_date=header.deposition_date(),
                release_date=header.release_date(),
                warnings=(*warnings, *model_note(len(models), position, model)),
            )
        )
    return parsed


def _models(lines: _Lines) -> list[tuple[int, int, int]]:
    """(first line, line after the last, number) of each model that has ATOM records; its order if none is stated."""
    starts = [
        (number, line) for number, line in lines.others if line.startswith(b"MODEL") and line[:6].rstrip() == b"MODEL"
    ]
    if not starts:
        return [(0, len(lines.start), 1)] if lines.is_atom.any() else []
    ends = [number for number, line in lines.others if line.startswith(b"ENDMDL")] + [len(lines.start)]
    models = []
    for order, (start, line) in enumerate(starts, start=1):
        next_start = starts[order][0] if order < len(starts) else len(lines.start)
        stop = min(next_start, ends[bisect_left(ends, start)])
        text = line[6:].strip()
        if lines.is_atom[start:stop].any():
            models.append((start, stop, int(text) if text.isdigit() else order))
    return models


def _read_model(
    path: str, lines: _Lines, records: np.ndarray, ters: list[tuple[int, bytes]]
) -> tuple[AtomSite, frozenset[str], list[str]]:
    """The atoms of the ATOM records on these lines (int [A], not empty), chains with a TER, and what was dropped."""
    warnings: list[str] = []
    tabs = sum(b"\t" in lines[number] for number in records.tolist()) if lines.has_tabs else 0
    if tabs > len(records) / 2:
        raise StructureError(path, f"not fixed-column PDB: tabs in {tabs} of {len(records)} ATOM records")
    cut_off = _cut_off(lines, int(records[-1]))
    if cut_off:
        warnings.append(f"the file ends inside an ATOM record, which was dropped: {_shown(cut_off)}")
        records = records[:-1]
        if not len(records):
            raise StructureError(path, "no complete ATOM record: the file is truncated")
    table = lines.table(records)
    _clear_column_21(table)
    segment, ended = _segments(table, records, ters)
    atoms, damaged = _atom_site(table, segment)
    damage = [lines[number] for number in records[damaged].tolist()]
    if len(damage) > MAX_DAMAGED_FRACTION * len(records) and len(damage) > 1:
        raise StructureError(
            path, f"damaged ATOM records: {len(damage)} of {len(records)}, for example {_shown(damage[0])}"
        )
    if not len(atoms):
        raise StructureError(path, f"no sound ATOM record, for example {_shown(damage[0])}")
    if damage:
        warnings.append(f"{len(damage)} damaged ATOM records dropped, for example {_shown(damage[0])}")
    return atoms, ended, warnings


def _cut_off(lines: _Lines, last_atom: int) -> bytes:
    """The last line of the file, if it is an ATOM record that ends before its coordinates do."""
    line = lines[last_atom]
    if len(line) >= _LAST_COORDINATE[1] or lines.data[lines.end[last_atom] :].strip():
        return b""
    return line


def _shown(line: bytes) -> str:
    return '"' + ascii(line[:66].decode("latin-1").rstrip())[1:-1] + '"'


def _clear_column_21(table: np.ndarray) -> None:
    """Make column 21 blank, as the format has it, unless it holds the first letter of chain ids: gemmi and others write
    it there when one letter is not enough. A force field's fourth letter of a residue name stands there too.
    """
    marked = table[table[:, 20] != ord(" ")]
    if len(marked):
        names = [name for name in Words.of_cells(marked[:, 17:21]).values if len(name) == 4]
        if not any(name[:3] in _ONE_FORM and name[3].isalnum() for name in names):
            table[:, 20] = ord(" ")


def _segments(
    table: np.ndarray, records: np.ndarray, ters: list[tuple[int, bytes]]
) -> tuple[np.ndarray, frozenset[str]]:
    """int64 [atoms], how many TER records stand before each atom in its chain; ids of the chains that have one."""
    segment = np.zeros(len(records), dtype=np.int64)
    ended: set[str] = set()
    for number, line in ters:
        if line[3:6].strip():
            continue  # a word that only begins with TER
        before = int(np.searchsorted(records, number))
        chain = line[_CHAIN] if len(line) > 21 else b""
        if not chain:  # a bare "TER" ends the chain of the atom before it
            chain = table[before - 1, _CHAIN].tobytes() if before else b"  "
        segment[before:] += (table[before:, 21] == chain[1]) & (table[before:, 20] == chain[0])
        ended.add(chain.decode("latin-1").strip())
    return segment, frozenset(ended)


def _atom_site(table: np.ndarray, segment: np.ndarray) -> tuple[AtomSite, np.ndarray]:
    """Columns of the sound ATOM records, and which records are damaged (int [n])."""
    # Latin-1 or control bytes inside a record are damage; in headers they are nobody's concern.
    sound = _printable(table, _LAST_COORDINATE[1])
    xyz, stated = read_decimals(table[:, 30:54].reshape(-1, 3, 8), 3, np.nan)
    seqnum, numbered = _residue_numbers(table[:, 22:26])
    sound &= numbered & plausible(xyz)
    if not stated.all():
        sound &= stated.all(axis=1)
    damaged = np.flatnonzero(~sound)
    if len(damaged):
        table, segment, xyz, seqnum = table[sound], segment[sound], xyz[sound], seqnum[sound]
    factors, given = read_decimals(table[:, 54:66].reshape(-1, 2, 6), 2, 0.0)
    occupancy, b_factor = factors.astype(np.float32).T
    occupancy[~given[:, 0]] = 1.0

    words = table.view("<u8")
    new = np.ones(len(table), dtype=bool)
    new[1:] = segment[1:] != segment[:-1]
    for place, kept in _RESIDUE_WORDS:
        part = words[:, place] & kept
        new[1:] |= part[1:] != part[:-1]
    start = np.flatnonzero(new)
    residues = table.take(start, axis=0)
    return AtomSite(
        name=Words.of_cells(table[:, 12:16]),
        altloc=Words.of_cells(table[:, 16:17]),
        xyz=xyz,
        occupancy=occupancy,
        b_factor=b_factor,
        start=start,
        resname=Words.of_cells(residues[:, 17:20]),
        chain=Words.of_cells(residues[:, _CHAIN]),
        segment=Words(segment[start], tuple(map(str, range(int(segment.max(initial=0)) + 1)))),
        seqnum=seqnum[start],
        icode=Words.of_cells(residues[:, 26:27]),
        label_seq=np.zeros(len(start), dtype=np.int32),
        hetero=residues[:, 0] == ord("H"),
    ), damaged


def _printable(table: np.ndarray, width: int) -> np.ndarray:
    """bool [rows]: nothing but printable ASCII in the first ``width`` columns."""
    if len(table) and table.min() >= 32 and table.max() < 127:  # read at once, also where it is not asked for
        return np.ones(len(table), dtype=bool)
    columns = table[:, :width]
    return ((columns >= 32) & (columns < 127)).all(axis=1)


def _residue_numbers(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 [A] and which are numbers; hybrid-36 (A000 = 10000, Grosse-Kunstleve, cctbx) is understood."""
    numbers, stated = read_integers(cells)
    rest = np.flatnonzero(~stated)
    if len(rest):
        words = Words.of_cells(cells[rest])
        found = [_residue_number(text) for text in words.values]
        values = np.array([0 if number is None else number for number in found], dtype=np.int64)
        numbers[rest] = values[words.code]
        stated[rest] = np.array([number is not None for number in found], dtype=bool)[words.code]
    return numbers.astype(np.int32), stated


def _residue_number(text: str) -> int | None:
    if text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    if re.fullmatch(r"[A-Z][0-9A-Z]{3}|[a-z][0-9a-z]{3}", text):
        value = 0
        for digit in text.upper():
            value = value * 36 + HYBRID36_DIGITS.index(digit)
        upper = value - 10 * 36**3 + 10_000
        return upper if text[0].isupper() else upper + 26 * 36**3
    return None
