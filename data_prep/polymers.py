"""Which residues of a model are amino acids, and which of them form one chain."""

from collections import Counter
from itertools import pairwise

import numpy as np

from data_prep.atom_site import AtomSite, ParsedStructure
from data_prep.components import kind
from data_prep.wording import some
from data_prep.words import joint_codes

PEPTIDE_BOND = 2.0
"""angstrom: C and N of neighbours nearer than this are bonded (1.33 ideal)."""
NEIGHBOURING_CALPHAS = 4.5
"""angstrom: alpha carbons nearer than this are those of neighbours (3.8 ideal, 2.9 before a cis bond)."""

_BACKBONE = frozenset({"N", "CA", "C"})


def residue_kinds(parsed: ParsedStructure) -> np.ndarray:
    """str objects [R]: ``components.kind``, where an unknown component with a peptide backbone is an amino acid, one
    that only SEQRES knows is 'listed', and UNK without an alpha carbon is 'other': the name is also given to ligands
    that nobody identified.
    """
    atoms = parsed.atoms
    kinds = atoms.resname.lookup(kind, object)
    doubtful = atoms.resname.lookup(lambda name: name == "UNK" or kind(name) == "unknown", bool)
    for residue in np.flatnonzero(doubtful).tolist():
        rows = slice(atoms.start[residue], atoms.start[residue] + atoms.count[residue])
        names, resname = set(atoms.name.take(rows).list()), atoms.resname[residue]
        if resname == "UNK":
            if "CA" not in names:
                kinds[residue] = "other"
        elif resname in parsed.parents or names >= _BACKBONE:
            kinds[residue] = "amino"
        else:
            is_listed = atoms.label_seq[residue] or resname in parsed.seqres(residue)
            kinds[residue] = "listed" if is_listed else "other"
    return kinds


def split_polymers(parsed: ParsedStructure, warnings: list[str]) -> list[np.ndarray]:
    """The polymer residues of each chain, int [n] in file order; chains by first appearance.

    Where label_seq does not tell, what follows the end of its chain (TER) as HETATM is ligand or water; without TER the
    chain ends where it is no longer bonded after its last ATOM residue. A chain id that comes again with the same
    numbers (after TER, or under another label_asym_id) is another chain.
    """
    atoms = parsed.atoms
    if parsed.has_labels:
        residues = np.flatnonzero(atoms.label_seq > 0)
        return _groups(residues, joint_codes(atoms.chain.code[residues], atoms.segment.code[residues]))
    is_ended = atoms.chain.lookup(parsed.ended_chains.__contains__, bool)
    after_ter = is_ended & atoms.segment.lookup(lambda segment: segment != "0", bool)
    is_ligand = atoms.resname.lookup(lambda name: kind(name) in ("water", "other"), bool)
    residues = np.flatnonzero(~is_ligand & ~(after_ter & atoms.hetero))
    loose = _loose_at_the_end(residues[~is_ended[residues]], atoms)
    if loose:
        warnings.append(
            f"{len(loose)} HETATM residues after the last ATOM of their chain and not bonded to it taken for ligands: "
            f"{some([atoms.label(residue) for residue in loose])}"
        )
        residues = residues[~np.isin(residues, loose)]
    chain, segment = atoms.chain.code[residues], atoms.segment.code[residues]
    if (segment[1:] == segment[:-1]).all():
        return _groups(residues, chain)
    return _groups(residues, joint_codes(chain, _copies(atoms, residues)))


def _loose_at_the_end(residues: np.ndarray, atoms: AtomSite) -> list[int]:
    """Of residues of chains without a stated end those behind the last ATOM residue of their chain, from the first on
    that is not bonded to the one before. A chain of nothing but HETATM ends nowhere.
    """
    hetero, chain = atoms.hetero[residues], atoms.chain.code[residues]
    loose: list[int] = []
    for code in np.unique(chain[hetero]).tolist():
        members = residues[chain == code]
        in_chain = np.flatnonzero(~atoms.hetero[members])
        if not len(in_chain):
            continue
        for before, residue in pairwise(members[in_chain[-1] :].tolist()):
            if not _is_bonded(before, residue, atoms):
                loose += [other for other in members.tolist() if other >= residue]
                break
    return loose


def _is_bonded(before: int, residue: int, atoms: AtomSite) -> bool:
    """Whether C of one residue and N of the next are as near as a peptide bond; where one is missing, whether the alpha
    carbons are as near as those of neighbours.
    """
    places = [_first_places(each, atoms) for each in (before, residue)]
    for first, second, longest in (("C", "N", PEPTIDE_BOND), ("CA", "CA", NEIGHBOURING_CALPHAS)):
        if first in places[0] and second in places[1]:
            return bool(np.linalg.norm(places[1][second] - places[0][first]) < longest)
    return False


def _first_places(residue: int, atoms: AtomSite) -> dict[str, np.ndarray]:
    """float64 [3] of each atom by its name; of alternate locations the first."""
    rows = range(atoms.start[residue], atoms.start[residue] + atoms.count[residue])
    return {atoms.name[row]: atoms.xyz[row] for row in reversed(rows)}


def _copies(atoms: AtomSite, residues: np.ndarray) -> np.ndarray:
    """int [n]: the number of the copy of its chain that each residue belongs to, from 0."""
    chain, place = atoms.chain.code[residues], atoms.place[residues]
    copy = np.zeros(len(residues), dtype=np.int64)
    if (place[1:] > place[:-1]).all() or len(np.unique(joint_codes(chain, place))) == len(residues):
        return copy
    count: Counter[int] = Counter()
    seen: dict[int, dict[int, int]] = {}
    columns = (chain, place, atoms.segment.code[residues])
    for i, (chain_code, where, segment) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        places = seen.setdefault(chain_code, {})
        if places.get(where, segment) != segment:
            count[chain_code] += 1
            places.clear()
        places.setdefault(where, segment)
        copy[i] = count[chain_code]
    return copy


def _groups(items: np.ndarray, key: np.ndarray) -> list[np.ndarray]:
    """Items with equal keys together, groups by first appearance."""
    if not len(items):
        return []
    if (key == key[0]).all():
        return [items]
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return [items[group == number] for number in np.argsort(first).tolist()]


def content(atoms: AtomSite) -> str:
    """What a model holds, in words: '8 nucleotides, 3 waters'."""
    counts = Counter(atoms.resname.lookup(kind, object).tolist())
    words = {"nucleotide": "nucleotides", "water": "waters", "D-amino": "D-amino acids", "amino": "amino acids"}
    other = counts["other"] + counts["unknown"]
    parts = [f"{counts[key]} {word}" for key, word in words.items() if counts[key]]
    return ", ".join(parts + ([f"{other} other residues"] if other else []))
