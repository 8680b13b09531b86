"""Batches of this process, loaded by a thread while the step before is computed."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.training.chains import TrainingChains
from pipeline.training.data import Batch, collate, mask_residues, random_crop, substitute_residues
from pipeline.training.sampler import StepPlan, StepSampler


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What goes through the model at once."""

    batch: Batch
    shown_aatype: torch.Tensor
    """int64 [B, N], with substituted and masked residues: what the stem sees."""
    clamp: tuple[bool, ...]
    num_recycles: int
    torch_seed: int
    share: float
    """Part of the samples of the step, over all processes, that is in here."""

    def to(self, device: torch.device) -> "MicroBatch":
        """On another device."""
        moved = {"batch": self.batch.to(device), "shown_aatype": self.shown_aatype.to(device)}
        return MicroBatch(**(vars(self) | moved))


@dataclass(frozen=True, eq=False)
class StepBatches:
    """This process's part of a step."""

    plan: StepPlan
    micro_batches: tuple[MicroBatch, ...]


class Feed:
    """Reads the chains of a plan and makes batches of this process's share of them.

    Sample i of a step belongs to process ``i % count``. Crops and substituted residues are drawn for the step as a
    whole, so they do not depend on how many processes there are or how many samples go through the model at once.
    """

    def __init__(
        self,
        chains: TrainingChains,
        sampler: StepSampler,
        *,
        substitutions: float,
        masked: float = 0.0,
        micro_batch: int,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        """``micro_batch`` samples at once, 0 for all; ``masked``: share of the residues that are not shown."""
        self.chains = chains
        self.sampler = sampler
        self.substitutions = substitutions
        self.masked = masked
        self.micro_batch = micro_batch
        self.rank = rank
        self.count = count

    def load(self, step: int) -> StepBatches:
        """This process's batches of step ``step``."""
        plan = self.sampler.plan(step)
        mine = range(self.rank, len(plan.chains), self.count)
        size = self.micro_batch or len(mine)
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        return StepBatches(plan, tuple(self._micro_batch(plan, part) for part in parts))

    def first_sample(self, step: int) -> MicroBatch:
        """The first sample of a step, alone and without recycles, the same on all processes: for a rehearsal."""
        plan = self.sampler.plan(step)
        micro = self._micro_batch(plan, range(1))
        return MicroBatch(**(vars(micro) | {"num_recycles": 0}))

    def _micro_batch(self, plan: StepPlan, samples: range) -> MicroBatch:
        crops = []
        for sample in samples:
            record, predicted = self.chains.load(plan.chains[sample])
            rng = np.random.default_rng(plan.crop_seeds[sample])
            crops.append(random_crop(record, plan.crop_size, rng, predicted))
        batch = collate(crops)
        return MicroBatch(
            batch=batch,
            shown_aatype=self._shown(plan, samples, batch.aatype),
            clamp=tuple(plan.clamp[sample] for sample in samples),
            num_recycles=plan.num_recycles,
            torch_seed=plan.torch_seed + samples[0],
            share=len(samples) / len(plan.chains),
        )

    def _shown(self, plan: StepPlan, samples: range, aatype: torch.Tensor) -> torch.Tensor:
        width = int(np.minimum(self.chains.lengths[list(plan.chains)], plan.crop_size).max())
        whole = torch.zeros(len(plan.chains), width, dtype=torch.int64)
        whole[samples.start : samples.stop : samples.step, : aatype.shape[1]] = aatype
        shown = substitute_residues(whole, self.substitutions, plan.torch_seed)
        shown = mask_residues(shown, self.masked, plan.torch_seed)
        return shown[samples.start : samples.stop : samples.step, : aatype.shape[1]]

    def from_step(self, first: int, last: int) -> Iterator[tuple[StepBatches, float]]:
        """The batches of steps ``first`` to ``last``, each with the seconds that it was waited for.

        The next step's are loaded by a thread. An error of loading is raised here.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            upcoming: Future[StepBatches] | None = thread.submit(self.load, first) if first <= last else None
            for step in range(first, last + 1):
                asked = time.perf_counter()
                batches = upcoming.result()
                waited = time.perf_counter() - asked
                upcoming = thread.submit(self.load, step + 1) if step < last else None
                yield batches, waited
