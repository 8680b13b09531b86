"""From the atoms of a model to one ``ProteinRecord`` per protein chain: the decisions, the same for both formats.

- A chain is a protein if it has more L-amino-acid residues than D-amino acids and than nucleotides. Others are listed
  as skipped with the reason. Ligands, ions, water and the caps ACE and NH2 are no residues of a chain.
- A modified residue is its parent (MSE is M), with the atoms that the parent has too. A D-amino acid inside an
  L-chain is X with its backbone. X keeps N, CA, C, O and CB.
- Of alternate locations the residue keeps one, as a whole: the one of highest mean occupancy, ties to the first
  listed. Microheterogeneity (two components at one place) is decided in the same way.
- The letter at an observed residue is what the coordinates are, also where SEQRES says something else.
- Coordinates are rounded to 0.001 angstrom, the precision of the formats and of our datasets.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from data_prep.files.text import some
from data_prep.structure.atom_site import AtomSite, ParsedStructure
from data_prep.structure.components import LETTER_OF_RESNAME, parent_letter
from data_prep.structure.conformers import ALLOWED_ATOMS, atom37_arrays, conformer_rows, one_component_per_place
from data_prep.structure.polymers import content, residue_kinds, split_polymers
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import sequence_to_aatype
from data_prep.structure.seqres import place_residues

_RESIDUES = frozenset({"amino", "D-amino", "listed"})
"""Kinds (see ``residue_kinds``) that are residues of a protein chain."""


@dataclass(frozen=True)
class SkippedChain:
    """A chain of polymer residues that is no protein."""

    chain_id: str
    reason: str


def assemble(
    parsed: ParsedStructure, *, name: str, source_file: str, source_sha256: str, taken: set[str], is_one_of_all: bool
) -> tuple[list[ProteinRecord], list[SkippedChain], str]:
    """Records of all protein chains of a model in file order, other polymers, and what the model holds in words.

    ``taken`` are ids in lower case that may not be given again, and gets those that are; where all models of the file
    are read (``is_one_of_all``) the id says which it is.
    """
    parsed = replace(parsed, atoms=parsed.atoms.with_whole_residues())
    kinds = residue_kinds(parsed)
    records: list[ProteinRecord] = []
    skipped: list[SkippedChain] = []
    for polymer in split_polymers(parsed, kinds):
        counts = Counter(kinds.take(polymer.residues).list())
        chain_id = parsed.atoms.chain[int(polymer.residues[0])]
        n_amino, n_d, n_nucleotide = counts["amino"], counts["D-amino"], counts["nucleotide"]
        if n_amino == 0 or n_amino <= max(n_d, n_nucleotide):
            if n_d or n_nucleotide:
                what = f"{n_nucleotide} nucleotides" if n_nucleotide >= n_d else f"{n_d} D-amino acids"
                skipped.append(SkippedChain(chain_id, f"no protein chain ({what}, {n_amino} L-amino acids)"))
            continue
        residues = polymer.residues
        if not counts.keys() <= _RESIDUES:
            residues = residues[kinds.take(residues).lookup(_RESIDUES.__contains__, bool)]
        record_id = _unique_id(name, chain_id, parsed.model_number if is_one_of_all else None, taken)
        of_chain = replace(parsed, warnings=parsed.warnings + polymer.remarks)
        record = _record(residues, of_chain, record_id, source_file=source_file, source_sha256=source_sha256)
        if record.atom37_mask.any():
            records.append(record)
        else:
            what = f"none of the atoms of {len(residues)} amino acids is a protein's"
            skipped.append(SkippedChain(chain_id, what))
    return records, skipped, "" if records else content(parsed.atoms)


def plain_id(stem: str, chain_id: str) -> str:
    """``<stem>_<chain>``, safe as a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]", lambda m: f"%{ord(m[0]):02X}", f"{stem}_{chain_id}" if chain_id else stem)


