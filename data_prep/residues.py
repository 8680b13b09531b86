"""Residue and atom vocabularies, in AlphaFold's orders (Jumper et al. 2021, suppl. 1.2).

``aatype`` counts the 20 standard residues by the alphabet of their three-letter names, 20 is unknown (X).
``atom37`` lists every heavy atom name that occurs in a standard residue, ``atom14`` the atoms of one residue.
"""

import numpy as np

RESTYPES: str = "ARNDCQEGHILKMFPSTWYV"
"""One-letter codes, index = aatype."""

RESTYPES_WITH_X: str = RESTYPES + "X"

UNKNOWN_AATYPE: int = 20

RESNAMES: tuple[str, ...] = (
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL", "UNK",
)  # fmt: skip
"""Three-letter names, index = aatype; UNK last."""

AATYPE_OF_LETTER: dict[str, int] = {letter: i for i, letter in enumerate(RESTYPES_WITH_X)}

ATOM_TYPES: tuple[str, ...] = (
    "N", "CA", "C", "CB", "O", "CG", "CG1", "CG2", "OG", "OG1", "SG", "CD", "CD1", "CD2", "ND1", "ND2",
    "OD1", "OD2", "SD", "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2", "CH2", "NH1", "NH2",
    "OH", "CZ", "CZ2", "CZ3", "NZ", "OXT",
)  # fmt: skip
"""Atom names, index = position in atom37."""

ATOM37_INDEX: dict[str, int] = {name: i for i, name in enumerate(ATOM_TYPES)}


def sequence_to_aatype(sequence: str) -> np.ndarray:
    """One-letter codes to aatype, int64 [N]; a letter that is not one of the 20 becomes 20 (unknown)."""
    return np.array([AATYPE_OF_LETTER.get(letter, UNKNOWN_AATYPE) for letter in sequence], dtype=np.int64)
