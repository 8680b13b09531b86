"""The training loop: resolved configuration and dataset in, run directory out."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import lorta
from data_prep.dataset import DatasetError, StructureDataset
from data_prep.record import ProteinRecord
from pipeline.config import RunConfig
from pipeline.folding.model import FoldingModel, build_model
from pipeline.run import (
    CsvLog,
    RunDirectory,
    load_parameters,
    load_stem,
    stem_hash,
    trained_parameters,
)
from pipeline.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from pipeline.training.data import Batch, collate, random_crop, substitute_residues
from pipeline.training.ema import ExponentialMovingAverage
from pipeline.training.objective import Objective, fold_objective
from pipeline.training.progress import interruptible, progress_of_steps, report_parameters, report_proof
from pipeline.training.proof import FactorProof, PartCount, count_parts, frozen_hash, prove_gradient_path
from pipeline.training.sampler import CropSchedule, StepPlan, StepSampler, sampling_weights
from pipeline.training.schedule import learning_rate
from pipeline.training.validation import TargetScore, validate

LOSS_TERMS = ("backbone_fape", "sidechain_fape", "supervised_chi", "distogram", "plddt")
METRICS = ("step", "loss", *LOSS_TERMS, "grad_norm", "lr", "recycles", "seconds")
VALIDATION = ("step", "target", "length", "lddt_ca", "mean_plddt")


class TrainingError(RuntimeError):
    """A run that failed; the message is one line."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the state up to the last step is saved."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run says of itself."""

    step: int
    parts: Sequence[PartCount]
    first_validation: float | None
    last_validation: float | None
    seconds_per_step: float


class Trainer:
    """State of a run between steps. ``train`` drives it."""

    def __init__(self, config: RunConfig, dataset: StructureDataset, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.model: FoldingModel = build_model(config).to(device)
        self.parameters = trained_parameters(self.model)
        self.names = {parameter: name for name, parameter in self.parameters.items()}
        self.optimizer = _optimizer(self.model, config)
        self.ema = ExponentialMovingAverage(self.parameters, config.optimizer.ema_decay)
        self.dataset = dataset
        self.sampler = _sampler(dataset, config)
        self.step = 0

    def batch(self, plan: StepPlan) -> Batch:
        """The crops of a step."""
        crops = [
            random_crop(self.dataset.load(name), plan.crop_size, np.random.default_rng(seed))
            for name, seed in zip(plan.ids, plan.crop_seeds, strict=True)
        ]
        return collate(crops).to(self.device)

    def objective(self, plan: StepPlan, batch: Batch) -> Objective:
        """Forward pass and loss; dropout depends on the plan alone."""
        shown = substitute_residues(batch.aatype, self.config.data.substitutions, plan.torch_seed)
        torch.manual_seed(plan.torch_seed)
        output = self.model(batch.aatype, batch.mask, batch.residue_index, plan.num_recycles, shown)
        return fold_objective(output, batch, plan.clamp, self.config.loss)

    def train_step(self) -> dict[str, float | int]:
        """One optimizer step; returns its row for ``metrics.csv``. Raises TrainingError: a loss is not finite."""
        started = time.perf_counter()
        step = self.step + 1
        plan = self.sampler.plan(step)
        objective = self.objective(plan, self.batch(plan))
        loss = float(objective.loss.detach())
        if not math.isfinite(loss):
            bad = [name for name, term in objective.terms.items() if not bool(term.isfinite().all())]
            raise TrainingError(
                f"step {step}: loss is {loss} (terms: {', '.join(bad)}) on chains {', '.join(plan.ids)}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        objective.loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optimizer.clip_norm))
        if not math.isfinite(norm):
            raise TrainingError(f"step {step}: gradient norm is {norm} on chains {', '.join(plan.ids)}")
        rate = self._set_learning_rate(step)
        self.optimizer.step()
        self.step = step
        self.ema.update(step)
        terms = {name: float(term.mean()) for name, term in objective.terms.items()}
        seconds = time.perf_counter() - started
        return {
            "step": step,
            "loss": loss,
            **terms,
            "grad_norm": norm,
            "lr": rate,
            "recycles": plan.num_recycles,
            "seconds": seconds,
        }

    def _set_learning_rate(self, step: int) -> float:
        o, total = self.config.optimizer, self.config.training.max_steps
        shape = learning_rate(
            step,
            peak=1.0,
            warmup_steps=o.warmup_steps,
            decay_after=o.decay_after,
            decay_every=o.decay_every,
            decay_factor=o.decay_factor,
            cosine_from=round(o.cosine_after * total) if o.cosine_after < 1 else None,
            total_steps=total,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = shape * group["peak_lr"]
        return shape * o.lr

    def checkpoint(self) -> Checkpoint:
        """The state to save."""
        return Checkpoint(
            step=self.step,
            trained=self.parameters,
            ema=self.ema.shadow,
            optimizer=optimizer_tensors(self.optimizer, self.names),
        )

    def restore(self, checkpoint: Checkpoint, source: Path) -> None:
        """Go on from a checkpoint."""
        load_parameters(self.model, checkpoint.trained, source)
        self.ema.shadow = {name: checkpoint.ema[name].to(self.device) for name in self.parameters}
        load_optimizer(self.optimizer, checkpoint.optimizer, self.names)
        self.step = checkpoint.step


def _optimizer(model: FoldingModel, config: RunConfig) -> torch.optim.Adam:
    """Adam with two groups: what is inside the stem (adapter or all of it) and the rest."""
    o = config.optimizer
    inside = [p for part, _, p in model.named_parts() if p.requires_grad and part in ("stem", "adapter")]
    outside = [p for part, _, p in model.named_parts() if p.requires_grad and part not in ("stem", "adapter")]
    groups = [{"params": outside, "peak_lr": o.lr}]
    if inside:
        groups.append({"params": inside, "peak_lr": o.stem_lr})
    return torch.optim.Adam(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)


def _sampler(dataset: StructureDataset, config: RunConfig) -> StepSampler:
    ids = dataset.ids("train")
    if not ids:
        raise DatasetError(f"{dataset.path}: no chain in the training split: see the options of pipeline.prepare")
    rows = [dataset.row(name) for name in ids]
    sizes = [row["cluster_size"] for row in rows] if config.data.cluster_sampling else None
    return StepSampler(
        ids=tuple(ids),
        weights=sampling_weights([row["length"] for row in rows], sizes),
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


def _rehearse(trainer: Trainer) -> list[FactorProof]:
    plan = replace(trainer.sampler.plan(1), num_recycles=0)
    batch = trainer.batch(plan)
    return prove_gradient_path(trainer.model, lambda: trainer.objective(plan, batch).loss, trainer.config.training.seed)


def train(
    config: RunConfig, dataset: StructureDataset, run: RunDirectory, device: torch.device, info: dict, console: Console
) -> TrainingSummary:
    """Train, or go on with a run that has checkpoints, until ``config.training.max_steps``.

    Args:
        config: of the run; for a resumed one that of the run directory.
        dataset: with ``train`` chains and, for validation, ``val`` chains.
        run: directory to write to; a run in it is resumed.
        device: to train on.
        info: facts for ``run.json`` (versions, paths); parameters and hashes are added here.
        console: for progress.

    Raises:
        TrainingError, GradientPathError: the run failed.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    trainer = Trainer(config, dataset, device)
    model = trainer.model
    model.train()
    parts = count_parts(model)
    resumed = run.exists()
    if resumed and run.stem_file.is_file():
        load_stem(model, run)
    report_parameters(parts, console)
    report_proof(_rehearse(trainer), console)
    frozen_before = frozen_hash(model)
    if resumed:
        found = latest_checkpoint(run.checkpoints)
        if found is not None:
            trainer.restore(found, run.checkpoints)
        console.print(f"Resuming {run.path} at step {trainer.step}")
    else:
        counts = {part.part: {"total": part.total, "trainable": part.trainable} for part in parts}
        run.create(config, info | {"stem_sha256": stem_hash(model), "parameters": counts})
        if config.stem.init == "random":
            run.save_stem(model)
    limit = config.training.validation_limit
    names = dataset.ids("val")
    records = [dataset.load(name) for name in (names[:limit] if limit else names)]
    metrics = CsvLog(run.metrics_file, METRICS, trainer.step)
    validation = CsvLog(run.validation_file, VALIDATION, trainer.step)
    history: list[float] = []
    seconds: list[float] = []
    total = config.training.max_steps

    def run_validation() -> None:
        if records:
            history.append(_validate(trainer, records, validation, console))

    def save() -> None:
        if frozen_hash(model) != frozen_before:
            raise TrainingError(f"step {trainer.step}: frozen parameters have changed; this checkpoint is not written")
        save_checkpoint(run.checkpoints, trainer.checkpoint(), config.training.keep_checkpoints)
        if model.adapter is not None:
            with trainer.ema.applied():
                lorta.save(model.stem.esm, run.adapter)

    saved = trainer.step if resumed else -1
    try:
        with interruptible() as interrupted, progress_of_steps(console, trainer.step, total) as advance:
            if trainer.step == 0:
                run_validation()
            while trainer.step < total:
                row = trainer.train_step()
                metrics.append(row)
                seconds.append(float(row["seconds"]))
                advance(row)
                last = trainer.step == total
                if trainer.step % config.training.validate_every == 0 or last:
                    run_validation()
                if trainer.step % config.training.checkpoint_every == 0 or last:
                    save()
                    saved = trainer.step
                if interrupted():
                    raise Interrupted(f"interrupted at step {trainer.step} of {total}")
        if saved < 0:
            save()  # max_steps = 0: an untrained run that can predict
    except Interrupted:
        if saved != trainer.step:
            save()
        raise
    finally:
        metrics.close()
        validation.close()
    return TrainingSummary(
        step=trainer.step,
        parts=parts,
        first_validation=history[0] if history else None,
        last_validation=history[-1] if history else None,
        seconds_per_step=float(np.median(seconds)) if seconds else 0.0,
    )


def _validate(trainer: Trainer, records: Sequence[ProteinRecord], log: CsvLog, console: Console) -> float:
    with trainer.ema.applied():
        scores: list[TargetScore] = validate(trainer.model, records, trainer.device)
    for score in scores:
        log.append({"step": trainer.step, **asdict(score)})
    defined = [score.lddt_ca for score in scores if not math.isnan(score.lddt_ca)]
    mean = float(np.mean(defined)) if defined else float("nan")
    console.print(f"step {trainer.step}: validation lDDT-Calpha {mean:.4f} over {len(defined)} chains")
    return mean
