"""What every stage does around a trainer of Hugging Face: arguments, progress, tables, interruption, resuming.

Checkpoints are the trainer's own (``RUN/checkpoints/checkpoint-N``), with checksums: weights as
safetensors; the state of optimizer, schedule and random generators as ``.pt`` and ``.pth`` files, which are pickles:
transformers reads them with ``weights_only=True`` and an allow-list, so that nothing in them is run.
"""

import math
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import transformers
from rich.console import Console
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import lorta
from data_prep.files.atomic import write_text
from pipeline.config.device import is_out_of_memory, memory_in_use, pick_device
from pipeline.config.layers import config_file_text, to_toml
from pipeline.config.progress import ProgressOfSteps, interruptible
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, StageFailed
from pipeline.lm.results import rows_as_csv
from pipeline.lm.run import LanguageRun, first_difference, newest_whole, seal
from pipeline.lm.settings import StageConfig, TrainingSettings

Arguments = TypeVar("Arguments", bound=TrainingArguments)

FIRST = ("step", "epoch", "loss")
"""Columns that lead a table."""
NOT_RESUMED = ("num_tokens",)
"""Counters of trl's that start anew when a run is resumed."""


class Interrupted(Exception):
    """The user stopped the run; what it had is saved."""


class _AllStepsDone(Exception):
    """The checkpoint that the run goes on from is that of its last step."""


def quiet() -> None:
    """Bars and reports to the hub of the libraries off, their warnings on a line each."""
    import datasets
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # trl's trainers send what they are used for, from a thread

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.formatwarning = lambda message, *rest, **more: f"warning: {' '.join(str(message).split())}\n"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Within the block the end of memory, on whichever device, is a StageFailed that gives ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise StageFailed(f"memory has ended: {advice}") from error


def use_device(training: TrainingSettings) -> torch.device:
    """The device of the run, checked; sets the threads of a CPU. Raises ConfigError."""
    device = pick_device(training.device)
    if device.index is not None:
        raise ConfigError(f"device {training.device!r}: choose a GPU by CUDA_VISIBLE_DEVICES, and give --device cuda")
    if training.cpu_threads:
        torch.set_num_threads(training.cpu_threads)
    return device


def total_steps(training: TrainingSettings, examples: int) -> int:
    """Optimizer steps of the run."""
    return training.max_steps or math.ceil(training.epochs * math.ceil(examples / training.batch_size))


def training_arguments(kind: type[Arguments], config: StageConfig, run: LanguageRun, **more: Any) -> Arguments:
    """Arguments of a trainer from a configuration; ``kind`` is TrainingArguments or trl's class. Raises ConfigError."""
    training, optimizer = config.training, config.optimizer
    micro = training.micro_batch or training.batch_size
    when = "steps" if training.evaluate_every else "epoch"
    arguments = kind(
        output_dir=str(run.checkpoints),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // micro,
        train_sampling_strategy="group_by_length" if training.group_by_length else "random",
        per_device_eval_batch_size=training.eval_batch_size,
        eval_strategy=when,
        save_strategy=when,
        eval_steps=training.evaluate_every or None,
        save_steps=training.evaluate_every or 500,
        logging_steps=training.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        learning_rate=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(optimizer.schedule, optimizer.schedule),
        warmup_steps=optimizer.warmup,
        max_grad_norm=optimizer.clip_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        seed=training.seed,
        use_cpu=use_device(training).type == "cpu",
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )
    if arguments.n_gpu > 1:
        raise ConfigError("several GPUs are visible, and these stages use one: choose it by CUDA_VISIBLE_DEVICES=0")
    return arguments


