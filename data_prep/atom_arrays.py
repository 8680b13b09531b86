"""Atoms of the chosen conformers to atom37 arrays: which name goes where, and what is left out."""

import numpy as np

from data_prep.atom_site import AtomSite, plausible
from data_prep.components import ATOM_NAMES_EVERYWHERE, ATOM_NAMES_OF_PARENT, LETTER_OF_RESNAME, kind
from data_prep.residues import ATOM37_INDEX, RESTYPE_ATOM37_MASK, UNKNOWN_AATYPE
from data_prep.wording import some

ALLOWED_ATOMS = RESTYPE_ATOM37_MASK.copy()
"""bool [21, 37]: atoms that a residue type may have. OXT counts everywhere; X keeps N, CA, C, O and CB."""
ALLOWED_ATOMS[UNKNOWN_AATYPE, [ATOM37_INDEX[name] for name in ("N", "CA", "C", "O", "CB")]] = True
ALLOWED_ATOMS[:, ATOM37_INDEX["OXT"]] = True


def atom37_arrays(
    residues: np.ndarray,
    aatype: np.ndarray,
    rows: np.ndarray,
    position: np.ndarray,
    atoms: AtomSite,
    warnings: list[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions float32 [n, 37, 3], mask bool [n, 37], B-factors float32 [n, 37] of the observed ``residues`` [n].

    ``aatype`` int [n]; ``rows`` and ``position`` int [m] as of ``conformer_rows``. Coordinates are rounded to 0.001
    angstrom.
    """
    n = len(residues)
    name = atoms.name.code[rows]
    table = _atom_table(atoms)
    atom = table.ravel()[(atoms.resname.code[residues] * table.shape[1])[position] + name]
    allowed = ALLOWED_ATOMS[aatype]
    is_d = atoms.resname.take(residues).lookup(lambda resname: kind(resname) == "D-amino", bool)
    allowed[is_d, ATOM37_INDEX["CB"]] = False
    fits = (atom >= 0) & allowed.ravel()[position * 37 + np.maximum(atom, 0)]
    stated = plausible(atoms.xyz)[rows]

    def shown(which: np.ndarray) -> str:
        return some([f"{atoms.name[rows[i]]} of {atoms.label(residues[position[i]])}" for i in which.tolist()])

    if not fits.all():
        standard = atoms.resname.lookup(lambda resname: resname in LETTER_OF_RESNAME and resname != "UNK", bool)
        hydrogen = np.array([is_hydrogen(word) for word in atoms.name.values], dtype=bool)
        foreign = np.flatnonzero(~fits & standard[residues][position] & ~hydrogen[name])
        if len(foreign):
            warnings.append(f"{len(foreign)} atoms that their residue type does not have dropped: {shown(foreign)}")
    if not stated.all():
        missing = np.flatnonzero(fits & ~stated)
        if len(missing):
            warnings.append(f"{len(missing)} atoms without coordinates treated as missing: {shown(missing)}")
    use = np.flatnonzero(fits & stated)
    place = position[use] * 37 + atom[use]
    mask = np.zeros(n * 37, dtype=bool)
    mask[place] = True
    if np.count_nonzero(mask) < len(use):
        holder = np.empty(n * 37, dtype=np.int64)
        holder[place[::-1]] = use[::-1]  # of several atoms for one place the first stays
        is_first = holder[place] == use
        repeated = use[~is_first]
        warnings.append(f"{len(repeated)} atoms listed twice, first kept: {shown(repeated)}")
        use, place = use[is_first], place[is_first]
    source = rows[use]
    positions, b_factors = np.zeros((n * 37, 3), dtype=np.float32), np.zeros(n * 37, dtype=np.float32)
    positions[place] = np.rint(atoms.xyz[source] * 1000) / 1000
    b_factors[place] = atoms.b_factor[source]
    return positions.reshape(n, 37, 3), mask.reshape(n, 37), b_factors.reshape(n, 37)


def _atom_table(atoms: AtomSite) -> np.ndarray:
    """int [component codes, name codes]: position in atom37, -1 for none."""
    names = atoms.name.values
    usual = [ATOM37_INDEX.get(ATOM_NAMES_EVERYWHERE.get(name, name), -1) for name in names]
    table = np.tile(np.array(usual, dtype=np.int64), (len(atoms.resname.values), 1))
    for code, resname in enumerate(atoms.resname.values):
        for name, parent_name in ATOM_NAMES_OF_PARENT.get(resname, {}).items():
            if name in names:
                table[code, names.index(name)] = ATOM37_INDEX[parent_name]
    return table


def is_hydrogen(name: str) -> bool:
    """H or D, alone or after a digit; no heavy atom of a standard residue is named so."""
    return name.lstrip("0123456789")[:1] in ("H", "D", "")
