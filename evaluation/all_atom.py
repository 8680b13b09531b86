"""lDDT over all heavy atoms, with the names of symmetric side-chain atoms resolved: OpenStructure 2.10's default.

Definition (Mariani et al. 2013, doi:10.1093/bioinformatics/btt473, and OpenStructure's ``mol.alg.lddt``): pairs of
atoms of different residues nearer than 15 A in the truth (two chains: 15 A or nearer), thresholds 0.5, 1, 2 and 4 A,
pooled over pairs. Atoms correspond by name; an atom that the prediction lacks loses its pairs.

In seven kinds of residues a half turn exchanges atoms whose names are a convention. There the naming that keeps more
distances is taken, judged by distances to atoms that are not symmetric themselves, so that the choice in one residue
does not depend on another's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.structure.residues import ATOM37_INDEX, RESNAMES
from evaluation.lddt import THRESHOLDS, pair_blocks, preserved_thresholds, thousandths

SYMMETRIC_ATOMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ARG": (("NH1", "NH2"),),
    "ASP": (("OD1", "OD2"),),
    "GLU": (("OE1", "OE2"),),
    "LEU": (("CD1", "CD2"),),
    "PHE": (("CD1", "CD2"), ("CE1", "CE2")),
    "TYR": (("CD1", "CD2"), ("CE1", "CE2")),
    "VAL": (("CG1", "CG2"),),
}
"""Atoms that exchange names together, as OpenStructure has it. Wider than
``data_prep.structure.residues.AMBIGUOUS_ATOMS``: ARG, LEU and VAL follow Mariani et al. 2013."""

ATOMS = len(ATOM37_INDEX)


def _partners() -> np.ndarray:
    """int64 [21, 37]: the atom whose name may be exchanged with this one's, itself for all others."""
    table = np.tile(np.arange(ATOMS), (len(RESNAMES), 1))
    for name, pairs in SYMMETRIC_ATOMS.items():
        for a, b in pairs:
            row = table[RESNAMES.index(name)]
            row[ATOM37_INDEX[a]], row[ATOM37_INDEX[b]] = ATOM37_INDEX[b], ATOM37_INDEX[a]
    return table


PARTNER: np.ndarray = _partners()
"""int64 [21, 37] by aatype."""


@dataclass(frozen=True, eq=False)
class AllAtomResult:
    """All-atom scores of N residues. A score without any pair is nan: undefined."""

    score: float
    """in [0, 1]: pooled over the pairs of the truth."""
    per_residue: np.ndarray
    """float64 [N]: pooled over the pairs of a residue's atoms; nan where the truth has none."""
    exchanged: np.ndarray
    """bool [N]: residues whose symmetric atoms exchanged their names."""
    pairs: int
    """Pairs of atoms of the truth."""


def lddt_all(
    pred_positions: np.ndarray,
    true_positions: np.ndarray,
    pred_mask: np.ndarray,
    true_mask: np.ndarray,
    aatype: np.ndarray,
    chain_index: np.ndarray,
    symmetric: bool = True,
) -> AllAtomResult:
    """All-atom lDDT of N residues that correspond one to one.

    Args:
        pred_positions: float [N, 37, 3], angstrom, atoms in ``data_prep.structure.residues.ATOM_TYPES``.
        true_positions: the same for the truth.
        pred_mask: bool [N, 37], atoms that the prediction has.
        true_mask: bool [N, 37], atoms that the truth has; only these are scored.
        aatype: int [N], the truth's residues, 0 to 20.
        chain_index: int [N], the same number within a chain.
        symmetric: resolve symmetric side chains. A residue whose symmetric atoms the prediction has not all is left
            as it is.

    Raises:
        ValueError: shapes that do not agree.
    """
    length = len(aatype)
    expected = {"positions": (length, ATOMS, 3), "mask": (length, ATOMS)}
    found = {"positions": (pred_positions, true_positions), "mask": (pred_mask, true_mask)}
    for what, arrays in found.items():
        for whose, array in zip(("pred", "true"), arrays, strict=True):
            if array.shape != expected[what]:
                raise ValueError(f"{whose}_{what} has shape {array.shape}, expected {expected[what]}")

    residue, atom = np.nonzero(true_mask)
    true = true_positions[residue, atom]
    pred, there = pred_positions[residue, atom], pred_mask[residue, atom]
    chains = np.asarray(chain_index)[residue]
    exchanged = np.zeros(length, dtype=bool)
    if symmetric:
        partner = PARTNER[np.asarray(aatype)[residue], atom]
        exchangeable = (partner != atom) & pred_mask[residue, partner]
        incomplete = np.bincount(residue[(partner != atom) & ~(exchangeable & there)], minlength=length) > 0
        exchangeable &= ~incomplete[residue]
        other_name = pred_positions[residue, partner]
        is_symmetric = partner != atom
        gain = _gain_of_exchange(pred, other_name, there, true, residue, chains, is_symmetric, exchangeable)
        exchanged = np.bincount(residue, weights=gain, minlength=length) > 0
        rows = exchanged[residue] & exchangeable
        pred[rows] = other_name[rows]

    pairs_of_residue, kept_of_residue = np.zeros(length), np.zeros(length)
    for block in pair_blocks(pred, true, np.ones(len(true), dtype=bool), chains):
        first, second = residue[block.first], residue[block.second]
        apart = first != second
        kept = preserved_thresholds(block.error) * (there[block.first] & there[block.second] & apart)
        for end in (first, second):
            pairs_of_residue += np.bincount(end, weights=apart, minlength=length)
            kept_of_residue += np.bincount(end, weights=kept, minlength=length)
    worth = len(THRESHOLDS) * pairs_of_residue
    per_residue = np.divide(kept_of_residue, worth, out=np.full(length, np.nan), where=worth > 0)
    score = kept_of_residue.sum() / worth.sum() if worth.any() else np.nan
    return AllAtomResult(float(score), per_residue, exchanged, int(pairs_of_residue.sum()) // 2)


def _gain_of_exchange(
    pred: np.ndarray,
    other_name: np.ndarray,
    there: np.ndarray,
    true: np.ndarray,
    residue: np.ndarray,
    chains: np.ndarray,
    is_symmetric: np.ndarray,
    exchangeable: np.ndarray,
) -> np.ndarray:
    """float64 [A]: thresholds that the distances of an atom to all that are not symmetric would gain under its other
    name; 0 for atoms that are not exchangeable.

    All arguments are by atom of the truth (A): float [A, 3] positions as named, under the other name and of the truth,
    and the rest [A].
    """
    gain = np.zeros(len(true))
    units, other_units = thousandths(pred), thousandths(other_name)
    for block in pair_blocks(pred, true, np.ones(len(true), dtype=bool), chains):
        one_is = np.flatnonzero(is_symmetric[block.first] != is_symmetric[block.second])
        first, second = block.first[one_is], block.second[one_is]
        swap = is_symmetric[first]
        moving, fixed = np.where(swap, first, second), np.where(swap, second, first)
        useful = exchangeable[moving] & there[fixed] & (residue[first] != residue[second])
        moving, fixed, one_is = moving[useful], fixed[useful], one_is[useful]
        apart = other_units[moving] - units[fixed]
        other_error = np.abs(block.true_distance[one_is] - np.sqrt((apart**2).sum(axis=1)))
        change = preserved_thresholds(other_error).astype(np.int64) - preserved_thresholds(block.error[one_is])
        gain += np.bincount(moving, weights=change, minlength=len(gain))
    return gain
