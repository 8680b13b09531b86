"""mmCIF text and BinaryCIF to ``ParsedStructure`` (PDBx/mmCIF dictionary 5, wwPDB)."""

import re
from dataclasses import replace

import gemmi
import numpy as np
from gemmi import cif

from data_prep.files.dates import is_date
from data_prep.structure.atom_site import MAX_DAMAGED_FRACTION, AtomSite, ParsedStructure, plausible
from data_prep.structure.binary_cif import read_blocks
from data_prep.structure.mmcif_atoms import AtomLoop, ParsedLoop, read_atom_loop
from data_prep.structure.models import ModelChoice, choose_models, model_note
from data_prep.structure.structure_bytes import StructureError
from data_prep.structure.words import Words

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
        **{name: column.take(start) for name, column in words.items()},
        **{name: column[start] for name, column in numbers.items()},
        ters=np.zeros(len(start), dtype=np.int64),
    )
    return atoms, warnings


def _either(loop: AtomLoop, first: str, second: str) -> Words:
    """The first of two columns, and where a row states nothing there the second; the one that is there, if one is."""
    words = loop.words(first, second)
    if "" not in words.values or not (loop.has(first) and loop.has(second)):
        return words
    return Words.of(one or other for one, other in zip(words.list(), loop.words(second).list(), strict=True))


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
        pairs = zip(asyms.list(), entities.list(), strict=True)
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
