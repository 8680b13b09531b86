"""What each optimizer step sees, as a pure function of the seed and the step.

Nothing random is kept between steps, so that a resumed run draws what an uninterrupted one would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MIN_LENGTH_WEIGHT, MAX_LENGTH_WEIGHT = 256, 512
"""OpenFold's sampling weight grows with the length between these bounds (AlphaFold2 suppl. 1.2.5)."""

MAX_BATCH_FACTOR = 4


@dataclass(frozen=True)
class StepPlan:
    """The random choices of one step."""

    chains: tuple[int, ...]
    """Places of the samples' chains in the list that is drawn from."""
    crop_size: int
    crop_seeds: tuple[int, ...]
    """Seed of each sample's crop."""
    clamp: tuple[bool, ...]
    """Whether the backbone FAPE of a sample is clamped."""
    num_recycles: int
    """The same for all samples, and so on all processes."""
    torch_seed: int
    """For dropout and substituted residues."""


def sampling_weights(lengths: Sequence[int], cluster_sizes: Sequence[int] | None) -> np.ndarray:
    """Probability of each chain, float64 [chains].

    With cluster sizes: 1 / cluster size x clip(length, 256, 512) / 512, as OpenFold; without: equal.
    """
    if cluster_sizes is None:
        weights = np.ones(len(lengths))
    else:
        clipped = np.clip(np.asarray(lengths, dtype=np.float64), MIN_LENGTH_WEIGHT, MAX_LENGTH_WEIGHT)
        weights = clipped / MAX_LENGTH_WEIGHT / np.asarray(cluster_sizes, dtype=np.float64)
    return weights / weights.sum()


@dataclass(frozen=True)
class CropSchedule:
    """Size of the crops as a function of the step."""

    final: int
    initial: int = 0
    """0: ``final`` from the first step."""
    growth_steps: int = 0
    """Steps over which the size grows linearly from ``initial`` to ``final``."""

    def size(self, step: int) -> int:
        """Residues of a crop in step ``step`` (from 1)."""
        if not self.initial or step >= self.growth_steps:
            return self.final
        return self.initial + (self.final - self.initial) * step // self.growth_steps

    def batch_factor(self, step: int) -> int:
        """How many times the batch size a batch of short crops holds, 1 to 4: about as many pairs as in whole ones."""
        return min(MAX_BATCH_FACTOR, self.final**2 // self.size(step) ** 2)


@dataclass(frozen=True)
class StepSampler:
    """Draws the plan of any step."""

    weights: np.ndarray
    """Probability of each chain, float64 [chains]."""
    crops: CropSchedule
    batch_size: int
    max_recycles: int
    clamp_probability: float
    seed: int

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = self.weights.cumsum()
        return total / total[-1]

    def plan(self, step: int) -> StepPlan:
        """The plan of step ``step`` (from 1)."""
        rng = np.random.default_rng([self.seed, step])
        batch_size = self.batch_size * self.crops.batch_factor(step)
        # The draw of Generator.choice with replacement, without the sum over millions of chains in each step.
        chosen = self._cumulative.searchsorted(rng.random(batch_size), side="right")
        return StepPlan(
            chains=tuple(int(i) for i in chosen),
            crop_size=self.crops.size(step),
            crop_seeds=tuple(int(s) for s in rng.integers(2**62, size=batch_size)),
            clamp=tuple(bool(c) for c in rng.random(batch_size) < self.clamp_probability),
            num_recycles=int(rng.integers(self.max_recycles + 1)),
            torch_seed=int(rng.integers(2**62)),
        )
