"""One conformer of each residue: the one of highest mean occupancy as a whole, ties to the first listed."""

import numpy as np

from data_prep.atom_site import AtomSite
from data_prep.wording import some


def one_component_per_place(residues: np.ndarray, atoms: AtomSite, labelled: bool, warnings: list[str]) -> np.ndarray:
    """The residues (int [n]) without those that share their place with one of higher occupancy (microheterogeneity).

    Equal numbers are different residues, and all are kept, unless each has alternate locations of its own.
    """
    place = atoms.place[residues]
    if (place[1:] > place[:-1]).all():
        return residues
    values, group, size = np.unique(place, return_inverse=True, return_counts=True)
    if len(values) == len(residues):
        return residues
    dropped: list[str] = []
    lost = np.zeros(len(residues), dtype=bool)
    for number in dict.fromkeys(group[size[group] > 1].tolist()):  # by first appearance
        members = np.flatnonzero(group == number)
        shared = residues[members].tolist()
        letters = [set(_altlocs(residue, atoms).tolist()) - {_no_altloc(atoms)} for residue in shared]
        if labelled or (all(letters) and len(set.union(*letters)) == sum(map(len, letters))):
            best = max(shared, key=lambda residue: _best_occupancy(residue, atoms))
            lost[members] = residues[members] != best
            dropped.append("/".join(atoms.resname[residue] for residue in shared) + f" -> {atoms.label(best)}")
        else:
            names = ", ".join(atoms.resname[residue] for residue in shared)
            label = atoms.label(shared[0])
            warnings.append(f"residues with one number and no insertion code, all kept: {names} at {label}")
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
    mean = _mean_occupancy(atoms.occupancy[rows[labelled]], group, len(values))
    owner = values // n_codes
    order = np.lexsort((first, -mean, owner))  # by residue, then the best first
    best = order[np.append(True, np.diff(owner[order]) != 0)]
    chosen = np.full(len(residues), -1)
    chosen[owner[best]] = values[best] % n_codes
    several = len(values) - len(best) and int((np.bincount(owner) > 1).sum())
    if several:
        warnings.append(f"{several} residues with alternate locations: highest occupancy kept")
    keep = blank | (altloc == chosen[position])
    return rows[keep], position[keep]


def _mean_occupancy(occupancy: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """float64 [groups], rounded so that equal means compare as equal."""
    total = np.bincount(group, weights=occupancy.astype(np.float64), minlength=n_groups)
    return (total / np.bincount(group, minlength=n_groups)).round(6)


def _no_altloc(atoms: AtomSite) -> int:
    """The code of '' among the alternate locations, -1 if every atom has one."""
    return atoms.altloc.values.index("") if "" in atoms.altloc.values else -1


def _altlocs(residue: int, atoms: AtomSite) -> np.ndarray:
    return atoms.altloc.code[atoms.start[residue] : atoms.start[residue] + atoms.count[residue]]


def _best_occupancy(residue: int, atoms: AtomSite) -> float:
    """The highest mean occupancy of a residue's alternate locations; of all its atoms if it has none."""
    altlocs = _altlocs(residue, atoms)
    occupancy = atoms.occupancy[atoms.start[residue] : atoms.start[residue] + atoms.count[residue]]
    named = altlocs != _no_altloc(atoms)
    if not named.any():
        named = ~named
    _, group = np.unique(altlocs[named], return_inverse=True)
    return float(_mean_occupancy(occupancy[named], group, group.max() + 1).max())
