"""lDDT over alpha carbons and over all heavy atoms, as functions of arrays, in NumPy.

The local distance difference test (Mariani et al. 2013, doi:10.1093/bioinformatics/btt473) asks which distances of
the true structure the prediction keeps; nothing is superposed. The definition here is that of OpenStructure's
``bb_lddt``:

- a pair of residues counts when its alpha carbons are nearer than 15 A in the truth (two chains: 15 A or nearer);
- a pair is worth the share of the thresholds 0.5, 1, 2 and 4 A that its distance error does not exceed (``<=``);
- a pair that the prediction lacks is worth 0;
- the score is pooled: the sum over all pairs divided by their number, not the mean of the residues' scores;
- no sequence separation is asked for beyond being two residues, no stereochemistry is checked.

Distances are compared in thousandths of an angstrom, as whole numbers wherever a coordinate has at most three
decimals (as in every PDB file). So a distance of exactly 15.000 or an error of exactly 0.500 falls where the
definition puts it, on every machine, also when the coordinates were kept as float32.

Over all heavy atoms (``lddt_all``) it is OpenStructure 2.10's default (``mol.alg.lddt``): pairs of atoms of different
residues, which correspond by name; an atom that the prediction lacks loses its pairs. In seven kinds of residues a half
turn exchanges atoms whose names are a convention. There the naming that keeps more distances is taken, judged by
distances to atoms that are not symmetric themselves, so that the choice in one residue does not depend on another's.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from data_prep.structure.residues import ATOM37_INDEX, RESNAMES

INCLUSION_RADIUS: float = 15.0
"""angstrom; pairs of the truth at this distance or farther are not looked at."""

THRESHOLDS: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
"""angstrom; the errors of a distance up to which it counts as preserved, each for a quarter."""

DEFINITION: str = (
    "lDDT over alpha carbons as OpenStructure's bb_lddt: pairs of residues whose alpha carbons are < 15 A apart in the "
    "truth (<= 15 A between two chains); distance errors <= 0.5, 1, 2 and 4 A; pooled over pairs; pairs missing from "
    "the prediction count as not preserved; no stereochemistry check"
)
"""The definition in words, for reports."""

_PER_ANGSTROM = 1000.0  # distances are counted in thousandths of an angstrom, the precision of a PDB file
_THRESHOLD_UNITS = np.array(THRESHOLDS) * _PER_ANGSTROM
_ROWS = 64  # residues per block at least: small enough that a block of 3,000 columns stays in the cache
_CELLS = 1 << 16  # of a block that has more rows, because its columns are few
_NEAR_ORIGIN = 1e6  # thousandths of an angstrom: 1,000 A
_PAIR = float(1 << 30)  # counts a pair beside its thresholds kept in one number; exact below 2^53


@dataclass(frozen=True, eq=False)
class LddtResult:
    """Scores of one prediction against one truth of N residues. A score without any pair is nan: undefined."""

    score: float
    """lDDT-Calpha in [0, 1]: pooled over the pairs of the truth, pairs missing from the prediction are worth 0."""
    score_common: float
    """The same over the pairs of which the prediction has both residues: how good is what is there."""
    mean_per_residue: float
    """Mean of ``per_residue`` over the residues where it is defined. It is not ``score``: residues with many
    neighbours weigh no more here than others."""
    per_residue: np.ndarray
    """float64 [N]: pooled over the pairs of one residue; 0 for one that the prediction lacks; nan where the truth has
    no alpha carbon or no other one within the radius."""
    pairs: int
    """Pairs of the truth."""
    pairs_common: int
    """Pairs of the truth of which the prediction has both residues."""
    preserved: int
    """Distances kept, counted once per threshold: ``score == preserved / (4 * pairs)``."""
    score_strict: float
    """``score`` with AlphaFold's strict comparisons: errors ``<`` the thresholds, distances of the truth ``<`` 15 A
    between chains too. It differs only where an error is exactly 0.5, 1, 2 or 4 A."""
    residues: int
    """Residues of the truth with an alpha carbon."""
    residues_common: int
    """Those of them that the prediction has too."""


@dataclass(frozen=True, eq=False)
class PairBlock:
    """Some pairs of the truth, each once. P pairs, first residue < second residue."""

    first: np.ndarray
    """int64 [P], index of a residue."""
    second: np.ndarray
    """int64 [P], index of a residue."""
    true_distance: np.ndarray
    """float64 [P], thousandths of an angstrom."""
    pred_distance: np.ndarray
    """float64 [P], thousandths of an angstrom; meaningless where the prediction lacks a residue."""

    @property
    def error(self) -> np.ndarray:
        """float64 [P], thousandths of an angstrom."""
        return np.abs(self.true_distance - self.pred_distance)


def lddt_ca(
    pred_positions: np.ndarray,
    true_positions: np.ndarray,
    pred_mask: np.ndarray | None = None,
    true_mask: np.ndarray | None = None,
    chain_index: np.ndarray | None = None,
) -> LddtResult:
    """lDDT over alpha carbons of residues that correspond one to one.

    Args:
        pred_positions: float [N, 3], angstrom: alpha carbons of the prediction.
        true_positions: float [N, 3], angstrom: alpha carbons of the truth, row i is the same residue.
        pred_mask: bool [N], residues that the prediction has; all when None. A position that is not finite is
            missing whatever the mask says.
        true_mask: the same for the truth. Only residues of the truth are scored.
        chain_index: int [N], the same number within a chain; one chain when None. It matters only for two
            residues at exactly 15 A, which count between chains and not within one.

    Raises:
        ValueError: shapes that do not agree.
    """
    pred_positions, true_positions = np.asarray(pred_positions), np.asarray(true_positions)
    length = len(true_positions)
    pred_mask, true_mask = _mask(pred_positions, pred_mask, "pred"), _mask(true_positions, true_mask, "true")
    if len(pred_positions) != length:
        raise ValueError(f"pred_positions has {len(pred_positions)} residues and true_positions {length}: align them")
    if chain_index is not None:
        chain_index = np.asarray(chain_index)
        if chain_index.shape != (length,):
            raise ValueError(f"chain_index has shape {chain_index.shape}, expected ({length},)")

    totals = np.zeros(length)  # per residue: _PAIR for each pair of the truth, 1 for each threshold kept
    all_there = bool(pred_mask[true_mask].all())
    pairs_common = 0
    lost_if_strict = pairs_lost_if_strict = 0
    for block in pair_blocks(pred_positions, true_positions, true_mask, chain_index):
        error = block.error
        if not all_there:
            both = pred_mask[block.first] & pred_mask[block.second]
            error[~both] = np.inf
            pairs_common += int(np.count_nonzero(both))
        kept = preserved_thresholds(error)
        lost_if_strict += int(np.count_nonzero(error == _THRESHOLD_UNITS[:, None]))
        if chain_index is not None:
            edge = block.true_distance == INCLUSION_RADIUS * _PER_ANGSTROM
            if edge.any():
                pairs_lost_if_strict += int(np.count_nonzero(edge))
                lost_if_strict += int(preserved_thresholds(error[edge], strictly=True).sum())
        weights = kept + _PAIR
        for end in (block.first, block.second):
            totals += np.bincount(end, weights=weights, minlength=length)

    of_residue = np.floor(totals / _PAIR)
    kept_of_residue = totals - of_residue * _PAIR
    pairs, preserved = int(of_residue.sum()) // 2, int(kept_of_residue.sum()) // 2
    pairs_common = pairs if all_there else pairs_common
    per_residue = np.full(length, np.nan)
    np.divide(kept_of_residue, len(THRESHOLDS) * of_residue, out=per_residue, where=of_residue > 0)
    defined = per_residue[of_residue > 0]
    return LddtResult(
        score=_ratio(preserved, len(THRESHOLDS) * pairs),
        score_common=_ratio(preserved, len(THRESHOLDS) * pairs_common),
        mean_per_residue=float(defined.mean()) if len(defined) else float("nan"),
        per_residue=per_residue,
        pairs=pairs,
        pairs_common=pairs_common,
        preserved=preserved,
        score_strict=_ratio(preserved - lost_if_strict, len(THRESHOLDS) * (pairs - pairs_lost_if_strict)),
        residues=int(np.count_nonzero(true_mask)),
        residues_common=int(np.count_nonzero(true_mask & pred_mask)),
    )


def pair_blocks(
    pred_positions: np.ndarray,
    true_positions: np.ndarray,
    true_mask: np.ndarray,
    chain_index: np.ndarray | None = None,
) -> Iterator[PairBlock]:
    """The pairs of the truth within the radius, block by block, so that memory grows with N and not with N^2.

    Arguments as for ``lddt_ca``; both position arrays are [N, 3] and every ``true_mask`` position is finite.
    """
    rows = true_mask.nonzero()[0]  # index within the truth's residues -> index in the arrays
    if len(rows) < len(true_mask):
        pred_positions, true_positions = pred_positions[rows], true_positions[rows]
        chain_index = None if chain_index is None else chain_index[rows]
    units = np.empty((2, len(rows), 3))
    units[0], units[1] = thousandths(true_positions), thousandths(pred_positions)
    largest = np.abs(units).max(initial=0.0)
    if not largest <= _NEAR_ORIGIN:
        if not np.isfinite(largest):  # missing positions may hold anything; 0 keeps the arithmetic quiet
            units[1] = np.where(np.isfinite(units[1]), units[1], 0.0)
        units = _centred(units)
    (true_left, pred_left), (true_right, pred_right) = _squared_distance_factors(units)
    radius = INCLUSION_RADIUS * _PER_ANGSTROM
    in_reach = np.less if chain_index is None else np.less_equal  # 15 A exactly: in between chains, out within a chain

    at_once = min(max(_ROWS, _CELLS // max(len(rows), 1)), len(rows))
    cells = _scratch(at_once * len(rows))
    for start in range(0, len(rows), max(at_once, 1)):
        stop = min(start + at_once, len(rows))
        columns = _columns_near(units[0], start, stop, radius)
        right = true_right[:, columns]
        block = cells[: (stop - start) * right.shape[1]].reshape(stop - start, -1)
        np.matmul(true_left[start:stop], right, out=block)  # exact for whole thousandths
        near = in_reach(block, radius**2)
        near[:, : stop - start] &= _above_diagonal(at_once)[: stop - start, : stop - start]  # each pair once
        flat = near.ravel().nonzero()[0]
        if not len(flat):
            continue
        square = block.take(flat)
        pred_square = np.matmul(pred_left[start:stop], pred_right[:, columns], out=block).take(flat)
        first = flat // near.shape[1]
        second = flat - first * near.shape[1]
        if isinstance(columns, slice):
            second += start
        else:
            second = columns[second]
        first += start
        if chain_index is not None and square.max() == radius**2:
            keep = (square < radius**2) | (chain_index[first] != chain_index[second])
            first, second, square, pred_square = first[keep], second[keep], square[keep], pred_square[keep]
        if len(rows) < len(true_mask):
            first, second = rows[first], rows[second]
        for values in (square, pred_square):
            np.sqrt(np.maximum(values, 0.0, out=values), out=values)
        yield PairBlock(first, second, square, pred_square)


def preserved_thresholds(error: np.ndarray, strictly: bool = False) -> np.ndarray:
    """uint8 [P], 0 to 4: how many thresholds each distance error (thousandths of an angstrom) does not exceed; with
    ``strictly`` also does not reach."""
    compare = np.less if strictly else np.less_equal
    return compare(error, _THRESHOLD_UNITS[:, None]).sum(axis=0, dtype=np.uint8)


def thousandths(positions: np.ndarray) -> np.ndarray:
    """Positions in angstrom as float64 thousandths, whole numbers where the position has three decimals or fewer.

    A float32 (or float64) next to 12.345 is taken for 12.345 exactly: no nearer number can be stored, and a file with
    three decimals meant it. Everything else keeps its value.
    """
    scaled = np.asarray(positions, dtype=np.float64) * _PER_ANGSTROM
    whole = np.rint(scaled)
    return np.where((whole / _PER_ANGSTROM).astype(positions.dtype) == positions, whole, scaled)


def _mask(positions: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray:
    """bool [N] of the residues that are there and finite."""
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.dtype.kind != "f":
        raise ValueError(f"{name}_positions is {positions.dtype} {positions.shape}, expected floats of shape (N, 3)")
    mask = np.ones(len(positions), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if mask.shape != positions.shape[:1]:
        raise ValueError(f"{name}_mask has shape {mask.shape}, expected {positions.shape[:1]}")
    finite = np.isfinite(positions)
    return mask if finite.all() else mask & finite.all(axis=-1)


def _centred(units: np.ndarray) -> np.ndarray:
    """[2, N, 3], each structure moved near the origin, so that the squares stay small: by a median, which one stray
    residue cannot drag away, rounded, so that whole numbers stay whole."""
    middle = units.shape[1] // 2
    return units - np.rint(np.partition(units, middle, axis=1)[:, middle, None])


def _squared_distance_factors(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[2, N, 5] and [2, 5, N] of [2, N, 3] whose products are |x_i|^2 - 2 x_i.x_j + |x_j|^2: one matrix product per
    structure and block.

    Whole numbers up to 2^53 are exact in float64, and so is this for coordinates within 30,000 A of the middle.
    """
    left, right = np.ones((2, units.shape[1], 5)), np.ones((2, 5, units.shape[1]))
    square = np.square(units) @ np.ones(3)
    left[:, :, :3], left[:, :, 3] = units, square
    np.multiply(units.transpose(0, 2, 1), -2.0, out=right[:, :3])
    right[:, 4] = square
    return left, right


def _columns_near(units: np.ndarray, start: int, stop: int, radius: float) -> slice | np.ndarray:
    """Indices from ``start`` on that can have a partner in the rows [start, stop): first the rows themselves, then
    the later ones inside their bounding box, widened by the radius."""
    if stop == len(units):
        return slice(start, stop)
    rows, later = units[start:stop], units[stop:]
    low, high = rows.min(axis=0) - radius, rows.max(axis=0) + radius
    inside = ((later >= low) & (later <= high)).all(axis=1)
    return np.concatenate([np.arange(start, stop), stop + inside.nonzero()[0]])


_SCRATCH = threading.local()


def _scratch(size: int) -> np.ndarray:
    """float64 [size], the same memory for every block and call of a thread (64 N numbers for N above 1,024, 1.5 MB at
    3,000): fresh pages cost more than what is done in them."""
    if getattr(_SCRATCH, "cells", np.empty(0)).size < size:
        _SCRATCH.cells = np.empty(size)
    return _SCRATCH.cells[:size]


@cache
def _above_diagonal(size: int) -> np.ndarray:
    """bool [size, size]: row < column."""
    return ~np.tri(size, dtype=bool)


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


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