def _unique_id(stem: str, chain_id: str, model: int | None, taken: set[str]) -> str:
    """``<stem>_<chain>.m<model>``, of its own also where upper and lower case are the same."""
    base = plain_id(stem, chain_id)
    base += "" if model is None else f".m{model}"
    unique, number = base, 2
    while unique.lower() in taken:
        unique, number = f"{base}-{number}", number + 1
    taken.add(unique.lower())
    return unique


def _record(
    polymer: np.ndarray, parsed: ParsedStructure, record_id: str, *, source_file: str, source_sha256: str
) -> ProteinRecord:
    atoms, warnings = parsed.atoms, list(parsed.warnings)
    polymer = _in_order(polymer, atoms, warnings)
    chosen = one_component_per_place(polymer, atoms, parsed.has_labels, warnings)
    rows, position = conformer_rows(chosen, atoms, warnings)
    _report_modified(chosen, parsed, warnings)
    letter_of = {name: parent_letter(name, parsed.parents) for name in atoms.resname.values}
    letters = "".join([letter_of[name] for name in atoms.resname.take(chosen).list()])
    positions, mask, b_factors = atom37_arrays(chosen, letter_of, rows, position, atoms, warnings)
    placed = place_residues(chosen, letters, parsed, warnings)
    size = len(placed.sequence)
    is_whole = len(chosen) == size and np.array_equal(placed.where, np.arange(size))

    def spread(values: np.ndarray) -> np.ndarray:
        if is_whole:
            return values
        full = np.zeros((size, *values.shape[1:]), dtype=values.dtype)
        full[placed.where] = values[placed.keep]
        return full

    full_positions, full_mask, full_b_factors = spread(positions), spread(mask), spread(b_factors)
    foreign = full_mask & ~ALLOWED_ATOMS[sequence_to_aatype(placed.sequence)]
    if foreign.any():  # SEQRES says what an observed X is, and it has fewer atoms
        full_positions[foreign], full_mask[foreign], full_b_factors[foreign] = 0, False, 0
    return ProteinRecord(
        id=record_id,
        chain_id=atoms.chain[int(polymer[0])],
        sequence=placed.sequence,
        residue_index=placed.index,
        atom37_positions=full_positions,
        atom37_mask=full_mask,
        b_factors=full_b_factors,
        auth_seq_id=spread(atoms.seqnum[chosen]),
        insertion_code=spread(atoms.icode.take(chosen).lookup(lambda code: code[:1], "<U1")),
        resolution=parsed.resolution,
        method=parsed.method,
        deposition_date=parsed.deposition_date,
        release_date=parsed.release_date,
        source_file=source_file,
        source_sha256=source_sha256,
        model_number=parsed.model_number,
        states_plddt=parsed.states_plddt,
        warnings=tuple(warnings),
    )


def _in_order(polymer: np.ndarray, atoms: AtomSite, warnings: list[str]) -> np.ndarray:
    """File order, unless the file lists the chain backwards; along label_seq where there is one."""
    if atoms.label_seq[polymer[0]]:
        return polymer[np.argsort(atoms.label_seq[polymer], kind="stable")]
    numbers = atoms.seqnum[polymer]
    if len(polymer) > 2 and np.count_nonzero(numbers[1:] < numbers[:-1]) > 0.9 * (len(polymer) - 1):
        warnings.append("residues stand in reverse order of their numbers: sorted")
        icodes = atoms.icode.list()
        return np.array(sorted(polymer.tolist(), key=lambda residue: (atoms.seqnum[residue], icodes[residue])))
    return polymer


def _report_modified(polymer: np.ndarray, parsed: ParsedStructure, warnings: list[str]) -> None:
    names = parsed.atoms.resname
    present = [names.values[code] for code in np.flatnonzero(np.bincount(names.code[polymer])).tolist()]
    if all(name in LETTER_OF_RESNAME and name != "UNK" for name in present):
        return
    counts = Counter(name for name in names.take(polymer).list() if name not in LETTER_OF_RESNAME)
    counts["UNK"] = sum(name == "UNK" for name in names.take(polymer).list())
    shown = [f"{n} {name} -> {parent_letter(name, parsed.parents)}" for name, n in counts.items() if n]
    warnings.append(f"{sum(counts.values())} non-standard residues: {some(shown)}")
