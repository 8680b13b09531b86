"""Scores after superposing alpha carbons whose correspondence is known: RMSD, TM-score, GDT-TS and GDT-HA.

TM-score (Zhang and Skolnick 2004, doi:10.1002/prot.20264) and GDT (Zemla 2003, doi:10.1093/nar/gkg571) are maxima over
all superpositions. Nobody searches all of them; the search here is the TM-score program's: fit a fragment, then again
and again the residues that lie near after the fit, from fragments of every length at every place. The values are lower
bounds that hardly move with a longer search.

The correspondence of residues is given and stays as it is. TM-align looks for the best one, which is another number.
"""

from dataclasses import dataclass

import numpy as np

_SHORTEST = 4  # residues of the shortest fragment
_STARTS = 400  # places at most per length of fragment: all of them, up to 400 residues
_ROUNDS = 20  # of refitting at most; most fragments settle after about five
_CUTOFFS = (0.5, 1.0, 2.0, 4.0, 8.0)  # angstrom, of GDT-HA and GDT-TS
_AT_ONCE = 100_000  # distances held in memory at once


@dataclass(frozen=True)
class SuperpositionScores:
    """Shares are of the truth's residues, so that what the prediction lacks counts as wrong, except for the RMSD."""

    rmsd: float
    """angstrom, over the residues in common, best fit of all of them (Kabsch 1976)."""
    tm_score: float
    """in (0, 1]."""
    gdt_ts: float
    """in [0, 1]: mean share of residues within 1, 2, 4 and 8 A, each after the fit that is best for it."""
    gdt_ha: float
    """in [0, 1]: the same for 0.5, 1, 2 and 4 A."""


