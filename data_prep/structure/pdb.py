"""PDB text to ``ParsedStructure`` (format version 3.3, wwPDB 2012, and what older and foreign writers made of it).

The columns are cut here and not by a parser library: the ones measured turn ``********`` or a blank into 0.0, refuse
pre-1996 files whose columns 73-80 carry the entry id, or stop at a line that is only foreign.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable
from operator import itemgetter

import numpy as np

from data_prep.files.text import is_date
from data_prep.structure.atom_site import (
    MAX_DAMAGED_FRACTION,
    AtomSite,
    ModelChoice,
    ParsedStructure,
    choose_models,
    model_note,
    plausible,
)
from data_prep.structure.categorical import Categorical
from data_prep.structure.components import kind
from data_prep.structure.decimals import read_decimals, read_integers
from data_prep.structure.structure_bytes import StructureError

MONTHS: tuple[str, ...] = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

HYBRID36_DIGITS: str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Numbers beyond their columns go on in base 36 with a leading letter (hybrid-36, cctbx): after 9999 comes A000."""


def word(text: bytes) -> int:
    """The number that these bytes are as a little-endian word."""
    return int.from_bytes(text, "little")


_READ = 76
"""Columns of an ATOM record that are read, up to the segment id."""
_BEFORE_SEGMENT = 66
"""Columns up to the B-factor."""

_LEAST_MEAN_WIDTH, _ANY_LINES = 20, 10_000_000
"""Characters of a line in the mean, in texts of more bytes than the latter: each line takes some sixty bytes more, so
that a text of line breaks would fill the memory."""

_LAST_COORDINATE = (46, 54)
"""Where z begins and ends."""

_WIDTH = 80
"""Columns that are cut out of the text: a whole number of 8-byte words, so that words can be compared."""


_RESIDUE_WORDS = (
    (2, word(b"\0\xff\xff\xff\xff\xff\xff\xff")), (3, word(b"\xff\xff\xff")), (9, word(b"\xff\xff\xff\xff"))
)  # fmt: skip
"""Words of a record and their bytes that say which residue an atom belongs to: component (columns 18-20), chain (21 and
22), number (23-26), insertion code (27), segment (73-76)."""

_IDENTITY = slice(12, 27)
"""Columns of an atom's name, conformer, component, chain, number and insertion code."""

_CHAIN = slice(20, 22)
"""Where the chain id stands: one letter in the second of these columns, or two (see ``_fourth_letters``)."""

_SEGMENT = slice(72, 76)

_ONE_FORM = frozenset(
    ("GLY", "ALA", "VAL", "LEU", "ILE", "PRO", "PHE", "TRP", "TYR", "SER", "THR", "ASN", "GLN", "MET")
)
"""Residues that no force field tells apart by a fourth letter, as it does LYSH or HISB."""


_NO_RESIDUES = ("water", "other")
"""Kinds of components whose records may be damaged: VMD, for one, numbers waters beyond 9999 in hexadecimal."""

_READ_BESIDE_ATOMS = tuple(word(name) for name in (b"HEAD", b"EXPD", b"REVD", b"REMA", b"SEQR", b"MODR", b"MODE"))
"""The first four letters of the other records of interest, beside TER, END and ENDMDL."""


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
        three = first & word(b"\xff" * 3)
        is_read = (three == word(b"TER")) | (three == word(b"END"))
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
        if len(short):  # no segment id, and of the shortest not even a B-factor
            table[short, _BEFORE_SEGMENT:_READ] = ord(" ")
            short = short[length[short] < _BEFORE_SEGMENT]
        if len(short):
            begin, end = _LAST_COORDINATE
            length = np.where(length < end, np.minimum(length, begin), length)
            inside = np.arange(_BEFORE_SEGMENT) < length[short, None]
            table[short, :_BEFORE_SEGMENT] = np.where(inside, table[short, :_BEFORE_SEGMENT], ord(" "))
        return table


