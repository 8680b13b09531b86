"""Atoms of the chosen conformers to atom37 arrays: which name goes where, and what is left out."""

from collections.abc import Mapping

import numpy as np

from data_prep.files.wording import some
from data_prep.structure.atom_site import AtomSite, plausible
from data_prep.structure.components import (
    ATOM_NAMES_OF_PARENT,
    CARBOXYL_NAMES,
    LETTER_OF_RESNAME,
    is_hydrogen,
    is_standard,
    kind,
)
from data_prep.structure.residues import ATOM37_INDEX, RESTYPE_ATOM37_MASK, UNKNOWN_AATYPE, sequence_to_aatype

ALLOWED_ATOMS = RESTYPE_ATOM37_MASK.copy()
"""bool [21, 37]: atoms that a residue type may have. OXT counts everywhere; X keeps N, CA, C, O and CB."""
ALLOWED_ATOMS[UNKNOWN_AATYPE, [ATOM37_INDEX[name] for name in ("N", "CA", "C", "O", "CB")]] = True
ALLOWED_ATOMS[:, ATOM37_INDEX["OXT"]] = True

_ALLOWED_OR_NONE = np.pad(ALLOWED_ATOMS, ((0, 0), (0, 1)))
"""The same with a last column for position -1, which is none."""

_POINT = np.dtype("V12")
"""x, y and z as float32: NumPy moves one such item in a third of the time of a row of three."""


def atom37_arrays(
    residues: np.ndarray,
    letter_of: Mapping[str, str],
    rows: np.ndarray,
    position: np.ndarray,
    atoms: AtomSite,
    warnings: list[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions float32 [n, 37, 3], mask bool [n, 37], B-factors float32 [n, 37] of the observed ``residues`` [n].

    ``letter_of`` is the one-letter code of each component of ``atoms``; ``rows`` and ``position`` int [m] are as of
    ``conformer_rows``. Coordinates are rounded to 0.001 angstrom.
    """
    n = len(residues)
    table = _atom_table(atoms, letter_of)
    atom = table.ravel()[(atoms.resname.code[residues] * table.shape[1])[position] + atoms.name.code[rows]]
    place = position * 37 + atom
    fits, stated = atom >= 0, plausible(atoms.xyz)

    def shown(which: np.ndarray) -> str:
        return some([f"{atoms.name[rows[i]]} of {atoms.label(residues[position[i]])}" for i in which.tolist()])

    if not fits.all():
        standard = atoms.resname.lookup(lambda resname: resname in LETTER_OF_RESNAME and resname != "UNK", bool)
        hydrogen = np.array([is_hydrogen(word) for word in atoms.name.values], dtype=bool)
        foreign = np.flatnonzero(~fits & standard[residues][position] & ~hydrogen[atoms.name.code[rows]])
        if len(foreign):
            warnings.append(f"{len(foreign)} atoms that their residue type does not have dropped: {shown(foreign)}")
        rows, position, place = rows[fits], position[fits], place[fits]
    if not stated.all():
        stated = stated[rows]
        missing = np.flatnonzero(~stated)
        if len(missing):
            warnings.append(f"{len(missing)} atoms without coordinates treated as missing: {shown(missing)}")
        rows, position, place = rows[stated], position[stated], place[stated]
    mask = np.zeros(n * 37, dtype=bool)
    mask[place] = True
    if np.count_nonzero(mask) < len(place):
        holder = np.empty(n * 37, dtype=np.int64)
        holder[place[::-1]] = np.arange(len(place))[::-1]  # of several atoms for one place the first stays
        is_first = holder[place] == np.arange(len(place))
        repeated = np.flatnonzero(~is_first)
        warnings.append(f"{len(repeated)} atoms listed twice, first kept: {shown(repeated)}")
        rows, place = rows[is_first], place[is_first]
    positions, b_factors = np.zeros(n * 37, dtype=_POINT), np.zeros(n * 37, dtype=np.float32)
    rounded = np.rint(atoms.xyz.take(rows, axis=0) * 1000) / 1000
    positions[place] = rounded.astype(np.float32).view(_POINT)[:, 0]
    b_factors[place] = atoms.b_factor[rows]
    return positions.view(np.float32).reshape(n, 37, 3), mask.reshape(n, 37), b_factors.reshape(n, 37)


def _atom_table(atoms: AtomSite, letter_of: Mapping[str, str]) -> np.ndarray:
    """int64 [component codes, name codes]: position in atom37 of an atom that the component may have, -1 for others."""
    names, components = atoms.name.values, atoms.resname.values
    usual = np.array([ATOM37_INDEX.get(name, -1) for name in names], dtype=np.int64)
    aatype = sequence_to_aatype("".join([letter_of[component] for component in components]))
    table = np.where(_ALLOWED_OR_NONE[aatype[:, None], usual], usual, -1)
    carboxyl = [(names.index(name), ATOM37_INDEX[place]) for name, place in CARBOXYL_NAMES.items() if name in names]
    for code, component in enumerate(components):
        if carboxyl and is_standard(component):
            for name, place in carboxyl:
                table[code, name] = place
        if component in ATOM_NAMES_OF_PARENT:
            for name, parent_name in ATOM_NAMES_OF_PARENT[component].items():
                if name in names:
                    table[code, names.index(name)] = ATOM37_INDEX[parent_name]
        elif kind(component) == "D-amino":
            table[code, table[code] == ATOM37_INDEX["CB"]] = -1
    return table
