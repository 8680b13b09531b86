"""The training loop: resolved configuration and dataset in, run directory out."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

import numpy as np
import torch
from rich.console import Console

from data_prep.dataset.store import StructureDataset
from data_prep.files import errors
from data_prep.structure.record import ProteinRecord
from evaluation.baselines import Baseline, means_in_words, verdict
from pipeline.config.device import memory_in_use
from pipeline.config.progress import Clock, ProgressOfSteps, interruptible
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.runs.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from pipeline.runs.directory import (
    RunDirectory,
    RunError,
    adapter_tensors,
    freeze,
    frozen_hash,
    load_stem,
    weight_hashes,
)
from pipeline.runs.tables import CsvLog, best_step, mean_score, read_columns, read_rows, validation_history
from pipeline.training.data import StepBatches, panel_records, training_chains, validation_records
from pipeline.training.gradient_check import (
    check_gradient_path,
    count_parts,
    frozen_checksums,
    report_gradient_check,
    report_parameters,
)
from pipeline.training.guard import MOST_IN_A_ROW, SpikeGuard, save_bad_step
from pipeline.training.processes import Processes
from pipeline.training.report import write_pages
from pipeline.training.step import Asked, StepResult, Trainer
from pipeline.training.validation import sample_in_words, save_baselines, validate

VALIDATION = ("step", "target", "length", "lddt_ca", "mean_plddt")
TIMING = ("step", "seconds", "waiting", "samples", "memory_mb")


class TrainingError(errors.RunError):
    """A run that failed; the message is one line."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the state up to the last step is saved."""


class TimeUp(Interrupted):
    """The time of ``--max-minutes`` is over; the state up to the last step is saved."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run says of itself."""

    step: int
    validation: dict[int, float]
    """Mean lDDT-Calpha by step."""
    best_step: int | None
    """Step of the best round; None without validation."""
    stopped_early: bool
    seconds_per_step: float
    """Median."""
    share_waiting: float
    """Part of the time of the steps that was spent waiting for data."""
    memory_mb: float


def train(
    config: RunConfig,
    dataset: StructureDataset,
    run: RunDirectory,
    processes: Processes,
    info: dict,
    console: Console,
    clock: Clock,
) -> TrainingSummary:
    """Train, or go on with a run that has checkpoints, until ``config.training.max_steps``.

    However it ends, the report and the model card say how far it came, and what was trained is saved if it can be.

    Args:
        config: of the run; for a resumed one that of the run directory.
        dataset: with ``train`` chains and, for validation, ``val`` chains.
        run: directory to write to; a run in it is resumed.
        processes: this process and the others; the first one writes and prints.
        info: facts for ``run.json`` (versions, paths); parameters and hashes are added here.
        console: for progress.
        clock: when the invocation ends, and when checkpoints are due beside those by steps.

    Raises:
        TrainingError, GradientPathError: the run failed.
        Interrupted: Ctrl-C or SIGTERM on any process, after saving.
        TimeUp: the time of the invocation is over, after saving.
        RunError: the run is another one, damaged, or being trained by another process.
        ConfigError: settings that the dataset or the model cannot serve.
    """
    records = validation_records(dataset, config.data, config.training.validation_limit)
    panel = panel_records(config.training.panel)
    if config.training.patience and not records:
        raise ConfigError("configuration: training.patience waits for validation, and the dataset has no chains for it")
    chains = training_chains(dataset, config.data)
    trainer = Trainer(config, chains, processes)
    freeze(trainer.model, config.training.freeze)
    mine = run.being_trained() if processes.is_main else nullcontext()
    with mine, closing(_session(trainer, records, panel, run, info, console, clock)) as session:
        if records and processes.is_main:
            session.baselines = save_baselines(run.baselines_file, dataset, records, chains)
            sample = sample_in_words(session.baselines, len(dataset.ids("val")), overfit=bool(config.data.overfit))
            known = " The copy is of this run's training chains." if config.init.weights else ""
            console.print(f"Validation on {sample}. Without a model: {means_in_words(session.baselines)}.{known}")
        return session.run_to_the_end()


