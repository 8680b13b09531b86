"""One optimizer step: forward pass, losses, gradients over micro-batches and processes, AdamW, moving averages.

``Trainer`` is the state of a run between steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm, parameters_to_vector

from pipeline.config.schema import OptimizerConfig, RunConfig
from pipeline.folding.model import FoldingModel
from pipeline.runs.checkpoint import Checkpoint, like, load_optimizer, local, optimizer_tensors, whole
from pipeline.runs.directory import initial_model, load_parameters, trained_parameters
from pipeline.training.data import Feed, MicroBatch, StepBatches, TrainingChains
from pipeline.training.objective import Objective, fold_objective
from pipeline.training.processes import Processes


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int = 1_000,
    decay_after: int = 50_000,
    decay_every: int = 50_000,
    decay_factor: float = 0.95,
    base: float = 0.0,
    cosine_from: int | None = None,
    total_steps: int | None = None,
) -> float:
    """AlphaFold's schedule (suppl. 1.11.3) as OpenFold runs it, optionally with a cosine to zero at the end.

    Args:
        step: optimizer steps done so far, from 0.
        peak: rate after the warm-up.
        warmup_steps: linear from ``base`` to ``peak``.
        decay_after: steps at the peak rate, the warm-up included, before the first decay.
        decay_every: steps between decays.
        decay_factor: factor of each decay; the first one takes effect when ``step`` exceeds ``decay_after``.
        base: rate at step 0.
        cosine_from: step from which the rate is also multiplied by a half cosine that ends at ``total_steps``.
        total_steps: needed with ``cosine_from``.
    """
    if step <= warmup_steps and warmup_steps > 0:
        rate = base + step / warmup_steps * (peak - base)
    elif step > decay_after:
        rate = peak * decay_factor ** ((step - decay_after) // decay_every + 1)
    else:
        rate = peak
    if cosine_from is not None and total_steps is not None and step > cosine_from:
        done = (step - cosine_from) / max(total_steps - cosine_from, 1)
        rate *= 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return rate


GROUP_OF_PART = {"stem": "stem", "adapter": "stem", "trunk adapter": "stem", "heads": "heads"}
"""All other parts are in the group ``trunk``."""


def make_optimizer(model: FoldingModel, config: OptimizerConfig) -> torch.optim.AdamW:
    """Groups ``trunk``, ``stem`` (adapters, or the stem where all of it trains) and ``heads``, empty ones left out.

    Without weight decay, the default, the steps are those of Adam.
    """
    members: dict[str, list[torch.nn.Parameter]] = {"trunk": [], "stem": [], "heads": []}
    for part, _, parameter in model.named_parts():
        if parameter.requires_grad:
            members[GROUP_OF_PART.get(part, "trunk")].append(parameter)
    rates = {"trunk": config.lr, "stem": config.stem_lr, "heads": config.heads_lr or config.lr}
    decays = {
        "trunk": config.weight_decay,
        "stem": config.stem_weight_decay,
        "heads": config.heads_weight_decay,
    }
    groups = [
        {"params": parameters, "name": name, "peak_lr": rates[name], "weight_decay": decays[name]}
        for name, parameters in members.items()
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total: int) -> float:
    """Set the rates of step ``step`` of ``total``; returns that of the group ``trunk``."""
    shape = learning_rate(
        step,
        peak=1.0,
        warmup_steps=config.warmup_steps,
        decay_after=config.decay_after,
        decay_every=config.decay_every,
        decay_factor=config.decay_factor,
        cosine_from=round(config.cosine_after * total) if config.cosine_after < 1 else None,
        total_steps=total,
    )
    for group in optimizer.param_groups:
        group["lr"] = shape * group["peak_lr"]
    return shape * config.lr


Forward = Callable[[MicroBatch], Objective]


def globally_clipped(
    forward: Forward,
    micro_batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    processes: Processes,
    wrapped: nn.Module,
) -> tuple[list[Objective], float]:
    """Leave in ``grad`` the gradient of the mean over all samples of the step, clipped by its norm (OpenFold).

    Args:
        forward: of one micro-batch; its loss is the mean over the samples in it.
        micro_batches: of this process.
        parameters: that train.
        max_norm: largest norm of the gradient of all parameters together.
        processes: each has as many micro-batches.
        wrapped: what ``processes.wrap`` gave; it averages gradients over the processes in the last backward pass.

    Returns:
        The objective of each micro-batch, and the norm before clipping.
    """
    objectives = []
    for number, micro in enumerate(micro_batches, start=1):
        last = number == len(micro_batches)
        with nullcontext() if last else processes.accumulating(wrapped):
            objective = forward(micro)
            (objective.loss * (micro.share * processes.count)).backward()
        objectives.append(replace(objective, loss=objective.loss.detach()))
    norm = clip_grad_norm_(parameters, max_norm)
    return objectives, float(whole(norm))


def sample_clipped(
    forward: Forward,
    micro_batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    processes: Processes,
    wrapped: nn.Module,
) -> tuple[list[Objective], float]:
    """Leave in ``grad`` the mean of the samples' gradients, each clipped by its own norm (AlphaFold2, suppl. 1.11.3).

    As ``globally_clipped``, with micro-batches of one sample. Returns the objectives and the mean norm of a sample's
    gradient before clipping, over the samples of all processes.
    """
    mean = [torch.zeros_like(parameter) for parameter in parameters]
    objectives, norms = [], torch.zeros((), device=processes.device)
    with processes.accumulating(wrapped):
        for micro in micro_batches:
            for parameter in parameters:
                parameter.grad = None
            objective = forward(micro)
            objective.loss.backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            norm = get_total_norm(gradients)
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0) * micro.share  # as clip_grad_norm_
            torch._foreach_mul_(gradients, scale)
            torch._foreach_add_(mean, gradients)
            norms += norm * micro.share
            objectives.append(replace(objective, loss=objective.loss.detach()))
    if processes.count > 1:
        together = processes.sum(parameters_to_vector(mean))
        mean = [part.view_as(p) for part, p in zip(together.split([p.numel() for p in mean]), mean, strict=True)]
    for parameter, gradient in zip(parameters, mean, strict=True):
        parameter.grad = gradient
    return objectives, float(processes.sum(norms))


class ExponentialMovingAverage:
    """Shadow copies of parameters; validation and prediction use them (Jumper et al. 2021, suppl. 1.11.7).

    With ``warmup`` the decay of update number t is min(decay, (1 + t) / (10 + t)), so that a short run is not dominated
    by its initial weights; without it is ``decay`` from the first, as in AlphaFold2 and OpenFold. The copies never
    replace the weights that are being trained, except inside ``applied``. Copies of sharded parameters are sharded in
    the same way.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, *, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.parameters = dict(parameters)
        self.shadow = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        shadows = [local(shadow) for shadow in self.shadow.values()]
        torch._foreach_lerp_(shadows, [local(p) for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the model for the duration of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            ours, theirs = local(self.shadow[name]), local(parameter)
            trained = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(trained)


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
        self.feed = Feed(chains, config, processes.rank, processes.count)
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
        optimizer = optimizer_tensors(self.optimizer, self.parameters)
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
        load_optimizer(self.optimizer, checkpoint.optimizer, self.parameters)
        self.step = checkpoint.step
