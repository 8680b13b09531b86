"""The demo: the main job on bundled structures, with two baselines and a table at the end.

    python -m pipeline.demo --out demo_out

Runs the same commands that a user runs, each in its own process, and shows them.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.dataset import StructureDataset
from data_prep.record import ProteinRecord
from data_prep.release import add_version_option, program
from data_prep.residues import ATOM37_INDEX
from data_prep.structure_io import write_pdb
from pipeline.command import make_console

MARKER = "demo.txt"
"""In a directory that the demo has made, and so may delete."""

IDENTITY = 0.4
VAL_FRACTION = 0.2

HELIX_RISE = 1.5
HELIX_TURN = np.deg2rad(100.0)
HELIX_RADIUS = 2.3
"""angstrom, degrees per residue, angstrom: alpha carbons of an ideal alpha helix."""

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed memory instead of returning it after every operator: 1.7 times faster training on a CPU."""


class DemoError(RuntimeError):
    """A command of the demo failed."""


@dataclass(frozen=True)
class Arm:
    """Scores of one set of predictions, by target."""

    name: str
    scores: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean lDDT-Calpha over the targets."""
        return float(np.mean(list(self.scores.values())))


def ideal_helix(record: ProteinRecord) -> ProteinRecord:
    """One straight alpha helix of the length of ``record``: alpha carbons alone, angstrom."""
    n = len(record)
    angle = HELIX_TURN * np.arange(n)
    ca = np.stack([HELIX_RADIUS * np.cos(angle), HELIX_RADIUS * np.sin(angle), HELIX_RISE * np.arange(n)], axis=-1)
    index = ATOM37_INDEX["CA"]
    positions, mask = np.zeros((n, 37, 3), dtype=np.float32), np.zeros((n, 37), dtype=bool)
    positions[:, index], mask[:, index] = ca, True
    return ProteinRecord(
        id=record.id,
        chain_id="A",
        sequence=record.sequence,
        residue_index=record.residue_index,
        atom37_positions=positions,
        atom37_mask=mask,
        b_factors=np.zeros((n, 37), dtype=np.float32),
        auth_seq_id=record.residue_index + 1,
        insertion_code=np.full(n, "", dtype="<U1"),
    )


def run(console: Console, module: str, *arguments: object) -> None:
    """Run ``python -m module arguments`` and show it. Raises DemoError when it fails."""
    words = [str(a) for a in arguments]
    console.print(f"\n$ python -m {module} {' '.join(words)}", style="bold")
    environment = ALLOCATOR | dict(os.environ)
    code = subprocess.run([sys.executable, "-m", module, *words], env=environment, check=False).returncode
    if code:
        raise DemoError(f"python -m {module} ended with exit code {code}")


def scores_of(folder: Path) -> dict[str, float]:
    """lDDT-Calpha by target from ``scores.csv``. Raises DemoError for a target that was not scored."""
    with (folder / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["status"] != "scored":
            raise DemoError(f"{folder}/scores.csv: {row['target']} is {row['status']}: {row['reason']}")
    return {row["target"]: float(row["lddt_ca"]) for row in rows}


def summary_table(dataset: StructureDataset, arms: list[Arm]) -> Table:
    """Held-out chains and their scores."""
    table = Table(title="lDDT-Calpha of held-out chains", show_footer=True)
    table.add_column("chain", footer="mean")
    table.add_column("residues", justify="right")
    table.add_column("identity to nearest\ntraining chain", justify="right")
    for arm in arms:
        table.add_column(arm.name, justify="right", footer=f"{arm.mean:.3f}")
    for name in dataset.ids("val"):
        row = dataset.row(name)
        identity = row["nearest_train_identity"]
        scores = [f"{arm.scores[name]:.3f}" for arm in arms]
        table.add_row(name, str(row["length"]), "-" if identity is None else f"{identity:.0%}", *scores)
    return table


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.demo",
        description="The main job on bundled structures: prepare, train, predict, evaluate, report.",
    )
    add_version_option(p)
    p.add_argument("--out", type=Path, default=Path("demo_out"), help="directory to write (default: demo_out)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--max-steps", type=int, help="fewer steps than the tiny preset, for a quick look")
    arguments = p.parse_args(argv)
    console = make_console()
    out: Path = arguments.out
    if out.exists():
        if not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
            print(f"error: {out} exists and is not an earlier demo: choose another --out", file=sys.stderr)
            return 2
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).write_text("Made by pipeline.demo, which deletes this directory when it is run again.\n")
    started = time.perf_counter()
    try:
        report(out, arguments.seed, arguments.max_steps, console)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(f"The demo took {(time.perf_counter() - started) / 60:.1f} minutes.")
    return 0


def report(out: Path, seed: int, max_steps: int | None, console: Console) -> None:
    """All commands of the demo, and the table."""
    data, trained_run, baselines = out / "dataset", out / "run", out / "baselines"
    structures = resources.files("pipeline") / "demo_structures"
    run(
        console, "pipeline.prepare", "--pdb-dir", structures, "--out", data,
        "--identity", IDENTITY, "--val-fraction", VAL_FRACTION, "--seed", seed,
    )  # fmt: skip
    steps = [] if max_steps is None else ["--max-steps", max_steps]
    run(
        console, "pipeline.train", "--data", data, "--out", trained_run, "--preset", "tiny",
        "--adapter", "lorta", "--rank", 8, "--seed", seed, *steps,
    )  # fmt: skip
    dataset = StructureDataset(data)
    helices = baselines / "helix"
    helices.mkdir(parents=True)
    for name in dataset.ids("val"):
        write_pdb(helices / f"{name}.pdb", [ideal_helix(dataset.load(name))])
    split = ("--data", data, "--split", "val")
    run(console, "pipeline.predict", "--run", trained_run, "--checkpoint", 0, *split, "--out", baselines / "untrained")
    run(console, "pipeline.predict", "--run", trained_run, *split, "--out", out / "preds")
    folders = {
        "straight helix": (helices, baselines / "helix_scores"),
        "untrained": (baselines / "untrained", baselines / "untrained_scores"),
        "trained": (out / "preds", out / "scores"),
    }
    for name, (predictions, scores) in folders.items():
        extra = ["--report"] if name == "trained" else []
        run(console, "evaluation.lddt", predictions, data, "--split", "val", "--out", scores, *extra)
    arms = [Arm(name, scores_of(scores)) for name, (_, scores) in folders.items()]
    info = json.loads((trained_run / "run.json").read_text())
    parts = info["parameters"]
    console.print()
    console.print(summary_table(dataset, arms))
    console.print(
        f"Training chains: {len(dataset.ids('train'))}. Adapter: LoRTA rank 8, {parts['adapter']['trainable']:,} "
        f"parameters on a stem of {parts['stem']['total']:,}; "
        f"trained in all: {sum(part['trainable'] for part in parts.values()):,}.",
    )
    console.print(
        "The stem is a small ESM-2 with random weights, never pretrained: what the model knows about proteins it "
        "learned here, from these chains. With real ESM-2 weights use --esm and --esm-weights.",
    )
    lines = [f"lDDT-Calpha of held-out chains, mean over {len(dataset.ids('val'))}; {program()}", ""]
    lines += [f"{arm.name}: {arm.mean:.4f}" for arm in arms]
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    console.print("Files:")
    for path, text in (
        (data, "dataset, with the ledger of what was accepted and why not"),
        (trained_run, "config, checkpoints, adapter, metrics.csv, validation.csv"),
        (out / "preds", "predicted structures, pLDDT in the B-factors"),
        (out / "scores", "scores.csv, per_residue.csv, summary.json, report.html"),
        (out / "summary.txt", "the means above"),
    ):
        console.print(f"  {path}: {text}")


if __name__ == "__main__":
    sys.exit(main())