def _session(
    trainer: Trainer,
    records: Sequence[ProteinRecord],
    panel: Sequence[ProteinRecord],
    run: RunDirectory,
    info: dict,
    console: Console,
    clock: Clock,
) -> "Session":
    """Return the run where it is: begun, or as its last checkpoint has it."""
    config, processes = trainer.config, trainer.processes
    resumed = run.exists()
    processes.wait()  # all have looked before the first one creates it
    if resumed and run.stem_file.is_file():
        load_stem(trainer.model, run)
    parts = count_parts(trainer.model)
    report_parameters(parts, console)
    sample = trainer.feed.first_sample(1).to(trainer.device)
    terms: list[str] = []

    def rehearsal() -> torch.Tensor:
        objective = trainer.objective(sample)
        terms[:] = objective.terms
        return objective.loss

    report_gradient_check(check_gradient_path(trainer.model, rehearsal, config.training.seed), console)
    if not resumed and processes.is_main:
        counts = {part.part: {"total": part.total, "trainable": part.trainable} for part in parts}
        facts = {"processes": processes.count, "parameters": counts}
        run.create(config, info | facts | weight_hashes(trainer.model), trainer.model)
    elif resumed and not run.trained_with(frozen_sha256=frozen_hash(trainer.model)):
        raise RunError(f"{run.path}: the weights that do not train differ from those that the run started with")
    trainer.start()
    if resumed:
        found = latest_checkpoint(run.checkpoints)
        if found is not None:
            trainer.restore(found, run.checkpoints)
        if processes.is_main:
            run.go_on(config, finished=trainer.step >= config.training.max_steps)
        console.print(f"Resuming {run.path} at step {trainer.step}")
    processes.start_trackers(config, run.path.name)
    return Session(trainer, run, records, panel, terms, console, clock)


