"""Where the time of a training step goes: waiting for data, the parts of a step, two processes against one.

    python -m benchmarks.train --out benchmarks/results/train.json

Prepares the bundled structures and times the preset ``tiny`` on whole chains, one thread per process. The parts are
timed one by one on the same steps as the whole, in turn, so that a busy machine touches both alike.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from data_prep.dataset.store import StructureDataset
from pipeline.config.layers import preset_layer, resolve
from pipeline.training.data import training_chains
from pipeline.training.processes import Processes
from pipeline.training.step import Trainer

SETTINGS = ("--preset", "tiny", "--data.initial_crop_size", "0", "--device", "cpu", "--training.cpu_threads", "1")


def timed(seconds: dict[str, list[float]], name: str, work: Callable):
    started = time.perf_counter()
    result = work()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return result


def parts_of_a_step(dataset: StructureDataset, steps: int) -> dict[str, float]:
    """Median seconds of each part and of the whole step."""
    overrides = {"data": {"initial_crop_size": 0}, "training": {"device": "cpu", "cpu_threads": 1}}
    config = resolve(preset_layer("tiny"), overrides)
    trainer = Trainer(config, training_chains(dataset, config.data), Processes(config))
    trainer.start()
    parameters = list(trainer.parameters.values())
    seconds: dict[str, list[float]] = {}
    for step in range(1, steps + 1):
        batches = timed(seconds, "load (in a thread)", lambda step=step: trainer.feed.load(step))
        (micro,) = batches.micro_batches
        trainer.optimizer.zero_grad(set_to_none=True)
        objective = timed(seconds, "forward and losses", lambda micro=micro: trainer.objective(micro))
        timed(seconds, "backward", objective.loss.backward)
        timed(seconds, "clip", lambda: clip_grad_norm_(parameters, config.optimizer.clip_norm))
        timed(seconds, "optimizer", trainer.optimizer.step)
        timed(seconds, "average", lambda step=step: trainer.ema.update(step))
        timed(seconds, "whole step", lambda batches=batches: trainer.train_step(batches))
    return {name: statistics.median(values) for name, values in seconds.items()}


def train(data: Path, run: Path, steps: int, processes: int) -> dict[str, float]:
    """Train by the command with a global batch of two; medians without the first two steps."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["--data", str(data), "--out", str(run), *SETTINGS, "--data.batch_size", "2", "--max-steps", str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, "-m", "pipeline.train", *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    with (run / "timing.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[2:]
    seconds = [float(row["seconds"]) for row in rows]
    waiting = sum(float(row["waiting"]) for row in rows)
    return {"seconds_per_step": statistics.median(seconds), "share_waiting": waiting / sum(seconds)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--out", type=Path, help="also write the result as JSON")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "dataset"
        structures = resources.files("pipeline") / "demo_structures"
        words = ["--pdb-dir", str(structures), "--out", str(data), "--identity", "0.4", "--val-fraction", "0.2"]
        subprocess.run([sys.executable, "-m", "pipeline.prepare", *words], check=True, stdout=subprocess.DEVNULL)
        alone = train(data, Path(folder) / "one", arguments.steps, 1)
        both = train(data, Path(folder) / "two", arguments.steps, 2)
        parts = parts_of_a_step(StructureDataset(data), arguments.steps)
    whole = parts.pop("whole step")
    counted = sum(value for name, value in parts.items() if not name.startswith("load"))
    result = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load_average": os.getloadavg()},
        "torch": torch.__version__,
        "steps": arguments.steps,
        "parts_seconds": parts,
        "whole_step_seconds": whole,
        "whole_over_sum_of_parts": whole / counted,
        "one_process": alone,
        "two_processes": both,
        "speedup_of_two": alone["seconds_per_step"] / both["seconds_per_step"],
    }
    for name, value in parts.items():
        print(f"{name:<22}{1000 * value:9.1f} ms")
    print(f"{'whole step':<22}{1000 * whole:9.1f} ms, {whole / counted:.2f} times the sum of its parts (without load)")
    print(f"waiting for data: {alone['share_waiting']:.2%} of the time of the steps")
    print(
        f"two samples per step: one process {alone['seconds_per_step']:.3f} s, two {both['seconds_per_step']:.3f} s, "
        f"{result['speedup_of_two']:.2f} times as fast; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
