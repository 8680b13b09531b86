"""mmCIF text and BinaryCIF to ``ParsedStructure`` (PDBx/mmCIF dictionary 5, wwPDB).

The wwPDB writes the _atom_site loop as a table: rows of one length, every item at the same place in each. Such a table
is cut into columns at once and never goes through the CIF parser, which would take most of the time of reading.
Anything else (quoted blanks, items over several lines, ragged rows) is parsed as CIF.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import gemmi
import numpy as np
from gemmi import cif

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
from data_prep.structure.binary_cif import read_blocks
from data_prep.structure.categorical import Categorical
from data_prep.structure.decimals import read_left_aligned
from data_prep.structure.structure_bytes import StructureError

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
    def _raw(self, name: str) -> Categorical:
        """The items of a column as they stand in the file, quotes and all."""

    @abstractmethod
    def _decimals(self, name: str, default: float) -> tuple[np.ndarray, np.ndarray]:
        """float64 [rows] and bool [rows]: which of the items are plain decimal numbers."""

    def words(self, *names: str, optional: bool = False) -> Categorical:
        """The first of the named columns that is there; '' for '.' and '?', and throughout if optional and missing."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            if optional:
                return Categorical.constant("", self.length)
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

    def _raw(self, name: str) -> Categorical:
        return Categorical.of(self._items(name))

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

    def _raw(self, name: str) -> Categorical:
        return Categorical.of_cells(self._table[:, slice(*self._columns[name])])

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


_NO_NUMBER = np.iinfo(np.int32).min

_ONE_LETTER_CODES = re.compile(r"(\s*([A-IK-Za-ik-z]|\([A-Za-z0-9]{1,5}\)))+\s*")
"""Letters, and component ids in brackets; ``entity_poly.pdbx_seq_one_letter_code``."""


def parse_mmcif(path: str, data: bytes, model: ModelChoice = None) -> list[ParsedStructure]:
    """Parse the chosen models of mmCIF text; their numbers are those of pdbx_PDB_model_num.

    Raises ``StructureError`` for broken syntax, without atoms, without a column that is needed, for a model that is
    not there.
    """
    loop, block, extra = read_atom_loop(path, data)
    return _parse(path, loop, block, extra, model)


def parse_binary_cif(path: str, data: bytes, model: ModelChoice = None) -> list[ParsedStructure]:
    """Parse BinaryCIF; parameters and errors as of ``parse_mmcif``."""
    blocks = read_blocks(path, data)
    if not blocks:
        raise StructureError(path, "no _atom_site rows: no atoms")
    return _parse(path, ParsedLoop(path, blocks[0]), blocks[0], len(blocks) - 1, model)


def _parse(path: str, loop: AtomLoop, block: cif.Block, extra: int, model: ModelChoice) -> list[ParsedStructure]:
    warnings = [f"{extra} further data blocks with atoms were not read"] if extra else []
    numbers = loop.integers("pdbx_PDB_model_num", default=1)
    order = list(dict.fromkeys(numbers[np.append(0, np.flatnonzero(np.diff(numbers)) + 1)].tolist()))
    chosen = choose_models(path, order, model)
    sequences, parents = _sequences(block, loop), _parents(block)
    parsed = []
    for position in chosen:
        atoms, dropped = _atom_site(loop.only(np.flatnonzero(numbers == order[position])))
        # Programs that do not state the sequences write anything as label_seq_id, often the author's number.
        has_labels = bool(sequences) and bool((atoms.label_seq > 0).any())
        if not has_labels:
            atoms = replace(atoms, label_seq=np.zeros_like(atoms.label_seq))
        parsed.append(
            ParsedStructure(
                atoms=atoms,
                sequences=sequences if has_labels else _by_chain(sequences, atoms),
                parents=parents,
                has_labels=has_labels,
                n_models=len(order),
                model_number=order[position],
                resolution=_resolution(block),
                method=_method(block),
                states_plddt=any("plddt" in value.lower() for value in block.find_values("_ma_qa_metric.type"))
                or any("plddt" in value.lower() for value in block.find_values("_ma_qa_metric.name")),
                deposition_date=_first_date(block, "_pdbx_database_status.recvd_initial_deposition_date")
                or _first_date(block, "_database_PDB_rev.date_original"),
                release_date=_release_date(block),
                warnings=(*warnings, *model_note(len(order), position, model), *dropped),
            )
        )
    return parsed