class Recorder(TrainerCallback):
    """Tables after every log, progress, and a save when the user interrupts.

    The tables are the trainer's own history, which its checkpoints hold: after resuming they are those of a run
    without a break.
    """

    def __init__(
        self,
        run: LanguageRun,
        console: Console,
        save_best: Callable[[list[dict[str, Any]]], None],
        interrupted: Callable[[], bool],
        keep_checkpoints: int,
    ) -> None:
        self.run, self.console, self.save_best, self.interrupted = run, console, save_best, interrupted
        self.keep_checkpoints = keep_checkpoints
        self.stack = ExitStack()
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the progress; where no step is left there is no epoch to begin, or the trainer would do one more."""
        if state.global_step >= state.max_steps:
            raise _AllStepsDone
        self.progress = ProgressOfSteps(self.console, state.global_step, state.max_steps)
        self.stack.enter_context(self.progress.shown())

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Count the step; evaluate the last one; save and stop when interrupted."""
        losses = [row["loss"] for row in state.log_history[-3:] if "loss" in row]
        self.progress.advance(
            step=state.global_step,
            loss=losses[-1] if losses else math.nan,
            samples=args.train_batch_size * args.gradient_accumulation_steps,
            memory=memory_in_use(args.device),
        )
        if args.eval_strategy == "steps" and state.global_step == state.max_steps:
            control.should_evaluate = control.should_save = True
        if self.interrupted() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """AdaLoRA moves its ranks."""
        lorta.after_step(model, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Write the tables; a loss that is not finite, in training or on the held-out examples, ends the run."""
        write_tables(self.run, state.log_history)
        for name, what in (("loss", "loss"), ("eval_loss", "held-out loss")):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                raise StageFailed(f"the {what} is {logs[name]} at step {state.global_step}: lower --optimizer.lr")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Keep the adapter of the best evaluation."""
        self.save_best(evaluations(state.log_history))

    def on_save(self, args, state, control, **kwargs) -> None:
        """Seal the checkpoint, which lets those before it go."""
        seal(self.run.checkpoints / f"checkpoint-{state.global_step}", self.keep_checkpoints)


def evaluations(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations of a trainer's history, names without the prefix ``eval_``."""
    skip = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens")
    return [
        {key.removeprefix("eval_"): value for key, value in row.items() if key not in skip}
        for row in history
        if "eval_loss" in row
    ]


def write_tables(run: LanguageRun, history: Sequence[dict[str, Any]]) -> None:
    """``metrics.csv`` and ``evaluations.csv`` from a trainer's history."""
    losses = [{key: row[key] for key in row if key not in NOT_RESUMED} for row in history if "loss" in row]
    for file, rows in ((run.metrics_file, losses), (run.evaluations_file, evaluations(history))):
        # Checkpoints keep the history with sorted keys, so the order of the columns must not come from it.
        write_text(file, rows_as_csv(rows, first=(*FIRST, *sorted({key for row in rows for key in row}))))


def best_row(rows: Sequence[dict[str, Any]], metric: str, greater: bool) -> dict[str, Any]:
    """The evaluation with the best ``metric``, the first of equals."""
    return (max if greater else min)(rows, key=lambda row: row[metric])


def run_trainer(
    trainer: Trainer,
    config: StageConfig,
    run: LanguageRun,
    console: Console,
    *,
    metric: str,
    greater: bool,
    at_start: bool = False,
) -> list[dict[str, Any]]:
    """Train, from the last checkpoint if there is one; returns the evaluations (``at_start``: one before step 1 too).

    Raises:
        Interrupted: the user stopped it; the last step is saved.
        StageFailed: the loss is no longer finite.
        InputError: all checkpoints are damaged.
    """
    trainer.remove_callback(PrinterCallback)
    if not run.exists():
        run.create(config_file_text(config))  # not before: a setting that does not fit must leave no run behind

    model: Any = trainer.model

    def save_best(rows: list[dict[str, Any]]) -> None:
        if hasattr(model, "peft_config") and best_row(rows, metric, greater) is rows[-1]:
            model.save_pretrained(str(run.best_adapter))

    with interruptible() as interrupted:
        recorder = Recorder(run, console, save_best, interrupted, config.training.keep_checkpoints)
        trainer.add_callback(recorder)
        checkpoint = newest_whole(run.checkpoints, console.print)
        trainer.args.eval_on_start = at_start and checkpoint is None
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except _AllStepsDone:
            pass  # the trainer has read weights and history by now
        finally:
            recorder.stack.close()
    if recorder.stopped:
        raise Interrupted(f"interrupted at step {trainer.state.global_step}")
    return evaluations(trainer.state.log_history)


def is_complete(config: StageConfig, run: LanguageRun, resume: bool) -> bool:
    """Whether the run is there and done, so that nothing is left to do; also whether it may be gone on with.

    Raises:
        InputError: there is a run, and it is not to be resumed; or it has another configuration.
    """
    if not run.exists():
        return False
    if not resume:
        raise InputError(f"{run.path}: holds a run already: --resume to go on with it, or another --out")
    differs = first_difference(run.settings(), tomllib.loads(to_toml(config)))
    if differs:
        raise InputError(f"{run.path}: was started with another configuration ({differs}): take another --out")
    return run.results_file.is_file()