class Session:
    """A run from the step where it stands to its end: steps, validation, checkpoints, tables."""

    def __init__(
        self,
        trainer: Trainer,
        run: RunDirectory,
        records: Sequence[ProteinRecord],
        panel: Sequence[ProteinRecord],
        terms: Sequence[str],
        console: Console,
        clock: Clock,
    ) -> None:
        self.trainer = trainer
        self.run = run
        self.clock = clock
        self.baselines: list[Baseline] = []
        """Of the validation chains, on the first process."""
        self.records = records
        self.panel = panel
        self.console = console
        self.config = trainer.config.training
        self.processes = trainer.processes
        self.frozen = frozen_checksums(trainer.model)
        self.done = step = trainer.step
        metrics = read_columns(run.metrics_file, step)
        applied = metrics["loss"][metrics["skipped"] == 0].tolist() if metrics else []
        self.guard = SpikeGuard(self.config.spike_factor, applied)
        skipped = reversed(metrics["skipped"].tolist() if metrics else [])
        self.bad_in_a_row = sum(1 for _ in itertools.takewhile(bool, skipped))
        self.interrupted: Callable[[], bool] = lambda: False
        # Without a checkpoint the round before the first step is done again: it may have been broken off.
        validated = step or -1
        self.history = validation_history(run.validation_file, validated)
        self.panel_steps = {int(row["step"]) for row in read_rows(run.panel_file, validated)}
        self.saved = step if step else -1
        self.can_save = True
        timing = read_columns(run.timing_file, step)
        self.seconds = timing["seconds"].tolist() if timing else []
        self.waiting = timing["waiting"].tolist() if timing else []
        self.memory = float(timing["memory_mb"].max(initial=0.0)) if timing else 0.0
        self.progress = ProgressOfSteps(console, step, self.config.max_steps)
        self.processes.wait()  # all have read the tables before the first one cuts them back
        columns = ("step", "loss", *terms, "grad_norm", "lr", "recycles", "skipped")
        main = self.processes.is_main
        self.metrics = CsvLog(run.metrics_file, columns, step) if main else None
        self.timing = CsvLog(run.timing_file, TIMING, step) if main else None
        self.validation = CsvLog(run.validation_file, VALIDATION, validated) if main else None
        self.panel_table = CsvLog(run.panel_file, VALIDATION, validated) if main and panel else None

    def run_to_the_end(self) -> TrainingSummary:
        """Train until the last step, or until validation gets no better."""
        with interruptible() as self.interrupted, self.progress.shown():
            try:
                stopped_early = self._train()
            except Exception as error:
                self._leave(error)
                raise
        return self._summary(stopped_early)

    def _train(self) -> bool:
        """Take the steps that are left; returns whether validation got no better before the last one."""
        total, stopped_early = self.config.max_steps, False
        if self.trainer.step == 0:
            self.validate()
            self.score_panel()
            self.write_pages()
        elif self._is_round(self.trainer.step) and self.trainer.step not in self.history:
            self.validate()  # the round that a signal broke off
        for batches, waited in self.trainer.feed.from_step(self.trainer.step + 1, total):
            if self.no_better():
                stopped_early = True
                break
            asked = self.step(batches, waited)
            step = self.trainer.step
            better = self._is_round(step) and self.validate()
            if step % self.config.checkpoint_every == 0 or step == total or better or asked.save:
                self.save()
            if self.saved == step or step % self.config.validate_every == 0:
                self.write_pages()
            if asked.stop:
                self.end_here()
            if asked.end and step < total:
                self.end_here(TimeUp(f"step {step} of {total}: the time of --max-minutes is over"))
        if self.saved != self.trainer.step:
            self.save()  # max_steps = 0: an untrained run that can predict
        self.score_panel()
        return stopped_early

    def _leave(self, error: Exception) -> None:
        """Save what a run that ends before its last step has trained, and write its pages.

        What goes wrong here is not raised: ``error`` says why the run ends. Nothing is saved in the middle of a step,
        after an error that the other processes may not have had, and where a file has just been refused.
        """
        together = self.processes.count == 1 or isinstance(error, TrainingError)
        whole = self.trainer.step == self.done and self.can_save and not isinstance(error, OSError)
        with suppress(Exception):
            if together and whole and self.saved != self.done > 0:
                self.save()
                self.console.print(f"step {self.done}: saved")
        with suppress(Exception):
            self.write_pages()

    def _is_round(self, step: int) -> bool:
        """Whether there is validation after this step."""
        return step % self.config.validate_every == 0 or step == self.config.max_steps

    def end_here(self, reason: Interrupted | None = None) -> NoReturn:
        """Save and raise ``reason``; None: that the run was interrupted."""
        step = self.trainer.step
        if step and self.saved != step:
            self.save()
        raise reason or Interrupted(f"interrupted at step {step} of {self.config.max_steps}")

    def _summary(self, stopped_early: bool) -> TrainingSummary:
        seconds = sum(self.seconds)
        summary = TrainingSummary(
            step=self.trainer.step,
            validation=self.history,
            best_step=best_step(self.history),
            stopped_early=stopped_early,
            seconds_per_step=float(np.median(self.seconds)) if self.seconds else 0.0,
            share_waiting=sum(self.waiting) / seconds if seconds else 0.0,
            memory_mb=max(self.memory, memory_in_use(self.trainer.device)),
        )
        if self.processes.is_main:
            self.run.save_summary(asdict(summary))
        self.write_pages()
        return summary

    def step(self, batches: StepBatches, waited: float) -> Asked:
        """Take a step and write its rows; returns what is asked of all processes after it."""
        started = time.perf_counter()
        asked = Asked(
            stop=self.interrupted(),
            end=self.clock.is_over(),
            save=self.clock.is_due(self.config.checkpoint_minutes),
        )
        result = self.trainer.train_step(batches, asked=asked, largest_loss=self.guard.limit())
        if result.problem:
            self._bad_step(result, batches)
        else:
            self.guard.add(result.loss)
            self.bad_in_a_row = 0
        seconds, memory = time.perf_counter() - started + waited, memory_in_use(self.trainer.device)
        self.seconds.append(seconds)
        self.waiting.append(waited)
        if self.metrics is not None and self.timing is not None:
            row = {"step": result.step, "loss": result.loss, **result.terms, "grad_norm": result.grad_norm}
            self.metrics.append(
                row | {"lr": result.lr, "recycles": result.recycles, "skipped": int(bool(result.problem))}
            )
            row = {"step": result.step, "seconds": seconds, "waiting": waited, "samples": result.samples}
            self.timing.append(row | {"memory_mb": round(memory)})
        self.processes.track({"loss": result.loss, **result.terms, "grad_norm": result.grad_norm}, result.step)
        self.progress.advance(step=result.step, loss=result.loss, samples=result.samples, memory=memory)
        self.done = result.step
        return result.asked

    def _bad_step(self, result: StepResult, batches: StepBatches) -> None:
        found = save_bad_step(self.run.bad_steps, result, batches, self.trainer)
        message = f"step {result.step}: {result.problem} ({found}); its batch is in {self.run.bad_steps}"
        if self.config.bad_step == "stop":
            self.trainer.step = self.done  # it was not applied
            raise TrainingError(f"{message}; to go on without such steps: --resume --training.bad_step skip")
        self.bad_in_a_row += 1
        if self.bad_in_a_row > MOST_IN_A_ROW:
            self.trainer.step = self.done
            raise TrainingError(
                f"{message}; so were the {MOST_IN_A_ROW} steps before it: go back to a checkpoint before them (delete "
                "those after it) or to smaller learning rates"
            )
        self.console.print(f"{message}; skipped")

    def validate(self) -> bool:
        """A round of validation with the averaged weights; returns whether it is the best so far."""
        if not self.records:
            return False
        trainer = self.trainer
        with self.progress.pause(), trainer.ema.applied():
            scores = validate(trainer.model, self.records, trainer.device, self.processes, self.interrupted)
        if scores is None:
            self.end_here()
        if self.validation is not None:
            self.validation.append(*({"step": trainer.step, **asdict(score)} for score in scores))
        mean = mean_score(score.lddt_ca for score in scores)
        better = all(mean > earlier for earlier in self.history.values())
        self.history[trainer.step] = self.progress.score = mean
        self.processes.track({"validation lDDT-Calpha": mean}, trainer.step)
        self.console.print(f"step {trainer.step}: validation lDDT-Calpha {mean:.4f} over {len(scores)} chains")
        words = verdict({score.target: score.lddt_ca for score in scores}, self.baselines)
        if words:
            self.console.print(f"  {words}")
        return better

    def score_panel(self) -> None:
        """The panel before the first and after the last step, each once."""
        step = self.trainer.step
        if not self.panel or step in self.panel_steps:
            return
        with self.progress.pause(), self.trainer.ema.applied():
            scores = validate(self.trainer.model, self.panel, self.trainer.device, self.processes, self.interrupted)
        if scores is None:
            self.end_here()
        self.panel_steps.add(step)
        if self.panel_table is not None:
            self.panel_table.append(*({"step": step, **asdict(score)} for score in scores))
        mean = mean_score(score.lddt_ca for score in scores)
        self.console.print(f"step {step}: panel lDDT-Calpha {mean:.4f} over {len(scores)} chains")

    def write_pages(self) -> None:
        """The report and the model card, as things stand."""
        if self.processes.is_main:
            with self.progress.pause():
                write_pages(self.run)

    def no_better(self) -> bool:
        """Whether the last ``patience`` rounds were all worse than one before them."""
        patience, means = self.config.patience, list(self.history.values())
        return 0 < patience < len(means) and max(means[-patience:]) <= max(means[:-patience])

    def save(self) -> None:
        """A checkpoint and the adapter alone; the tables first, so that they hold all steps that it has."""
        trainer, self.can_save = self.trainer, False
        if self.processes.any(frozen_checksums(trainer.model) != self.frozen):
            raise TrainingError(f"step {trainer.step}: frozen parameters have changed; this checkpoint is not written")
        checkpoint = trainer.checkpoint()
        adapters = adapter_tensors(trainer.model, checkpoint.ema)
        problem = self._write(checkpoint, adapters) if self.processes.is_main else None
        if self.processes.any(problem is not None):
            raise problem or TrainingError(f"step {trainer.step}: the first process could not save")
        self.saved, self.can_save = trainer.step, True
        self.clock.saved_now()

    def _write(self, checkpoint: Checkpoint, adapters: Mapping[str, Mapping[str, torch.Tensor]]) -> OSError | None:
        try:
            for table in self.tables():
                table.sync()
            keep, best = self.config.keep_checkpoints, best_step(self.history)
            save_checkpoint(self.run.checkpoints, checkpoint, keep, spare=best)
            self.run.save_adapters(adapters)
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        """Close the tables."""
        for table in self.tables():
            table.close()

    def tables(self) -> list[CsvLog]:
        """Those that this process writes."""
        tables = (self.metrics, self.timing, self.validation, self.panel_table)
        return [table for table in tables if table is not None]
