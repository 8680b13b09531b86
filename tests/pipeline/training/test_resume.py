"""A run that is killed, interrupted or finds its newest checkpoint damaged ends as one that was left alone."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.run import RunDirectory
from pipeline.training import loop
from tests.pipeline.training.small import ROOT, SMALL, table

STEPS = ("--max-steps", "8", "--training.validate_every", "3")


@pytest.fixture(scope="module")
def whole(small_dataset, tmp_path_factory):
    from pipeline.train import main

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
        process = start("pipeline.train", "--data", small_dataset, "--out", run, *SMALL, *STEPS, "--auto-resume")
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


def test_one_process_at_a_time(whole, train_here, tmp_path, capsys):
    """The second is refused while the first holds the run; what a killed one left half-written goes."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    left = [run / ".report.html.77.partial", run / "adapter" / ".adapter_model.safetensors.77.partial"]
    for file in left:
        file.write_text("half")
    (run / "checkpoints" / ".step_00000006.77").mkdir()
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
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000002"]
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
