"""One optimizer step after another: the model, its optimizer and averages, and their state."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from pipeline.config.schema import RunConfig
from pipeline.folding.model import FoldingModel
from pipeline.runs.checkpoint import Checkpoint, like, load_optimizer, optimizer_tensors, whole
from pipeline.runs.directory import initial_model, load_parameters, trained_parameters
from pipeline.training.chains import TrainingChains
from pipeline.training.ema import ExponentialMovingAverage
from pipeline.training.feed import Feed, MicroBatch, StepBatches
from pipeline.training.gradients import globally_clipped, sample_clipped
from pipeline.training.objective import Objective, fold_objective
from pipeline.training.optimizer import make_optimizer, names_of, set_learning_rate
from pipeline.training.processes import Processes
from pipeline.training.sampler import CropSchedule, StepSampler


@dataclass(frozen=True)
class Asked:
    """What signals and clocks ask for after a step; what one process is asked, all of them do."""

    stop: bool = False
    """Ctrl-C or SIGTERM."""
    end: bool = False
    """The time of the invocation is over."""
    save: bool = False
    """A checkpoint is due by the clock."""


@dataclass(frozen=True)
class StepResult:
    """What a step was; the same on all processes."""

    step: int
    loss: float
    """Mean over the samples of all processes."""
    terms: Mapping[str, float]
    """Unweighted loss terms, likewise."""
    grad_norm: float
    """Before clipping; with clipping per sample the mean over samples."""
    lr: float
    recycles: int
    samples: int
    problem: str
    """Why the step was not applied; empty if it was."""
    asked: Asked
    """Of any process."""
    objectives: tuple[Objective, ...]
    """Of this process's micro-batches."""


class Trainer:
    """State of a run between steps."""

    def __init__(
        self, config: RunConfig, chains: TrainingChains, processes: Processes, model: FoldingModel | None = None
    ) -> None:
        """``model``: to train; None: that of the configuration at step 0."""
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.chains = chains
        self.model: FoldingModel = (model or initial_model(config)).to(self.device)
        self.model.train()
        self.feed = Feed(
            chains,
            make_sampler(chains, config),
            substitutions=config.data.substitutions,
            masked=config.data.masked_residues if config.heads.masked_lm else 0.0,
            micro_batch=1 if config.optimizer.clip == "sample" else config.training.micro_batch,
            rank=processes.rank,
            count=processes.count,
        )
        self.step = 0
        self.wrapped: torch.nn.Module = self.model

    def start(self) -> None:
        """Wrap the model for its processes and make optimizer and averages; the weights are those to start from."""
        if self.config.training.compile:
            for block in self.model.trunk.blocks:
                block.compile(dynamic=True)
        self.wrapped = self.processes.wrap(self.model)
        self.parameters = trained_parameters(self.model)
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        o = self.config.optimizer
        self.ema = ExponentialMovingAverage(self.parameters, o.ema_decay, warmup=o.ema_warmup)

    def objective(self, micro: MicroBatch) -> Objective:
        """Forward pass and loss; dropout depends on the plan alone."""
        batch = micro.batch
        torch.manual_seed(micro.torch_seed)
        with self.processes.autocast():
            output = self.wrapped(batch.aatype, batch.mask, batch.residue_index, micro.num_recycles, micro.shown_aatype)
        progress = self.step / max(self.config.training.max_steps, 1)
        return fold_objective(output, batch, micro.clamp, self.config.loss, progress)

    def train_step(self, batches: StepBatches, *, asked: Asked = Asked(), largest_loss: float = math.inf) -> StepResult:
        """One optimizer step.

        Args:
            batches: this process's part of the step after ``self.step``.
            asked: of this process; all processes hear of it.
            largest_loss: a step with a larger loss is not applied.
        """
        o = self.config.optimizer
        self.optimizer.zero_grad(set_to_none=True)
        clipped = sample_clipped if o.clip == "sample" else globally_clipped
        micro_batches = [micro.to(self.device) for micro in batches.micro_batches]
        objectives, norm = clipped(
            self.objective,
            micro_batches,
            list(self.parameters.values()),
            o.clip_norm,
            self.processes,
            self.wrapped,
        )
        loss, terms, asked = self._over_processes(micro_batches, objectives, asked)
        self.step += 1
        rate = set_learning_rate(self.optimizer, o, self.step, self.config.training.max_steps)
        problem = ""
        if not math.isfinite(loss):
            problem = f"the loss is {loss}"
        elif not math.isfinite(norm):
            problem = f"the gradient norm is {norm}"
        elif loss > largest_loss:
            problem = f"the loss is {loss:.4g}, more than {largest_loss:.4g}"
        else:
            self.optimizer.step()
            self.ema.update(self.step)
        return StepResult(
            step=self.step,
            loss=loss,
            terms=terms,
            grad_norm=norm,
            lr=rate,
            recycles=batches.plan.num_recycles,
            samples=len(batches.plan.chains),
            problem=problem,
            asked=asked,
            objectives=tuple(objectives),
        )

    def _over_processes(
        self, micro_batches: list[MicroBatch], objectives: list[Objective], asked: Asked
    ) -> tuple[float, dict[str, float], Asked]:
        """Loss and terms as means over the samples of all processes; what any process is asked."""
        names = list(objectives[0].terms)
        rows = [[float(o.loss), *(float(o.terms[name].mean()) for name in names)] for o in objectives]
        shares = [micro.share for micro in micro_batches]
        columns = zip(*rows, strict=True)
        means = [sum(share * value for share, value in zip(shares, column, strict=True)) for column in columns]
        if self.processes.count > 1:
            flags = astuple(asked)
            values = torch.tensor([*means, *map(float, flags)], dtype=torch.float64, device=self.device)
            *means, stop, end, save = self.processes.sum(values).tolist()
            asked = Asked(stop > 0, end > 0, save > 0)
        return means[0], dict(zip(names, means[1:], strict=True)), asked

    def checkpoint(self) -> Checkpoint:
        """The state to save, whole; a collective operation where parameters are sharded."""
        optimizer = optimizer_tensors(self.optimizer, names_of(self.parameters))
        return Checkpoint(
            step=self.step,
            trained={name: whole(p) for name, p in self.parameters.items()},
            ema={name: whole(tensor) for name, tensor in self.ema.shadow.items()},
            optimizer={name: whole(tensor) for name, tensor in optimizer.items()},
        )

    def restore(self, checkpoint: Checkpoint, source: Path) -> None:
        """Go on from a checkpoint."""
        load_parameters(self.model, checkpoint.trained, source)
        for name, parameter in self.parameters.items():
            self.ema.shadow[name] = like(checkpoint.ema[name], parameter)
        load_optimizer(self.optimizer, checkpoint.optimizer, names_of(self.parameters))
        self.step = checkpoint.step


def make_sampler(chains: TrainingChains, config: RunConfig) -> StepSampler:
    """The sampler of a run over its chains."""
    return StepSampler(
        weights=chains.weights,
        crops=CropSchedule(
            final=config.data.crop_size,
            initial=config.data.initial_crop_size,
            growth_steps=round(config.data.crop_growth * config.training.max_steps),
        ),
        batch_size=config.data.batch_size,
        max_recycles=config.data.max_recycles,
        clamp_probability=config.loss.clamp_probability,
        seed=config.training.seed,
    )
