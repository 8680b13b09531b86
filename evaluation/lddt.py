"""lDDT over alpha carbons, in NumPy, and the command ``python -m evaluation.lddt``.

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
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
_THRESHOLD_UNITS = tuple(threshold * _PER_ANGSTROM for threshold in THRESHOLDS)
_ROWS = 64  # residues per block at least: small enough that a block of 3,000 columns stays in the cache
_CELLS = 1 << 16  # of a block that has more rows, because its columns are few
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
        kept = preserved_thresholds(error)
        exactly = np.logical_or.reduce([error == threshold for threshold in _THRESHOLD_UNITS])
        if not all_there:
            both = pred_mask[block.first] & pred_mask[block.second]
            kept *= both
            exactly &= both
            pairs_common += int(np.count_nonzero(both))
        lost_if_strict += int(np.count_nonzero(exactly))
        if chain_index is not None:
            edge = block.true_distance == INCLUSION_RADIUS * _PER_ANGSTROM
            if edge.any():
                pairs_lost_if_strict += int(np.count_nonzero(edge))
                lost_if_strict += int(kept[edge].sum()) - int(np.count_nonzero(exactly & edge))
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
    rows = np.flatnonzero(true_mask)  # index within the truth's residues -> index in the arrays
    true_units = _centred(thousandths(true_positions[rows]))
    # A prediction's missing positions may hold anything, nan included; 0 keeps the arithmetic quiet.
    pred_units = thousandths(pred_positions[rows])
    pred_units = _centred(np.where(np.isfinite(pred_units), pred_units, 0.0))
    chains = None if chain_index is None else chain_index[rows]
    true_left, true_right = _squared_distance_factors(true_units)
    pred_left, pred_right = _squared_distance_factors(pred_units)
    radius = INCLUSION_RADIUS * _PER_ANGSTROM

    at_once = max(_ROWS, _CELLS // max(len(rows), 1))
    for start in range(0, len(rows), at_once):
        stop = min(start + at_once, len(rows))
        columns = _columns_near(true_units, start, stop, radius)
        square = true_left[start:stop] @ true_right[columns].T  # [rows, columns], exact for whole thousandths
        near = square <= radius**2
        near[:, : stop - start] &= ~np.tri(stop - start, dtype=bool)  # the block against itself: each pair once
        flat = np.flatnonzero(near)
        square = square.take(flat)
        row = flat // len(columns)
        first, second = row + start, columns[flat - row * len(columns)]
        pred_square = (pred_left[start:stop] @ pred_right[columns].T).take(flat)
        on_the_edge = square == radius**2
        if on_the_edge.any():  # exactly 15 A: in between chains, out within a chain
            within = True if chains is None else chains[first] == chains[second]
            keep = ~(on_the_edge & within)
            first, second, square, pred_square = first[keep], second[keep], square[keep], pred_square[keep]
        if len(first):
            if len(rows) < len(true_mask):
                first, second = rows[first], rows[second]
            yield PairBlock(first, second, np.sqrt(np.maximum(square, 0.0)), np.sqrt(np.maximum(pred_square, 0.0)))


def preserved_thresholds(error: np.ndarray) -> np.ndarray:
    """uint8 [P], 0 to 4: how many thresholds each distance error (thousandths of an angstrom) does not exceed."""
    kept = np.zeros(len(error), dtype=np.uint8)
    for threshold in _THRESHOLD_UNITS:
        kept += error <= threshold
    return kept


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
    if positions.ndim != 2 or positions.shape[1] != 3 or not np.issubdtype(positions.dtype, np.floating):
        raise ValueError(f"{name}_positions is {positions.dtype} {positions.shape}, expected floats of shape (N, 3)")
    finite = np.isfinite(positions).all(axis=-1)
    if mask is None:
        return finite
    mask = np.asarray(mask)
    if mask.shape != finite.shape:
        raise ValueError(f"{name}_mask has shape {mask.shape}, expected {finite.shape}")
    return finite & mask.astype(bool)


def _centred(units: np.ndarray) -> np.ndarray:
    """Moved near the origin, so that the squares stay small: by a median, which one stray residue cannot drag away,
    rounded, so that whole numbers stay whole."""
    middle = len(units) // 2
    return units - np.rint(np.partition(units, middle, axis=0)[middle]) if len(units) else units


def _squared_distance_factors(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, 5] and [N, 5] whose product is |x_i|^2 - 2 x_i.x_j + |x_j|^2: one matrix product per block.

    Whole numbers up to 2^53 are exact in float64, and so is this for coordinates within 30,000 A of the middle.
    """
    square, one = (units**2).sum(axis=1, keepdims=True), np.ones((len(units), 1))
    return np.hstack([units, square, one]), np.hstack([-2.0 * units, one, square])


def _columns_near(units: np.ndarray, start: int, stop: int, radius: float) -> np.ndarray:
    """Indices from ``start`` on that can have a partner in the rows [start, stop): first the rows themselves, then
    the later ones inside their bounding box, widened by the radius."""
    if stop == len(units):
        return np.arange(start, stop)
    rows, later = units[start:stop], units[stop:]
    low, high = rows.min(axis=0) - radius, rows.max(axis=0) + radius
    inside = ((later >= low) & (later <= high)).all(axis=1)
    return np.concatenate([np.arange(start, stop), stop + np.flatnonzero(inside)])


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


if __name__ == "__main__":
    import sys

    from evaluation.command import main

    sys.exit(main())