def parse_pdb(path: str, data: bytes, model: ModelChoice = None) -> list[ParsedStructure]:
    """Parse the chosen models of PDB text; their numbers are those of the MODEL records.

    Raises ``StructureError`` without ATOM records, for a model that is not there, for text in other than fixed
    columns, and where more than ``MAX_DAMAGED_FRACTION`` of the ATOM records of a model are damaged.
    """
    if len(data) > _ANY_LINES and data.count(b"\n") + data.count(b"\r") > len(data) // _LEAST_MEAN_WIDTH:
        raise StructureError(path, f"lines of fewer than {_LEAST_MEAN_WIDTH} characters in the mean: no PDB file")
    lines = _Lines(data)
    models, notes = _models(lines)
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
                warnings=(*warnings, *notes, *model_note(len(models), position, model)),
            )
        )
    return parsed


def _models(lines: _Lines) -> tuple[list[tuple[int, int, int]], list[str]]:
    """(first line, line after the last, number) of each model that has ATOM records, and remarks.

    A model is numbered by its MODEL record, else by its order. Where END or ENDMDL stand without MODEL, as between the
    frames of a trajectory, what repeats the atoms of the first part is a further model; other parts belong to it.
    """
    ends = [(0, b"")]
    ends += [(n, line) for n, line in lines.others if line[:6].rstrip() in (b"MODEL", b"ENDMDL", b"END")]
    stops = [number for number, _ in ends[1:]] + [len(lines.start)]
    parts = [(start, stop, line) for (start, line), stop in zip(ends, stops, strict=True)]
    parts = [part for part in parts if lines.is_atom[part[0] : part[1]].any()]
    is_model = [line.startswith(b"MODEL") for _, _, line in parts]
    notes = []
    if not all(is_model):
        other = is_model.index(False) or 1  # a part to compare the first with
        if len(parts) > 1 and _share_repeated(lines, parts[0], parts[other]) > 0.5:
            notes = ["frames without MODEL records, parted by END or ENDMDL"]
        elif any(is_model):
            parts = [part for part, here in zip(parts, is_model, strict=True) if here]
            notes = ["atoms outside of the MODEL records left out"]
        else:
            notes = ["atoms after END read as part of the same model"] if len(parts) > 1 else []
            parts = [(0, len(lines.start), b"")] if parts else []
    orders = {start: order for order, (start, _) in enumerate((e for e in ends if e[1].startswith(b"MODEL")), start=1)}
    models = []
    for order, (start, stop, line) in enumerate(parts, start=1):
        text = line[6:].strip() if line.startswith(b"MODEL") else b""
        models.append((start, stop, int(text) if text.isdigit() else orders.get(start, order)))
    return models, notes


def _share_repeated(lines: _Lines, first: tuple[int, int, bytes], second: tuple[int, int, bytes]) -> float:
    """Share of the atoms of a part of the file that a part before it has too."""
    atoms = []
    for start, stop, _ in (first, second):
        table = lines.table(np.flatnonzero(lines.is_atom[start:stop]) + start)[:, _IDENTITY]
        atoms.append(np.ascontiguousarray(table).view("V15")[:, 0].tolist())
    there = set(atoms[0])
    return sum(atom in there for atom in atoms[1]) / len(atoms[1])


