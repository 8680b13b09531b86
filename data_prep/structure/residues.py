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


_SIDE_CHAINS: dict[str, str] = {
    "ALA": "CB",
    "ARG": "CB CG CD NE CZ NH1 NH2",
    "ASN": "CB CG OD1 ND2",
    "ASP": "CB CG OD1 OD2",
    "CYS": "CB SG",
    "GLN": "CB CG CD OE1 NE2",
    "GLU": "CB CG CD OE1 OE2",
    "GLY": "",
    "HIS": "CB CG ND1 CD2 CE1 NE2",
    "ILE": "CB CG1 CG2 CD1",
    "LEU": "CB CG CD1 CD2",
    "LYS": "CB CG CD CE NZ",
    "MET": "CB CG SD CE",
    "PHE": "CB CG CD1 CD2 CE1 CE2 CZ",
    "PRO": "CB CG CD",
    "SER": "CB OG",
    "THR": "CB OG1 CG2",
    "TRP": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
    "TYR": "CB CG CD1 CD2 CE1 CE2 CZ OH",
    "VAL": "CB CG1 CG2",
}

ATOM14_NAMES: tuple[tuple[str, ...], ...] = tuple(
    tuple(f"N CA C O {_SIDE_CHAINS[name]}".split()) if name in _SIDE_CHAINS else () for name in RESNAMES
)
"""Heavy atoms of each residue type, index = aatype, then position in atom14; none for unknown. OXT has no place."""

CHI_PATHS: dict[str, str] = {
    "ARG": "N CA CB CG CD NE CZ",
    "ASN": "N CA CB CG OD1",
    "ASP": "N CA CB CG OD1",
    "CYS": "N CA CB SG",
    "GLN": "N CA CB CG CD OE1",
    "GLU": "N CA CB CG CD OE1",
    "HIS": "N CA CB CG ND1",
    "ILE": "N CA CB CG1 CD1",
    "LEU": "N CA CB CG CD1",
    "LYS": "N CA CB CG CD CE NZ",
    "MET": "N CA CB CG SD CE",
    "PHE": "N CA CB CG CD1",
    "PRO": "N CA CB CG CD",
    "SER": "N CA CB OG",
    "THR": "N CA CB OG1",
    "TRP": "N CA CB CG CD1",
    "TYR": "N CA CB CG CD1",
    "VAL": "N CA CB CG1",
}
"""The bonded path that the side-chain torsions turn about: chi_k is the dihedral of its atoms k to k + 3."""

AMBIGUOUS_ATOMS: dict[str, tuple[tuple[str, str], ...]] = {
    "ASP": (("OD1", "OD2"),),
    "GLU": (("OE1", "OE2"),),
    "PHE": (("CD1", "CD2"), ("CE1", "CE2")),
    "TYR": (("CD1", "CD2"), ("CE1", "CE2")),
}
"""Atoms that a rotation of the last chi by 180 degrees exchanges; their names are interchangeable (suppl. 1.8.5).
ARG's NH1 and NH2 are not among them: their names follow from the planar guanidinium group."""

VAN_DER_WAALS_RADIUS: dict[str, float] = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}
"""By element, angstrom (Bondi 1964)."""


def _index_tables() -> tuple[np.ndarray, ...]:
    """Everything that follows from the atom names; absent atoms point at index 0 and are masked."""
    n = len(RESNAMES)
    to_atom37, to_atom14 = np.zeros((n, 14), dtype=np.int64), np.zeros((n, 37), dtype=np.int64)
    mask14, mask37 = np.zeros((n, 14), dtype=bool), np.zeros((n, 37), dtype=bool)
    partner = np.tile(np.arange(14, dtype=np.int64), (n, 1))
    chi_atoms, chi_mask = np.zeros((n, 4, 4), dtype=np.int64), np.zeros((n, 4), dtype=bool)
    chi_periodic = np.zeros((n, 4), dtype=bool)
    for aatype, (name, atoms) in enumerate(zip(RESNAMES, ATOM14_NAMES, strict=True)):
        for i, atom in enumerate(atoms):
            to_atom37[aatype, i], to_atom14[aatype, ATOM37_INDEX[atom]] = ATOM37_INDEX[atom], i
            mask14[aatype, i] = mask37[aatype, ATOM37_INDEX[atom]] = True
        path = CHI_PATHS.get(name, "").split()
        for k in range(len(path) - 3):
            chi_atoms[aatype, k] = [ATOM37_INDEX[atom] for atom in path[k : k + 4]]
            chi_mask[aatype, k] = True
        for a, b in AMBIGUOUS_ATOMS.get(name, ()):
            partner[aatype, atoms.index(a)], partner[aatype, atoms.index(b)] = atoms.index(b), atoms.index(a)
            chi_periodic[aatype, len(path) - 4] = True
    return to_atom37, to_atom14, mask14, mask37, partner, chi_atoms, chi_mask, chi_periodic


(
    RESTYPE_ATOM14_TO_ATOM37,
    RESTYPE_ATOM37_TO_ATOM14,
    RESTYPE_ATOM14_MASK,
    RESTYPE_ATOM37_MASK,
    ATOM14_RENAMING_PARTNER,
    CHI_ATOM37_INDEX,
    CHI_MASK,
    CHI_PI_PERIODIC,
) = _index_tables()
"""Tables by aatype (21 rows, the last all masked):

- ``RESTYPE_ATOM14_TO_ATOM37`` int64 [21, 14], ``RESTYPE_ATOM37_TO_ATOM14`` int64 [21, 37]: where the same atom is in
  the other layout, 0 for an atom that the residue lacks;
- ``RESTYPE_ATOM14_MASK`` bool [21, 14], ``RESTYPE_ATOM37_MASK`` bool [21, 37]: atoms that the residue has;
- ``ATOM14_RENAMING_PARTNER`` int64 [21, 14]: the atom whose name is interchangeable, itself for all others;
- ``CHI_ATOM37_INDEX`` int64 [21, 4, 4]: the four atoms of each chi, ``CHI_MASK`` bool [21, 4]: chis that exist;
- ``CHI_PI_PERIODIC`` bool [21, 4]: chis that look the same after 180 degrees.
"""

ATOM14_IS_AMBIGUOUS: np.ndarray = np.arange(14) != ATOM14_RENAMING_PARTNER
"""bool [21, 14]: atoms with a renaming partner."""

ATOM37_VDW_RADIUS: np.ndarray = np.array([VAN_DER_WAALS_RADIUS[name[0]] for name in ATOM_TYPES])
"""float64 [37], angstrom."""


_AATYPE_OF_BYTE = np.array([AATYPE_OF_LETTER.get(chr(byte), UNKNOWN_AATYPE) for byte in range(256)], dtype=np.int64)


def sequence_to_aatype(sequence: str) -> np.ndarray:
    """One-letter codes to aatype, int64 [N]; a letter that is not one of the 20 becomes 20 (unknown)."""
    return _AATYPE_OF_BYTE[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]
