"""What a residue of a structure file is: one of the 20, a modified one, a D-amino acid, a nucleotide, water, other."""

from collections.abc import Mapping
from functools import lru_cache

import gemmi

from data_prep.residues import AATYPE_OF_LETTER, RESNAMES, RESTYPES

LETTER_OF_RESNAME: dict[str, str] = dict(zip(RESNAMES, RESTYPES + "X", strict=True))

_FORCE_FIELD_NAMES: dict[str, str] = {
    "HSD": "H", "HSE": "H", "HSP": "H", "HID": "H", "HIE": "H", "HIP": "H", "CYX": "C", "CYM": "C", "CYS2": "C",
    "ASH": "D", "GLH": "E", "LYN": "K",
}  # fmt: skip
"""Protonation and bonding variants as CHARMM and AMBER name them; the PDB's dictionary has other things or nothing
under some of these names, but as residues with a peptide backbone they are these."""

_LETTERS_OUTSIDE_THE_20: dict[str, str] = {"U": "C", "O": "K", "B": "X", "Z": "X"}
"""Selenocysteine is read as Cys, pyrrolysine as Lys; Asx and Glx are not known to be one or the other."""

ATOM_NAMES_OF_PARENT: dict[str, dict[str, str]] = {
    "MSE": {"SE": "SD"},
    "SEC": {"SE": "SG"},
    "CSE": {"SE": "SG"},
    "ILE": {"CD": "CD1"},
}
"""Atoms of a component that stand for an atom of its parent under another name: the selenium of MSE is read as the
sulphur of Met; CHARMM writes CD for the delta carbon of Ile."""

ATOM_NAMES_EVERYWHERE: dict[str, str] = {"OT1": "O", "OT2": "OXT", "OT": "O"}
"""CHARMM's names of the two carboxyl oxygens of the last residue."""


@lru_cache(maxsize=4096)
def kind(component: str) -> str:
    """One of 'amino' (L or achiral), 'D-amino', 'nucleotide', 'water', 'other' (ligands, ions, caps), 'unknown'."""
    if component in _FORCE_FIELD_NAMES:
        return "amino"
    info = gemmi.find_tabulated_residue(component)
    if not info.found():
        return "unknown"
    if info.kind == gemmi.ResidueKind.AAD:
        return "D-amino"
    if info.is_amino_acid():
        return "amino"
    if info.is_nucleic_acid():
        return "nucleotide"
    return "water" if info.is_water() else "other"


def parent_letter(component: str, parents: Mapping[str, str]) -> str:
    """One-letter code of the standard residue that ``component`` is or derives from, X where there is none.

    gemmi's table of the PDB's components first; what the file says itself (``parents``: component -> component) where
    the table has no answer. A D-amino acid is X: it has a parent's side chain, but not its shape.
    """
    if component in LETTER_OF_RESNAME:
        return LETTER_OF_RESNAME[component]
    if component in _FORCE_FIELD_NAMES:
        return _FORCE_FIELD_NAMES[component]
    if kind(component) == "D-amino":
        return "X"
    letter = gemmi.find_tabulated_residue(component).one_letter_code.strip().upper()
    if kind(component) == "amino" and letter:
        letter = _LETTERS_OUTSIDE_THE_20.get(letter, letter)
        return letter if letter in AATYPE_OF_LETTER else "X"
    return LETTER_OF_RESNAME.get(parents.get(component, ""), "X")
