"""Which residues of a model are amino acids, and which of them form one chain."""

from collections import Counter

import numpy as np

from data_prep.atom_site import AtomSite, ParsedStructure
from data_prep.components import kind
from data_prep.words import joint_codes

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


def split_polymers(parsed: ParsedStructure) -> list[np.ndarray]:
    """The polymer residues of each chain, int [n] in file order; chains by first appearance.

    In PDB files what follows TER as HETATM is ligand or water; a chain id that comes again with the same numbers
    (after TER, or from its first residue on) is another chain.
    """
    atoms = parsed.atoms
    if parsed.has_labels:
        residues = np.flatnonzero(atoms.label_seq > 0)
        return _groups(residues, joint_codes(atoms.chain.code[residues], atoms.segment.code[residues]))
    after_ter = atoms.segment.lookup(lambda segment: segment != "0", bool)
    is_ligand = atoms.resname.lookup(lambda name: kind(name) in ("water", "other"), bool)
    residues = np.flatnonzero(~is_ligand & ~(after_ter & atoms.hetero))
    chain = atoms.chain.code[residues]
    if not after_ter[residues].any():
        return _groups(residues, chain)
    return _groups(residues, joint_codes(chain, _copies(atoms, residues)))


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