def _atom_site(loop: AtomLoop) -> tuple[AtomSite, list[str]]:
    """The atoms of a loop, and what was dropped."""
    warnings: list[str] = []
    damaged: dict[int, str] = {}
    xyz = np.stack([loop.numbers(f"Cartn_{axis}", np.nan, damaged) for axis in "xyz"], axis=1)
    if damaged:
        shown = (
            f"{len(damaged)} of {len(loop)} atoms have coordinates that are no numbers: {next(iter(damaged.values()))}"
        )
        if len(damaged) > max(1, MAX_DAMAGED_FRACTION * len(loop)):
            raise StructureError(loop.path, shown)
        warnings.append(shown)
    outside = ~plausible(xyz) & np.isfinite(xyz).all(axis=1)
    if outside.any():
        warnings.append(f"{outside.sum()} atoms with impossible coordinates treated as missing")
        xyz[outside] = np.nan
    words = {
        "resname": _either(loop, "label_comp_id", "auth_comp_id"),
        "chain": _either(loop, "auth_asym_id", "label_asym_id"),
        "segment": loop.words("label_asym_id", optional=True),
        "icode": loop.words("pdbx_PDB_ins_code", optional=True),
    }
    if not (loop.has("auth_seq_id") or loop.has("label_seq_id")):
        raise StructureError(loop.path, "no column _atom_site.auth_seq_id or label_seq_id")
    label_seq, seqnum = loop.integers("label_seq_id", default=0), loop.integers("auth_seq_id", default=_NO_NUMBER)
    numbers = {"seqnum": np.where(seqnum == _NO_NUMBER, label_seq, seqnum), "label_seq": label_seq}
    new = np.zeros(len(loop), dtype=bool)
    new[0] = True
    for column in (*(column.code for column in words.values()), *numbers.values()):
        new[1:] |= column[1:] != column[:-1]
    start = np.flatnonzero(new)
    atoms = AtomSite(
        name=_either(loop, "label_atom_id", "auth_atom_id"),
        altloc=loop.words("label_alt_id", optional=True),
        xyz=xyz,
        occupancy=loop.numbers("occupancy", default=1.0).astype(np.float32),
        b_factor=loop.numbers("B_iso_or_equiv", default=0.0).astype(np.float32),
        start=start,
        hetero=loop.words("group_PDB", optional=True).take(start).lookup("HETATM".__eq__, bool),
        resname=words["resname"].take(start),
        chain=words["chain"].take(start),
        segment=words["segment"].take(start),
        icode=words["icode"].take(start),
        seqnum=numbers["seqnum"][start],
        label_seq=numbers["label_seq"][start],
        ters=np.zeros(len(start), dtype=np.int64),
    )
    return atoms, warnings


def _either(loop: AtomLoop, first: str, second: str) -> Categorical:
    """The first of two columns, and where a row states nothing there the second; the one that is there, if one is."""
    words = loop.words(first, second)
    if "" not in words.values or not (loop.has(first) and loop.has(second)):
        return words
    return Categorical.of(one or other for one, other in zip(words.list(), loop.words(second).list(), strict=True))


def _rows(block: cif.Block, category: str, tags: list[str]) -> list[list[str]]:
    """Rows of a category; an absent optional tag (marked '?') and the values '.' and '?' are ''."""
    table = block.find(category, tags)
    present = [table.has_column(i) for i in range(len(tags))] if len(table) else []
    return [
        ["" if not here or row[i] in (".", "?") else cif.as_string(row[i]) for i, here in enumerate(present)]
        for row in table
    ]


def _sequences(block: cif.Block, loop: AtomLoop) -> dict[str, tuple[str, ...]]:
    """entity_poly_seq by label_asym_id; of a heterogeneous position the first listed component. Entities without are
    those of entity_poly, in one-letter codes.
    """
    by_entity: dict[str, dict[int, str]] = {}
    for entity, number, component in _rows(block, "_entity_poly_seq.", ["entity_id", "num", "mon_id"]):
        position = int(number) if number.isascii() and number.isdecimal() else 0  # 0 makes the sequence incomplete
        by_entity.setdefault(entity, {}).setdefault(position, component)
    complete = {
        entity: tuple(positions[i + 1] for i in range(len(positions)))
        for entity, positions in by_entity.items()
        if set(positions) == set(range(1, len(positions) + 1))
    }
    columns = ["entity_id", "type", "pdbx_seq_one_letter_code"]
    for entity, kind, letters in _rows(block, "_entity_poly.", columns):
        if entity not in by_entity and kind.startswith("polypeptide") and _ONE_LETTER_CODES.fullmatch(letters):
            complete[entity] = tuple(gemmi.expand_one_letter_sequence("".join(letters.split()), gemmi.ResidueKind.AA))
    pairs = _rows(block, "_struct_asym.", ["id", "entity_id"])
    if not pairs and loop.has("label_entity_id"):
        asyms, entities = loop.words("label_asym_id", optional=True), loop.words("label_entity_id")
        pairs = [list(pair) for pair in zip(asyms.list(), entities.list(), strict=True)]
    return {asym: complete[entity] for asym, entity in pairs if entity in complete}


def _by_chain(sequences: dict[str, tuple[str, ...]], atoms: AtomSite) -> dict[str, tuple[str, ...]]:
    """The same by the author's chain id: of the first polymer in each chain."""
    pairs = dict.fromkeys(zip(atoms.chain.list(), atoms.segment.list(), strict=True))
    return {chain: sequences[segment] for chain, segment in reversed(pairs) if segment in sequences}


def _parents(block: cif.Block) -> dict[str, str]:
    pairs = _rows(block, "_pdbx_struct_mod_residue.", ["label_comp_id", "parent_comp_id"])
    pairs += _rows(block, "_chem_comp.", ["id", "mon_nstd_parent_comp_id"])
    return {component: parent for component, parent in pairs if component and parent and component != parent}


def _resolution(block: cif.Block) -> float | None:
    for tag in ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution"):
        for value in block.find_values(tag):
            number = cif.as_number(value)
            if number > 0:
                return float(number)
    return None


def _method(block: cif.Block) -> str | None:
    methods = [cif.as_string(value).upper() for value in block.find_values("_exptl.method") if value not in (".", "?")]
    return "; ".join(methods) or None


def _first_date(block: cif.Block, tag: str) -> str | None:
    dates = [cif.as_string(value) for value in block.find_values(tag)]
    return min(filter(is_date, dates), default=None)


def _release_date(block: cif.Block) -> str | None:
    return _first_date(block, "_pdbx_audit_revision_history.revision_date") or _first_date(
        block, "_database_PDB_rev.date"
    )
