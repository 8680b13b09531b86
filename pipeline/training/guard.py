"""Steps that went wrong: losses that are no numbers or jump, and the batch that did it, on disk."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch

from data_prep.files.atomic import write_text
from pipeline.runs.checkpoint import local
from pipeline.training.data import StepBatches
from pipeline.training.step import StepResult, Trainer

WINDOW = 100
"""Losses that a spike is measured against."""

FEWEST = 20
"""Losses before the first spike can be told."""

MOST_IN_A_ROW = 20
"""Bad steps one after another that are skipped where that is asked for: then it is not the data but the weights."""


class SpikeGuard:
    """The largest loss that is still believed: ``factor`` times the median of the last losses."""

    def __init__(self, factor: float, earlier: list[float]) -> None:
        """``factor`` 0: no limit. ``earlier``: losses of the steps that were applied so far, oldest first."""
        self.factor = factor
        self.losses: deque[float] = deque(earlier, maxlen=WINDOW)

    def limit(self) -> float:
        """Largest loss of the next step."""
        if not self.factor or len(self.losses) < FEWEST:
            return math.inf
        return self.factor * statistics.median(self.losses)

    def add(self, loss: float) -> None:
        """A step was applied. The loss counts as ``metrics.csv`` has it, so that a resumed run has the same limit."""
        self.losses.append(float(f"{loss:.9g}"))


def save_bad_step(folder: Path, result: StepResult, batches: StepBatches, trainer: Trainer) -> str:
    """Write the batch of a step that was not applied, and what is wrong with it; all processes call this.

    ``folder/step_*.json`` has ids, loss terms of each sample and the tensors without a finite gradient;
    ``folder/step_*.<process>.<micro-batch>.safetensors`` what went into the model.

    Returns:
        What is known of the reason, for a message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, processes = f"step_{result.step:08d}", trainer.processes
    samples: list[dict[str, Any]] = []
    for number, (micro, objective) in enumerate(zip(batches.micro_batches, result.objectives, strict=True)):
        micro.batch.save(folder / f"{name}.{processes.rank}.{number}.safetensors")
        terms = {term: values.tolist() for term, values in objective.terms.items()}
        for i, chain in enumerate(micro.batch.ids):
            own = {term: values[i] for term, values in terms.items()}
            bad = [term for term, value in own.items() if not math.isfinite(value)]
            samples.append({"id": chain, "terms": {t: repr(v) if t in bad else v for t, v in own.items()}, "bad": bad})
    samples = processes.gather(samples)
    gradients = {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}
    tensors = [name for name, gradient in gradients.items() if not bool(torch.isfinite(local(gradient)).all())]
    if processes.is_main:
        report = {
            "step": result.step,
            "problem": result.problem,
            "recycles": result.recycles,
            "samples": samples,
            "gradients_not_finite": tensors,
        }
        write_text(folder / f"{name}.json", json.dumps(report, indent=1) + "\n")
    terms_not_finite = [f"{', '.join(sample['bad'])} of {sample['id']}" for sample in samples if sample["bad"]]
    if terms_not_finite:
        return "; ".join(terms_not_finite[:3])
    chains = "chains " + ", ".join(sample["id"] for sample in samples[:8]) + (" ..." if len(samples) > 8 else "")
    return f"no finite gradient in {', '.join(tensors[:3])}; {chains}" if tensors else chains
