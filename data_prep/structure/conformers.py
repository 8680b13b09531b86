"""One conformer of each residue, as a whole, to atom37 arrays.

Of alternate locations the most complete backbone counts, then the highest mean occupancy, then the first listed. Atoms
that it lacks are taken from the others where they are bonded to its own.
"""

from collections.abc import Mapping

import numpy as np

from data_prep.files.text import some
from data_prep.structure.atom_site import BACKBONE, AtomSite, plausible
from data_prep.structure.components import (
    ATOM_NAMES_OF_PARENT,
    CARBOXYL_NAMES,
    LETTER_OF_RESNAME,
    is_hydrogen,
    is_standard,
    kind,
)
from data_prep.structure.residues import ATOM37_INDEX, RESTYPE_ATOM37_MASK, UNKNOWN_AATYPE, sequence_to_aatype

LONGEST_BOND = 2.0
"""angstrom, between heavy atoms of a residue (1.8 between C and S)."""


def one_component_per_place(residues: np.ndarray, atoms: AtomSite, labelled: bool, warnings: list[str]) -> np.ndarray:
    """The residues (int [n]) without those that share their place with one of higher occupancy (microheterogeneity).

    Equal numbers are different residues, and all are kept, unless each has alternate locations of its own.
    """
    place = atoms.place[residues]
    same = np.append(False, place[1:] == place[:-1])
    if not same.any():
        return residues
    first = np.flatnonzero(~same & np.append(same[1:], False))  # of each run of neighbours at one place
    dropped, kept = [], []
    lost = np.zeros(len(residues), dtype=bool)
    for begin in first.tolist():
        end = begin + 1
        while end < len(residues) and same[end]:
            end += 1
        shared = residues[begin:end].tolist()
        letters = [set(_altlocs(residue, atoms).tolist()) - {_no_altloc(atoms)} for residue in shared]
        if labelled or (all(letters) and len(set.union(*letters)) == sum(map(len, letters))):
            best = max(shared, key=lambda residue: _completeness(residue, atoms))
            lost[begin:end] = residues[begin:end] != best
            dropped.append("/".join(atoms.resname[residue] for residue in shared) + f" -> {atoms.label(best)}")
        else:
            names = ", ".join(atoms.resname[residue] for residue in shared)
            kept.append(f"{names} at {atoms.label(shared[0])}")
    if kept:
        warnings.append(f"{len(kept)} numbers of several residues without insertion code, all kept: {some(kept)}")
    if dropped:
        warnings.append(f"{len(dropped)} heterogeneous positions, highest occupancy kept: {some(dropped)}")
    return residues[~lost]


def conformer_rows(residues: np.ndarray, atoms: AtomSite, warnings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The atoms (int [m]) of the chosen conformer of each residue, and the position of each atom's residue."""
    rows, position = atoms.rows(residues)
    altloc = atoms.altloc.code[rows]
    blank = altloc == _no_altloc(atoms)
    if blank.all():
        return rows, position
    labelled = np.flatnonzero(~blank)
    n_codes = len(atoms.altloc.values)
    pair = position[labelled] * n_codes + altloc[labelled]
    values, first, group = np.unique(pair, return_index=True, return_inverse=True)
    owner = values // n_codes
    mean = _mean_occupancy(atoms.occupancy[rows[labelled]], group, len(values))
    is_backbone = atoms.name.lookup(BACKBONE.__contains__, bool)[rows[labelled]]
    backbone = np.bincount(group, weights=is_backbone, minlength=len(values))
    order = np.lexsort((first, -mean, -backbone, owner))  # by residue, then the best first
    best = order[np.append(True, np.diff(owner[order]) != 0)]
    chosen = np.full(len(residues), -1)
    chosen[owner[best]] = values[best] % n_codes
    keep = blank | (altloc == chosen[position])
    if len(values) > len(best):
        several = np.bincount(owner, minlength=len(residues)) > 1  # [n]
        said = f"{np.count_nonzero(several)} residues with alternate locations: highest occupancy kept"
        whole = values[order[np.append(True, np.diff(owner[order]) != 0)]]
        by_occupancy = np.lexsort((first, -mean, owner))
        usual = values[by_occupancy[np.append(True, np.diff(owner[by_occupancy]) != 0)]]
        filled = _fill(rows, position, keep, np.flatnonzero(several[position]), atoms)
        if (n := np.count_nonzero(whole != usual)) or filled:
            said += f" ({n} by their backbone, {filled} atoms from other ones)"
        warnings.append(said)
    return rows[keep], position[keep]


def _fill(rows: np.ndarray, position: np.ndarray, keep: np.ndarray, among: np.ndarray, atoms: AtomSite) -> int:
    """Set ``keep`` of atoms that the chosen conformers lack and that are bonded to an atom of theirs; of several the
    one of highest occupancy. ``among`` int [k]: the atoms of residues with several conformers. Returns how many."""
    key = position * len(atoms.name.values) + atoms.name.code[rows]
    kept = set(key[among[keep[among]]].tolist())
    lacking = [i for i in among[~keep[among]].tolist() if int(key[i]) not in kept]
    lacking = [i for i in lacking if not is_hydrogen(atoms.name[rows[i]])]
    lacking.sort(key=lambda i: -atoms.occupancy[rows[i]])
    count, found = 0, True
    while found:
        found = False
        for i in lacking:
            if int(key[i]) in kept:
                continue
            own = rows[np.flatnonzero(keep & (position == position[i]))]
            if (np.linalg.norm(atoms.xyz[own] - atoms.xyz[rows[i]], axis=1) < LONGEST_BOND).any():
                keep[i], found = True, True
                kept.add(int(key[i]))
                count += 1
    return count


def _mean_occupancy(occupancy: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """float64 [groups], rounded so that equal means compare as equal."""
    total = np.bincount(group, weights=occupancy.astype(np.float64), minlength=n_groups)
    return (total / np.bincount(group, minlength=n_groups)).round(6)


def _no_altloc(atoms: AtomSite) -> int:
    """The code of '' among the alternate locations, -1 if every atom has one."""
    return atoms.altloc.values.index("") if "" in atoms.altloc.values else -1


def _altlocs(residue: int, atoms: AtomSite) -> np.ndarray:
    return atoms.altloc.code[atoms.start[residue] : atoms.start[residue] + atoms.count[residue]]


def _completeness(residue: int, atoms: AtomSite) -> tuple[bool, float]:
    """Whether a residue has most of a backbone, and the highest mean occupancy of its alternate locations; of all its
    atoms if it has none."""
    altlocs = _altlocs(residue, atoms)
    occupancy = atoms.occupancy[atoms.start[residue] : atoms.start[residue] + atoms.count[residue]]
    named = altlocs != _no_altloc(atoms)
    if not named.any():
        named = ~named
    _, group = np.unique(altlocs[named], return_inverse=True)
    has_backbone = bool(np.count_nonzero(np.isfinite(atoms.backbone[residue, :, 0])) >= 2)
    return has_backbone, float(_mean_occupancy(occupancy[named], group, group.max() + 1).max())


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
            for column, place in carboxyl:
                table[code, column] = place
        if component in ATOM_NAMES_OF_PARENT:
            for name, parent_name in ATOM_NAMES_OF_PARENT[component].items():
                if name in names:
                    table[code, names.index(name)] = ATOM37_INDEX[parent_name]
        elif kind(component) == "D-amino":
            table[code, table[code] == ATOM37_INDEX["CB"]] = -1
    return table
