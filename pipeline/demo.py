"""The demo: the main job on bundled structures over a pretrained ESM-2, with two baselines and a table at the end.

    python -m pipeline.demo --out demo_out

Runs the same commands that a user runs, each in its own process, and shows them. Where no pretrained ESM-2 can be found
or fetched it takes a small one with random weights, and says so.
"""

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files.command_line import add_version_option, program

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evaluation.baselines import Baseline
    from pipeline.folding.demo_weights import DemoStem

MARKER = "demo.txt"
"""In a directory that the demo has made, and so may delete."""

IDENTITY = 0.4
VAL_FRACTION = 0.2
STEPS = 2200
"""Over a pretrained stem, some more than the tiny preset has."""

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed memory instead of returning it after every operator: 1.7 times faster training on a CPU."""


class DemoError(RuntimeError):
    """A command of the demo failed."""


def run(console: "Console", module: str, *arguments: object) -> None:
    """Run ``python -m module arguments`` and show it. Raises DemoError when it fails."""
    from pipeline.config.command import child_environment

    words = [str(a) for a in arguments]
    console.print(f"\n$ python -m {module} {' '.join(words)}", style="bold")
    environment = ALLOCATOR | child_environment()
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


def summary_table(
    baselines: "Sequence[Baseline]", scores: Sequence[Mapping[str, float]], means: Mapping[str, float]
) -> "Table":
    """Return the held-out chains with their baselines and ``scores``, and the means of each column by its name."""
    from rich.table import Table

    table = Table(title="lDDT-Calpha of held-out chains", show_footer=True)
    table.add_column("chain", footer="mean")
    table.add_column("residues", justify="right")
    table.add_column("identity to nearest\ntraining chain", justify="right")
    for name, mean in means.items():
        heading = name.replace(" nearest training", "\nnearest training")
        table.add_column(heading, justify="right", footer=_cell(mean))
    for row in baselines:
        identity = f"{row.identity:.0%}" if row.nearest_train else "-"
        values = (row.helix, row.copy, *(one[row.target] for one in scores))
        table.add_row(row.target, str(row.length), identity, *map(_cell, values))
    return table


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


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

    from pipeline.config.command import make_console

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


def stem_in_words(stem: "DemoStem") -> str:
    """Say which stem the demo was run over, and why not a pretrained one where there is none."""
    if stem.path is not None:
        return f"The stem is pretrained: {stem.description}."
    return (
        "The stem is a small ESM-2 with random weights, never pretrained: what the model knows about proteins it "
        f"learned here, from these chains. Pretrained weights of ESM-2 8M were not found: {'; '.join(stem.reasons)}."
    )


def report(out: Path, seed: int, max_steps: int | None, console: "Console") -> None:
    """All commands of the demo, and the table."""
    from data_prep.dataset.store import StructureDataset
    from evaluation.baselines import read_baselines, standing
    from pipeline.folding.demo_weights import NAME, find_demo_stem

    data, trained_run, untrained = out / "dataset", out / "run", out / "untrained"
    structures = resources.files("pipeline") / "demo_structures"
    run(
        console, "pipeline.prepare", "--pdb-dir", structures, "--out", data,
        "--identity", IDENTITY, "--val-fraction", VAL_FRACTION, "--seed", seed,
    )  # fmt: skip
    stem = find_demo_stem(console)
    esm = [] if stem.path is None else ["--esm", NAME, "--esm-weights", stem.path]
    if max_steps is None and stem.path is not None:
        max_steps = STEPS
    steps = [] if max_steps is None else ["--max-steps", max_steps]
    run(
        console, "pipeline.train", "--data", data, "--out", trained_run, "--preset", "tiny", *esm,
        "--adapter", "lorta", "--rank", 8, "--seed", seed, *steps,
    )  # fmt: skip
    split = ("--data", data, "--split", "val")
    run(console, "pipeline.predict", "--run", trained_run, "--checkpoint", 0, *split, "--out", untrained / "preds")
    run(console, "pipeline.predict", "--run", trained_run, *split, "--out", out / "preds")
    run(console, "evaluation.lddt", untrained / "preds", data, "--split", "val", "--out", untrained / "scores")
    run(console, "evaluation.lddt", out / "preds", data, "--split", "val", "--out", out / "scores", "--report")
    dataset, baselines = StructureDataset(data), read_baselines(trained_run / "baselines.csv")
    scores = [scores_of(untrained / "scores"), scores_of(out / "scores")]
    before, after = (standing(one, baselines) for one in scores)
    if before is None or after is None:
        raise DemoError("no held-out chain can be scored")
    means = {
        "straight helix": after.helix,
        "copy of the nearest training chain": after.copy,
        "untrained": before.score,
        "trained": after.score,
    }
    info = json.loads((trained_run / "run.json").read_text())
    parts = info["parameters"]
    console.print()
    console.print(summary_table(baselines, scores, means))
    console.print(
        f"Training chains: {len(dataset.ids('train'))}. Adapter: LoRTA rank 8, {parts['adapter']['trainable']:,} "
        f"parameters on a stem of {parts['stem']['total']:,}; "
        f"trained in all: {sum(part['trainable'] for part in parts.values()):,}.",
    )
    console.print(stem_in_words(stem))
    verdict = f"The trained model is {after}."
    lines = [f"lDDT-Calpha of held-out chains, mean over {len(baselines)}; {program()}", ""]
    lines += [f"{name}: {mean:.4f}" for name, mean in means.items()]
    lines += ["", stem_in_words(stem), verdict]
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    console.print("Files:")
    for path, text in (
        (data, "dataset, with the ledger of what was accepted and why not"),
        (trained_run, "config, checkpoints, adapter, metrics.csv, validation.csv, baselines.csv"),
        (out / "preds", "predicted structures, pLDDT in the B-factors"),
        (out / "scores", "scores.csv, per_residue.csv, summary.json, report.html"),
        (out / "summary.txt", "the means above"),
    ):
        console.print(f"  {path}: {text}")
    console.print(verdict)


if __name__ == "__main__":
    sys.exit(main())
