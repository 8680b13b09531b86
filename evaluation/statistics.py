"""What a set of scores says: mean, median, how sure the mean is; and whether predictions know how good they are.

pLDDT against the lDDT that was found: correlations say whether the order is right (Pearson: on a line, Spearman: by
rank), the expected calibration error whether the value is (Guo et al. 2017, arXiv 1706.04599): residues are sorted into
ten bins by pLDDT, and the distances between a bin's mean pLDDT / 100 and its mean lDDT are averaged, each bin with the
weight of its residues.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES: int = 10_000
"""Bootstrap samples; at this number the ends of the interval move by about 0.01 of its width from seed to seed."""

CONFIDENCE: float = 0.95

_BLOCK = 1_000_000  # draws held in memory at once


@dataclass(frozen=True)
class Estimate:
    """Mean and median of n scores. None where n does not allow a number."""

    n: int
    mean: float | None
    median: float | None
    low: float | None
    """Lower end of the 95% bootstrap interval of the mean; None for fewer than two scores."""
    high: float | None
    """Upper end."""
    degenerate: bool
    """All scores are equal: the interval has no width and says nothing about other targets."""


def estimate(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean, median and percentile bootstrap interval of the mean (Efron 1979), the same for the same seed.

    Raises:
        ValueError: a value that is not finite. Undefined scores have no place in a mean: leave them out.
    """
    scores = np.asarray(values, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite")
    if not len(scores):
        return Estimate(0, None, None, None, None, degenerate=False)
    low = high = None
    if len(scores) > 1:
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = (float(end) for end in np.percentile(_bootstrap_means(scores, seed, resamples), [tail, 100 - tail]))
    degenerate = len(scores) > 1 and bool((scores == scores[0]).all())
    return Estimate(len(scores), float(scores.mean()), float(np.median(scores)), low, high, degenerate)


def _bootstrap_means(scores: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """float64 [resamples]: means of as many samples, drawn with replacement, of the size of the set."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _BLOCK // len(scores))
    means = [
        scores[generator.integers(0, len(scores), (min(at_once, resamples - done), len(scores)))].mean(axis=1)
        for done in range(0, resamples, at_once)
    ]
    return np.concatenate(means)


def crossed_interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the ends of the 95% bootstrap interval of a mean over seeds and targets, both drawn with replacement.

    The mean is that over targets of each target's mean over seeds. Of the seeds and of the targets as many are drawn
    as there are, apart from each other, so that the interval says how the mean would vary with other seeds and other
    targets. With few seeds it is rather too narrow: it knows no seed but these.

    Args:
        values: float64 [S, T], a row per seed; nan where a seed has no value for a target. Every target has one.
        seed: of the draws; the same interval for the same seed.
        resamples: draws.
    """
    seeds, targets = values.shape
    there = np.isfinite(values)
    zeros = np.where(there, values, 0.0)
    generator = np.random.default_rng(seed)
    means = []
    at_once = max(1, _BLOCK // targets)
    for done in range(0, resamples, at_once):
        size = min(at_once, resamples - done)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size)
        of_targets = generator.multinomial(targets, np.full(targets, 1 / targets), size)
        counts = of_seeds @ there
        target_means = (of_seeds @ zeros) / np.maximum(counts, 1)
        weights = of_targets * (counts > 0)  # a target that no drawn seed has is left out
        total = weights.sum(axis=1)
        means.append(((weights * target_means).sum(axis=1) / np.maximum(total, 1))[total > 0])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


BINS: int = 10
"""Of pLDDT, each 10 wide."""


@dataclass(frozen=True)
class CalibrationBin:
    """The residues (or targets) of one range of pLDDT; never empty."""

    low: float
    """pLDDT, 0 to 100; the upper end belongs to the next bin, except 100."""
    high: float
    n: int
    mean_plddt: float
    """0 to 100."""
    mean_lddt: float
    """0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """How the pLDDT and the lDDT of n residues (or targets) go together. None where it is undefined."""

    n: int
    pearson: float | None
    """in [-1, 1]; None for fewer than two, or where all of either are equal."""
    spearman: float | None
    """in [-1, 1]; the same of the ranks, equal values share their mean rank."""
    ece: float | None
    """Expected calibration error, in [0, 1] on the scale of lDDT; None without residues."""
    bins: tuple[CalibrationBin, ...]


NOTHING_TO_COMPARE = Calibration(0, None, None, None, ())
"""Of no residues."""


def calibrate(plddt: np.ndarray, lddt: np.ndarray) -> Calibration:
    """Compares confidence and score.

    Args:
        plddt: float [N], 0 to 100.
        lddt: float [N], 0 to 1, of the same residues or targets.

    Raises:
        ValueError: lengths that differ, or values that are not finite: leave undefined residues out.
    """
    plddt, lddt = np.asarray(plddt, dtype=np.float64), np.asarray(lddt, dtype=np.float64)
    if plddt.shape != lddt.shape or plddt.ndim != 1 or not (np.isfinite(plddt) & np.isfinite(lddt)).all():
        raise ValueError(f"plddt {plddt.shape} and lddt {lddt.shape}: expected two finite arrays of one length")
    if not len(plddt):
        return NOTHING_TO_COMPARE
    number = np.clip((plddt / (100 / BINS)).astype(np.int64), 0, BINS - 1)
    bins = tuple(
        CalibrationBin(
            low=100 / BINS * one,
            high=100 / BINS * (one + 1),
            n=int(np.count_nonzero(number == one)),
            mean_plddt=float(plddt[number == one].mean()),
            mean_lddt=float(lddt[number == one].mean()),
        )
        for one in np.unique(number).tolist()
    )
    gaps = [one.n * abs(one.mean_plddt / 100 - one.mean_lddt) for one in bins]
    return Calibration(
        n=len(plddt),
        pearson=_correlation(plddt, lddt),
        spearman=_correlation(_ranks(plddt), _ranks(lddt)),
        ece=sum(gaps) / len(plddt),
        bins=bins,
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # the squares of very small numbers would vanish
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """float64 [N]: ranks from 1; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
