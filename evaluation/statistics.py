"""What a set of scores says: mean, median, and how sure the mean is."""

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
