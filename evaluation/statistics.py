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