def _read_model(
    path: str, lines: _Lines, records: np.ndarray, ter_lines: list[tuple[int, bytes]]
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
    with_fourth = _fourth_letters(table)
    ters, ended = _ters(table, records, ter_lines)
    atoms, damaged = _atom_site(table, ters, with_fourth)
    damage = [lines[number] for number in records[damaged].tolist()]
    if len(damage) > MAX_DAMAGED_FRACTION * len(records) and len(damage) > 1:
        raise StructureError(
            path, f"damaged ATOM records: {len(damage)} of {len(records)}, for example {_shown(damage[0])}"
        )
    if not len(atoms):
        raise StructureError(path, f"no sound ATOM record, for example {_shown(lines[int(records[0])])}")
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


def _fourth_letters(table: np.ndarray) -> bool:
    """Whether column 21 holds the fourth letter of residue names (NMET, TIP3), as force fields write them.

    It is made blank, as the format has it, where it holds neither such letters nor the first letter of chain ids: gemmi
    and others write that there when one letter is not enough.
    """
    marked = np.flatnonzero(table[:, 20] != ord(" "))
    if not len(marked):
        return False
    cells = Categorical.of_cells(table[marked, 17:21])
    if any(len(name) == 4 and name[:3] in _ONE_FORM and name[3].isalnum() for name in cells.values):
        return False
    named = cells.lookup(lambda name: len(name) == 4 and kind(name) in ("amino", "water"), bool)
    table[marked[~named], 20] = ord(" ")
    return bool(named.any())


def _ters(table: np.ndarray, records: np.ndarray, lines: list[tuple[int, bytes]]) -> tuple[np.ndarray, frozenset[str]]:
    """int64 [atoms], how many TER records stand before each atom in its chain; ids of the chains that have one."""
    count = np.zeros(len(records), dtype=np.int64)
    ended: set[str] = set()
    for number, line in lines:
        if line[3:6].strip():
            continue  # a word that only begins with TER
        before = int(np.searchsorted(records, number))
        chain = line[_CHAIN] if len(line) > 21 else b""
        if not chain.strip():  # a bare "TER" ends the chain of the atom before it
            chain = table[before - 1, _CHAIN].tobytes() if before else b"  "
        count[before:] += (table[before:, 21] == chain[1]) & (table[before:, 20] == chain[0])
        ended.add(chain.decode("latin-1").strip())
    return count, frozenset(ended)


def _atom_site(table: np.ndarray, ters: np.ndarray, with_fourth: bool) -> tuple[AtomSite, np.ndarray]:
    """Columns of the sound ATOM records, and which records are damaged (int [n]); of water and ligands none is."""
    # Latin-1 or control bytes inside a record are damage; in headers they are nobody's concern.
    sound = _printable(table, _LAST_COORDINATE[1])
    xyz, stated = read_decimals(table[:, 30:54].reshape(-1, 3, 8), 3, np.nan)
    seqnum, numbered = _residue_numbers(table[:, 22:26])
    sound &= numbered & plausible(xyz)
    if not stated.all():
        sound &= stated.all(axis=1)
    name = slice(17, 21 if with_fourth else 20)
    damaged = np.flatnonzero(~sound)
    if len(damaged):
        kept = np.flatnonzero(sound)
        damaged = damaged[
            Categorical.of_cells(table[damaged, name]).lookup(lambda word: kind(word) not in _NO_RESIDUES, bool)
        ]
        table, ters, xyz, seqnum = table[kept], ters[kept], xyz[kept], seqnum[kept]
    factors, given = read_decimals(table[:, 54:66].reshape(-1, 2, 6), 2, 0.0)
    occupancy, b_factor = factors.astype(np.float32).T
    occupancy[~given[:, 0]] = 1.0

    words = table.view("<u8")
    new = np.ones(len(table), dtype=bool)
    new[1:] = ters[1:] != ters[:-1]
    for place, part in _RESIDUE_WORDS:
        column = words[:, place] & part
        new[1:] |= column[1:] != column[:-1]
    start = np.flatnonzero(new)
    residues = table.take(start, axis=0)
    return AtomSite(
        name=Categorical.of_cells(table[:, 12:16]),
        altloc=Categorical.of_cells(table[:, 16:17]),
        xyz=xyz,
        occupancy=occupancy,
        b_factor=b_factor,
        start=start,
        resname=Categorical.of_cells(residues[:, name]),
        chain=Categorical.of_cells(residues[:, 21:22] if with_fourth else residues[:, _CHAIN]),
        segment=Categorical.of_cells(residues[:, _SEGMENT]),
        ters=ters[start],
        seqnum=seqnum[start],
        icode=Categorical.of_cells(residues[:, 26:27]),
        label_seq=np.zeros(len(start), dtype=np.int32),
        hetero=residues[:, 0] == ord("H"),
    ), damaged


def _printable(table: np.ndarray, width: int) -> np.ndarray:
    """bool [rows]: nothing but printable ASCII in the first ``width`` columns."""
    if len(table) and table.min() >= 32 and table.max() < 127:  # read at once, also where it is not asked for
        return np.ones(len(table), dtype=bool)
    columns = table[:, :width]
    return np.logical_and.reduce((columns >= 32) & (columns < 127), axis=1)


def _residue_numbers(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 [A] and which are numbers; hybrid-36 (A000 = 10000, Grosse-Kunstleve, cctbx) is understood."""
    numbers, stated = read_integers(cells)
    rest = np.flatnonzero(~stated)
    if len(rest):
        words = Categorical.of_cells(cells[rest])
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


class PdbHeader:
    """What the records beside the atoms say."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        wanted = (b"HEADER", b"EXPDTA", b"REVDAT", b"REMARK   2", b"SEQRES", b"MODRES")
        self.records: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith(wanted):
                text = line.decode("latin-1")
                self.records.setdefault(text[:6], []).append(text)

    def sequences(self) -> dict[str, tuple[str, ...]]:
        """SEQRES component ids by chain id, in the order of the serial numbers."""
        parts: dict[str, list[tuple[int, list[str]]]] = {}
        for line in self.records.get("SEQRES", []):
            serial = line[7:10].strip()
            chain = parts.setdefault(line[10:12].strip(), [])
            chain.append((int(serial) if serial.isdecimal() else len(chain) + 1, line[19:70].split()))
        return {
            chain: tuple(name for _, names in sorted(rows, key=lambda row: row[0]) for name in names)
            for chain, rows in parts.items()
        }

    def parents(self) -> dict[str, str]:
        """MODRES: component -> standard component."""
        pairs = ((line[12:15].strip(), line[24:27].strip()) for line in self.records.get("MODRES", []))
        return {component: parent for component, parent in pairs if component and parent}

    def resolution(self) -> float | None:
        """REMARK 2, angstrom."""
        for line in self.records.get("REMARK", []):
            match = re.search(r"RESOLUTION\.\s+(\d+\.\d*|\.\d+)\s+ANGSTROM", line)
            if match and float(match[1]) > 0:
                return float(match[1])
        return None

    def method(self) -> str | None:
        """EXPDTA; several methods are joined by '; '."""
        words = " ".join(line[10:79].strip() for line in self.records.get("EXPDTA", []))
        methods = [" ".join(part.split()).upper() for part in words.split(";")]
        return "; ".join(part for part in methods if part) or None

    def deposition_date(self) -> str | None:
        """ISO date of HEADER."""
        return next((_iso_date(line[50:59]) for line in self.records.get("HEADER", [])), None)

    def release_date(self) -> str | None:
        """The date of modification 1, which is the first release."""
        for line in self.records.get("REVDAT", []):
            if line[7:10].strip() == "1" and line[10:12].strip() == "" and (date := _iso_date(line[13:22])):
                return date
        return None


def _iso_date(text: str) -> str | None:
    """'06-MAR-06' to '2006-03-06'; years from 70 on are of the 20th century (the PDB began in 1971)."""
    match = re.fullmatch(r"(\d\d)-([A-Z]{3})-(\d\d)", text.strip().upper())
    if match is None or match[2] not in MONTHS:
        return None
    year = int(match[3])
    date = f"{1900 + year if year >= 70 else 2000 + year}-{MONTHS.index(match[2]) + 1:02d}-{match[1]}"
    return date if is_date(date) else None
