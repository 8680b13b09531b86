"""Training steps for real at the largest crop, to measure what they take (``pipeline.train --dry-run``).

Weights are random and chains made up: what a step takes depends on shapes alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPE_ATOM37_MASK, RESTYPES, sequence_to_aatype
from pipeline.config.device import free_bytes, is_out_of_memory, memory_in_use
from pipeline.config.schema import RunConfig
from pipeline.folding.model import FoldingModel
from pipeline.folding.stem import Stem
from pipeline.runs.directory import freeze
from pipeline.training.chains import ChainSource, TrainingChains
from pipeline.training.dry_run import Estimate
from pipeline.training.feed import StepBatches
from pipeline.training.processes import Processes
from pipeline.training.step import Trainer

MICRO_BATCHES = 2
"""Of a step that are taken at most: the second has gradients in memory to add to, and more are alike."""

CPU_TERAFLOP = 0.3
"""In matrix products that are tried on a CPU: about half a minute of a core."""

ROOM = 1.2
"""How many times the estimate of its memory has to be free for a step to be tried."""

SPREAD = 10.0
"""angstrom, of the made-up atoms."""


@dataclass(frozen=True)
class Trial:
    """What steps took."""

    seconds: float
    """Of a step, on average over the recycles that are drawn."""
    memory_mb: float
    """As the run will say it: ``progress.memory_in_use``."""


class MadeUpChains:
    """A dataset of random chains of one length, with all their atoms."""

    def __init__(self, length: int) -> None:
        self.length = length

    def column(self, name: str, ids: Sequence[str]) -> np.ndarray:
        """Of the index; ``length`` is all that is asked for."""
        return np.full(len(ids), {"length": self.length}[name])

    def load(self, name: str) -> ProteinRecord:
        """The chain of this number."""
        rng, n = np.random.default_rng(int(name)), self.length
        sequence = "".join(rng.choice(list(RESTYPES), n))
        return ProteinRecord(
            id=name,
            chain_id="A",
            sequence=sequence,
            residue_index=np.arange(n, dtype=np.int32),
            atom37_positions=(SPREAD * rng.standard_normal((n, 37, 3))).astype(np.float32),
            atom37_mask=RESTYPE_ATOM37_MASK[sequence_to_aatype(sequence)].astype(bool),
            b_factors=np.zeros((n, 37), dtype=np.float32),
            auth_seq_id=np.arange(n, dtype=np.int32),
            insertion_code=np.full(n, ""),
        )


def why_not(estimate: Estimate, device: torch.device) -> str:
    """Why steps are not tried on ``device``; empty if they can be."""
    free = free_bytes(device)
    if ROOM * estimate.memory > free:
        return f"{free / 1e9:.1f} GB are free on {device}"
    share = min(1.0, MICRO_BATCHES * estimate.micro_batch / estimate.samples)
    if device.type == "cpu" and share * estimate.flops > CPU_TERAFLOP * 1e12:
        return "a CPU would take too long: try it where the training will run"
    return ""


def try_steps(config: RunConfig, processes: Processes) -> Trial | None:
    """Take three steps on this process's device; None where the memory ends.

    The first is not counted, the second has no recycles and the third the most, so that their mean is that of all.
    """
    try:
        model = FoldingModel(config, Stem(config.stem.name))
        model.set_trainable()
        freeze(model, config.training.freeze)
        source = ChainSource(MadeUpChains(config.data.crop_size), tuple("0123456789"), predicted=False)
        trainer = Trainer(config, TrainingChains([(source, 1.0)], by_cluster=False), processes, model)
        trainer.start()
        whole = trainer.feed.load(max(1, config.training.max_steps))  # when crops have grown
        part = StepBatches(whole.plan, whole.micro_batches[:MICRO_BATCHES])
        _, fewest, most = (_seconds(trainer, part, recycles) for recycles in (0, 0, config.data.max_recycles))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
    seconds = (fewest + most) / 2 * len(whole.micro_batches) / len(part.micro_batches)
    return Trial(seconds, memory_in_use(processes.device))


def _seconds(trainer: Trainer, batches: StepBatches, recycles: int) -> float:
    micro_batches = tuple(replace(micro, num_recycles=recycles) for micro in batches.micro_batches)
    started = time.perf_counter()
    trainer.train_step(StepBatches(batches.plan, micro_batches))
    if trainer.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started
