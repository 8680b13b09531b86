"""A run that is killed, interrupted or finds its newest checkpoint damaged ends as one that was left alone."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.config.progress import Clock
from pipeline.runs.directory import RunDirectory
from pipeline.train import main
from pipeline.training import loop
from tests.pipeline.training.small import ROOT, SMALL, table

pytestmark = pytest.mark.slow

STEPS = ("--max-steps", "8", "--training.validate_every", "3")


@pytest.fixture(scope="module")
def whole(small_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(["--data", str(small_dataset), "--out", str(run), *SMALL, *STEPS]) == 0
    return run


def assert_same_run(run: Path, whole: Path) -> None:
    for name in ("metrics.csv", "validation.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    last = "checkpoints/step_00000008"
    for name in ("trained.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert (run / last / name).read_bytes() == (whole / last / name).read_bytes(), name


def start(*words: object) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until ``metrics.csv`` has the row of ``step``."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        if (run / "metrics.csv").is_file() and f"\n{step}," in (run / "metrics.csv").read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def test_killed_at_any_moment(small_dataset, whole, train_here, tmp_path):
    run, rng = tmp_path / "run", random.Random(0)
    for step in (1, 4):  # before the first checkpoint, and after it
        process = start("pipeline.train", "--data", small_dataset, "--out", run, *SMALL, *STEPS, "--resume")
        wait_for_step(run, step, process)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.wait()
    assert train_here(run, "--resume") == 0
    assert_same_run(run, whole)


def test_a_signal_breaks_a_round_of_validation_off(whole, train_here, tmp_path, monkeypatch, capfd):
    """SIGTERM in the round after step 3: the step is saved, and the round is done when the run goes on."""
    run, rounds, validate = tmp_path / "run", [], loop.validate

    def stopped(*arguments):
        rounds.append(len(rounds))
        if len(rounds) == 2:
            signal.raise_signal(signal.SIGTERM)
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", stopped)
    assert train_here(run, *SMALL, *STEPS) == 130
    said = capfd.readouterr()
    assert "interrupted at step 3 of 8; saved" in said.out and "stopping, and saving" in said.err
    assert {row["step"] for row in table(run / "validation.csv")} == {"0"}
    assert train_here(run, "--resume") == 0
    assert_same_run(run, whole)


class FakeTime:
    """Seconds that pass by ``step`` each time they are asked for."""

    def __init__(self, step: float) -> None:
        self.seconds, self.step = 0.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def assert_pages_say(run: Path, step: int) -> None:
    assert f"- Trained to step {step} of 8 (not finished)" in (run / "README.md").read_text()
    report = (run / "report.html").read_text()
    assert f"step {step} of 8" in report and "<figcaption>Loss</figcaption>" in report


def test_the_clock_saves_and_ends_and_changes_no_number(whole, train_here, tmp_path, monkeypatch, capsys):
    """Two steps at a time, a checkpoint after each: the clock is asked twice a step and set once."""
    run, time_of = tmp_path / "run", FakeTime(20.0)
    monkeypatch.setattr("pipeline.config.progress.Clock", partial(Clock, now=time_of))
    by_clock = ("--training.checkpoint_minutes", "0.3", "--training.keep_checkpoints", "20", "--checkpoint-every", "99")
    assert train_here(run, *SMALL, *STEPS, *by_clock, "--max-minutes", "2") == 0
    said = capsys.readouterr().out
    step = int(table(run / "metrics.csv")[-1]["step"])
    assert 1 <= step < 8
    assert f"step {step} of 8: the time of --max-minutes is over; saved. Go on with: python -m pipeline.train" in said
    assert len(list((run / "checkpoints").iterdir())) == step
    assert not (run / "summary.json").exists()
    assert_pages_say(run, step)
    for _ in range(8):
        assert train_here(run, "--resume", "--max-minutes", "2") == 0
    assert (run / "summary.json").is_file()
    assert_same_run(run, whole)


def test_without_minutes_the_clock_saves_nothing(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.config.progress.Clock", partial(Clock, now=FakeTime(1e6)))
    run = tmp_path / "run"
    options = ("--max-steps", "3", "--checkpoint-every", "99", "--training.validate_every", "99")
    assert train_here(run, *SMALL, *options, "--training.checkpoint_minutes", "0") == 0
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000003"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "long"])
def test_max_minutes_are_above_0(train_here, tmp_path, value, capsys):
    with pytest.raises(SystemExit) as stop:
        train_here(tmp_path / "run", *SMALL, f"--max-minutes={value}")
    assert stop.value.code == 2 and "a number of minutes above 0 expected" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_pages_say_so(number, whole, train_here, tmp_path, monkeypatch, capsys):
    """After step 1, before the first checkpoint by steps."""
    run, original = tmp_path / "run", loop.Trainer.train_step

    def train_step(self, batches, **options):
        if self.step == 0:
            signal.raise_signal(number)
        return original(self, batches, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", train_step)
        assert train_here(run, *SMALL, *STEPS) == 130
    step = int(table(run / "metrics.csv")[-1]["step"])
    assert f"interrupted at step {step} of 8; saved" in capsys.readouterr().out and step < 3
    assert_pages_say(run, step)
    assert train_here(run, "--resume", *SMALL, *STEPS) == 0, "the same options again"
    assert_same_run(run, whole)


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


BROKEN = {
    "in a forward pass": ("pipeline.training.step.fold_objective", out_of_memory, True),
    "in validation": ("pipeline.training.loop.validate", out_of_memory, True),
    "in the update": ("torch.optim.AdamW.step", out_of_memory, False),
}
"""Where the memory ends, and whether the weights are those of a whole number of steps."""


@pytest.mark.parametrize("place", BROKEN)
def test_memory_that_ends_leaves_what_was_trained(place, whole, train_here, tmp_path, monkeypatch, capsys):
    """At step 5, or in the round after step 3: saved but in the middle of the update; the pages are written."""
    run, original = tmp_path / "run", loop.Trainer.train_step
    target, broken, saved = BROKEN[place]

    def train_step(self, batches, **options):
        if self.step == (2 if place == "in validation" else 4):
            monkeypatch.setattr(target, broken)
        return original(self, batches, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", train_step)
        assert train_here(run, *SMALL, *STEPS, "--checkpoint-every", "99") == 1
    monkeypatch.undo()
    printed = capsys.readouterr()
    step = 3 if place == "in validation" else 4
    assert printed.err.startswith("error: the memory of cpu ended") and (f"step {step}: saved" in printed.out) == saved
    assert (run / "checkpoints" / f"step_{step:08d}").is_dir() == saved
    assert_pages_say(run, step)
    assert main(["--data", str(run_data(whole)), "--out", str(run), "--resume"]) == 0
    assert_same_run(run, whole)


def run_data(run: Path) -> str:
    return RunDirectory(run).info()["dataset"]


def test_one_process_at_a_time(whole, train_here, tmp_path, capsys):
    """The second is refused while the first holds the run; what a killed one left half-written goes."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    left = [run / ".report.html.77.partial", run / "adapter" / ".adapter_model.safetensors.77.partial"]
    for file in left:
        file.write_text("half")
    for name in (".step_00000006.77.partial", ".step_00000006.77.old", ".step_00000006.77"):  # the last: of 0.1.0
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / "trained.safetensors").write_text("half")
    with RunDirectory(run).being_trained():
        assert train_here(run, "--resume") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {run}: is being trained by another process") and error.count("\n") == 1
    assert not any(file.exists() for file in left)
    assert not any(path.name.startswith(".") for path in (*run.iterdir(), *(run / "checkpoints").iterdir()))
    assert train_here(run, "--resume") == 0
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_costs_only_its_steps(whole, train_here, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    file = run / "checkpoints" / "step_00000008" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="going back to the one before"):
        assert train_here(run, "--resume") == 0
    assert_same_run(run, whole)


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(whole, train_here, tmp_path, monkeypatch, capsys):
    def full(folder, checkpoint, keep, spare=None):
        if checkpoint.step >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "trained.safetensors"))
        return save(folder, checkpoint, keep, spare)

    save, run = loop.save_checkpoint, tmp_path / "run"
    monkeypatch.setattr(loop, "save_checkpoint", full)
    assert train_here(run, *SMALL, *STEPS) == 1
    assert capsys.readouterr().err.strip().endswith("trained.safetensors: No space left on device")
    monkeypatch.setattr(loop, "save_checkpoint", save)
    # After step 2 by the schedule, and after step 3 where its round of validation was the best so far.
    assert max(path.name for path in (run / "checkpoints").iterdir()) < "step_00000004"
    assert_pages_say(run, 4)
    assert train_here(run, "--resume") == 0
    assert_same_run(run, whole)


