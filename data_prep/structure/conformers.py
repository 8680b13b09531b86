"""One conformer of each residue, as a whole: the most complete backbone, then the highest mean occupancy, then the
first listed. Atoms that it lacks are taken from the others where they are bonded to its own."""

import numpy as np

from data_prep.files.wording import some
from data_prep.structure.atom_site import BACKBONE, AtomSite
from data_prep.structure.components import is_hydrogen

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
    several = len(values) - len(best) and np.bincount(owner, minlength=len(residues)) > 1  # [n]
    if np.any(several):
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
    has_backbone = np.count_nonzero(np.isfinite(atoms.backbone[residue, :, 0])) >= 2
    return has_backbone, float(_mean_occupancy(occupancy[named], group, group.max() + 1).max())