def superposition_scores(pred: np.ndarray, true: np.ndarray, n_truth: int) -> SuperpositionScores:
    """Scores of M residues that correspond one to one.

    Args:
        pred: float [M, 3], angstrom.
        true: float [M, 3], angstrom.
        n_truth: residues of the truth, those without a counterpart included; ``n_truth >= M >= 1``.

    Raises:
        ValueError: shapes that do not agree, or no residue.
    """
    pred, true = np.asarray(pred, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if pred.shape != true.shape or pred.ndim != 2 or pred.shape[1] != 3 or not 1 <= len(pred) <= n_truth:
        raise ValueError(
            f"pred has shape {pred.shape}, true {true.shape}, n_truth is {n_truth}: expected (M, 3) twice and "
            "1 <= M <= n_truth"
        )
    pred, true = pred - pred.mean(axis=0), true - true.mean(axis=0)
    rotation, translation = superpose(pred, true)
    rmsd = float(np.sqrt(((pred @ rotation.T + translation - true) ** 2).sum(axis=1).mean()))

    scale = tm_scale(n_truth)
    near = float(np.clip(scale, 4.5, 8.0))
    best_tm = 0.0
    best_counts = np.zeros(len(_CUTOFFS), dtype=np.int64)
    features = _features(pred, true)
    at_once = max(1, _AT_ONCE // len(pred))
    seeds = _fragments(len(pred))
    for first in range(0, len(seeds), at_once):
        chosen = _selection(seeds[first : first + at_once], len(pred))
        for round_ in range(_ROUNDS + 1):
            square = _squared_distances(features, *_fit(pred, true, chosen))
            best_tm = max(best_tm, float((1 / (1 + square / scale**2)).sum(axis=1).max()))
            counts = [np.count_nonzero(square <= cutoff**2, axis=1).max() for cutoff in _CUTOFFS]
            best_counts = np.maximum(best_counts, counts)
            refit = _near(square, near - 1 if round_ == 0 else near + 1)
            moved = (refit != chosen).any(axis=1)
            if not moved.any():
                break
            chosen = refit[moved]
    half, one, two, four, eight = (best_counts / n_truth).tolist()
    return SuperpositionScores(
        rmsd=rmsd,
        tm_score=best_tm / n_truth,
        gdt_ts=(one + two + four + eight) / 4,
        gdt_ha=(half + one + two + four) / 4,
    )


def superpose(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation (float64 [3, 3]) and translation (float64 [3], angstrom) that bring ``pred`` [M, 3] nearest to
    ``true`` [M, 3]: ``pred @ rotation.T + translation``."""
    rotation, translation = _fit(pred.astype(np.float64), true.astype(np.float64), np.ones((1, len(pred))))
    return rotation[0], translation[0]


def tm_scale(length: int) -> float:
    """The distance d0 in angstrom at which a residue is worth one half, for a truth of that many residues."""
    return max(0.5, 1.24 * np.cbrt(length - 15) - 1.8)


def _fragments(length: int) -> np.ndarray:
    """int64 [S, 2]: starts and ends. All residues, then halves, quarters and so on, down to four residues."""
    fragments, size = [], length
    while True:
        step = max(1, (length - size + 1) // _STARTS)
        starts = np.arange(0, length - size + 1, step)
        fragments.append(np.stack([starts, starts + size], axis=1))
        if size <= _SHORTEST:
            return np.concatenate(fragments)
        size = max(size // 2, _SHORTEST)


def _selection(fragments: np.ndarray, length: int) -> np.ndarray:
    """bool [S, M]: the residues of each fragment."""
    place = np.arange(length)
    return (place >= fragments[:, :1]) & (place < fragments[:, 1:])


def _near(square: np.ndarray, cutoff: float) -> np.ndarray:
    """bool [S, M]: residues nearer than the cutoff, which grows by half angstroms until there are three."""
    near = square < cutoff**2
    few = np.flatnonzero(np.count_nonzero(near, axis=1) < 3)
    if len(few):
        rank = min(2, square.shape[1] - 1)
        third = np.sqrt(np.partition(square[few], rank, axis=1)[:, rank])
        steps = np.maximum(0, np.floor((third - cutoff) / 0.5) + 1)
        near[few] = square[few] < ((cutoff + 0.5 * steps) ** 2)[:, None]
    return near


def _fit(pred: np.ndarray, true: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best superpositions of the chosen residues: rotations [S, 3, 3] and translations [S, 3], for chosen [S, M]."""
    weights = chosen.astype(np.float64)
    total = weights.sum(axis=1)[:, None]
    pred_centre, true_centre = weights @ pred / total, weights @ true / total
    products = (pred[:, :, None] * true[:, None, :]).reshape(len(pred), 9)
    covariance = (weights @ products).reshape(-1, 3, 3)
    covariance -= total[:, :, None] * pred_centre[:, :, None] * true_centre[:, None, :]
    left, _, right = np.linalg.svd(covariance)
    turned = np.linalg.det(left @ right)
    left[:, :, 2] *= np.where(turned < 0, -1.0, 1.0)[:, None]  # no mirror images
    rotation = (left @ right).transpose(0, 2, 1)
    return rotation, true_centre - (rotation @ pred_centre[:, :, None])[:, :, 0]


def _features(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 [16, M]: what the squared distances of all residues after any superposition are linear in."""
    squares = (pred**2).sum(axis=1) + (true**2).sum(axis=1)
    products = (true[:, :, None] * pred[:, None, :]).reshape(len(pred), 9)
    return np.hstack([squares[:, None], true, pred, products]).T


def _squared_distances(features: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """float64 [S, M], angstrom^2: |R p + t - q|^2 of every residue after each superposition, multiplied out, so that
    one matrix product does them all."""
    back = (translation[:, None] @ rotation)[:, 0]  # R^T t
    ones = np.ones((len(rotation), 1))
    parts = [ones, -2 * translation, 2 * back, -2 * rotation.reshape(-1, 9)]
    square = np.hstack(parts) @ features
    square += (translation**2).sum(axis=1)[:, None]
    return np.maximum(square, 0.0, out=square)
