"""What a residue of a structure file is: one of the 20, a modified one, a D-amino acid, a nucleotide, water, other."""

from collections.abc import Mapping
from functools import lru_cache

import gemmi

from data_prep.structure.residues import AATYPE_OF_LETTER, RESNAMES, RESTYPES

LETTER_OF_RESNAME: dict[str, str] = dict(zip(RESNAMES, RESTYPES + "X", strict=True))

_VARIANTS: dict[str, str] = {
    "H": "HSD HSE HSP HID HIE HIP HISA HISB HISD HISE HISH HIS1 HIS2",
    "C": "CYX CYM CYN CY2 CYT CYSH CYS1 CYS2",
    "D": "ASH AS4 ASPH ASPP",
    "E": "GLH GL4 GLUH GLUP",
    "K": "LYN LSN LYP LYSH LYSN",
    "R": "ARN ARGN",
    "N": "NLN",
    "P": "OLP",
    "S": "OLS SRO",
    "T": "OLT THO",
    "Y": "TYM TYO",
}
"""Protonation and bonding variants as CHARMM, AMBER, GLYCAM, GROMOS, OPLS and Maestro name them."""

FORCE_FIELD_NAMES: dict[str, str] = {name: letter for letter, names in _VARIANTS.items() for name in names.split()}
"""These, and AMBER's names of terminal residues (NMET, CASN, NHID), with their letters. The PDB's dictionary has other
things or nothing under some of the names, but residues with a peptide backbone are these."""
FORCE_FIELD_NAMES |= {
    end + name: letter
    for end in "NC"
    for name, letter in [*zip(RESNAMES, RESTYPES, strict=False), *FORCE_FIELD_NAMES.items()]
    if len(name) == 3
}

_WATER_NAMES = frozenset(
    ["TIP", "TIP2", "TIP3", "TIP4", "TIP5", "TP3", "TP4", "TP5", "T3P", "T4P", "SOL", "SPC", "SPCE"]
)

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

CARBOXYL_NAMES: dict[str, str] = {
    "OT1": "O", "OC1": "O", "O1": "O", "O'": "O", "OT": "O",
    "OT2": "OXT", "OC2": "OXT", "O2": "OXT", "O''": "OXT",
}  # fmt: skip
"""The two carboxyl oxygens of the last residue, as CHARMM, GROMACS and others name them, in standard residues."""


def is_standard(component: str) -> bool:
    """Whether this is one of the 20 or a force field's name of one."""
    return component in FORCE_FIELD_NAMES or (component in LETTER_OF_RESNAME and component != "UNK")


@lru_cache(maxsize=4096)
def kind(component: str) -> str:
    """One of 'amino' (L or achiral), 'D-amino', 'nucleotide', 'water', 'other' (ligands, ions, caps), 'unknown'."""
    if component in FORCE_FIELD_NAMES:
        return "amino"
    if component in _WATER_NAMES:
        return "water"
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
    if component in FORCE_FIELD_NAMES:
        return FORCE_FIELD_NAMES[component]
    if kind(component) == "D-amino":
        return "X"
    letter = gemmi.find_tabulated_residue(component).one_letter_code.strip().upper()
    if kind(component) == "amino" and letter:
        letter = _LETTERS_OUTSIDE_THE_20.get(letter, letter)
        return letter if letter in AATYPE_OF_LETTER else "X"
    return LETTER_OF_RESNAME.get(parents.get(component, ""), "X")


def is_hydrogen(name: str) -> bool:
    """H or D, alone or after a digit; no heavy atom of a standard residue is named so."""
    return name.lstrip("0123456789")[:1] in ("H", "D", "")