def worker(process: subprocess.Popen, rank: int) -> psutil.Process:
    """The worker of ``rank`` that a launcher started."""
    for child in psutil.Process(process.pid).children():
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"no worker of rank {rank}")


def test_a_lost_worker_is_replaced_and_sigterm_on_any_saves(small_dataset, tmp_path):
    """Kill -9 of worker 1: the launcher starts both again. SIGTERM to worker 1: both stop, saved."""
    run = tmp_path / "run"
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    options = ("--data", small_dataset, "--out", run, *SMALL, "--max-steps", "1000")
    process = start(*launcher, "-m", "pipeline.train", *options)
    try:
        wait_for_step(run, 2, process)
        worker(process, 1).send_signal(signal.SIGKILL)
        lost_at = int(table(run / "metrics.csv")[-1]["step"])
        wait_for_step(run, lost_at + 4, process)
        worker(process, 1).send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 1  # the launcher's: a worker that was told to stop is a failure to it
    assert "Resuming" in output
    steps = [int(row["step"]) for row in table(run / "metrics.csv")]
    assert steps == list(range(1, steps[-1] + 1))  # no row twice, none missing
    assert f"interrupted at step {steps[-1]} of 1000; saved" in output
    assert (run / "checkpoints" / f"step_{steps[-1]:08d}").is_dir()
