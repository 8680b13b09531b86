"""Collect the scores of a folding workflow into one table: folding.csv and folding.md.

Run by the rule ``folding_table``; reads only files that the stage commands document: ``RUN/run.json``,
``SCORES/summary.json`` and the output of ``evaluation.compare``.
"""

import argparse
import csv
import json
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Arm:
    """One row of the table; means are over seeds."""

    arm: str
    seeds: int
    adapter_parameters: int
    trained_parameters: int
    targets: int
    lddt_ca: float
    """Mean over seeds of the mean over targets, a failed or missing prediction taken as 0."""
    lddt_ca_spread: float | None
    """Standard deviation over seeds; None for one seed."""
    difference: float | None
    """Mean paired difference to the baseline of the same seed; None for the baseline."""
    intervals: str
    """95% bootstrap interval over targets of that difference, one per seed."""


def read_arm(results: Path, arm: str, seeds: list[int], baseline: str) -> Arm:
    """One row from the files of an arm's seeds."""
    run = _json(results / "runs" / arm / f"seed{seeds[0]}" / "run.json")["parameters"]
    summaries = [_json(results / "scores" / arm / f"seed{seed}" / "summary.json") for seed in seeds]
    means = [summary["missing_as_0"]["lddt_ca"]["mean"] for summary in summaries]
    differences: list[float] = []
    intervals: list[str] = []
    if arm != baseline:
        for seed in seeds:
            estimate = _json(results / "comparison" / arm / f"seed{seed}.json")["estimate"]
            differences.append(estimate["mean"])
            low, high = estimate["low"], estimate["high"]
            intervals.append("none" if low is None else f"{low:+.4f} to {high:+.4f}")
    return Arm(
        arm=arm,
        seeds=len(seeds),
        adapter_parameters=run.get("adapter", {"trainable": 0})["trainable"],
        trained_parameters=sum(part["trainable"] for part in run.values()),
        targets=summaries[0]["counts"]["targets"],
        lddt_ca=statistics.mean(means),
        lddt_ca_spread=statistics.stdev(means) if len(means) > 1 else None,
        difference=statistics.mean(differences) if differences else None,
        intervals="; ".join(intervals),
    )


def markdown(rows: list[Arm], baseline: str, note: str, version: str) -> str:
    """The table for people."""
    lines = [f"{note}\n"] if note else []
    lines += [
        "| arm | adapter parameters | trained in all | lDDT-Calpha | difference to "
        f"{baseline} | 95% intervals, by seed |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        spread = "" if row.lddt_ca_spread is None else f" ± {row.lddt_ca_spread:.4f}"
        difference = "" if row.difference is None else f"{row.difference:+.4f}"
        lines.append(
            f"| {row.arm} | {row.adapter_parameters:,} | {row.trained_parameters:,} | {row.lddt_ca:.4f}{spread} "
            f"| {difference} | {row.intervals} |"
        )
    lines.append(
        f"\nMeans over {rows[0].targets} targets, a failed or missing prediction taken as 0, and over {rows[0].seeds} "
        "seed(s), ± their standard deviation. Differences are paired by target and seed; intervals are bootstraps over "
        f"targets. Scored by lorta-fold {version}."
    )
    return "\n".join(lines) + "\n"


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Write both files."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--results", type=Path, required=True, help="the workflow's out directory")
    p.add_argument("--arms", nargs="+", required=True)
    p.add_argument("--seeds", nargs="+", type=int, required=True)
    p.add_argument("--baseline", required=True)
    p.add_argument("--note", default="", help="a line above the Markdown table")
    arguments = p.parse_args()
    rows = [read_arm(arguments.results, arm, arguments.seeds, arguments.baseline) for arm in arguments.arms]
    with (arguments.results / "folding.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Arm)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    first = _json(arguments.results / "scores" / arguments.arms[0] / f"seed{arguments.seeds[0]}" / "summary.json")
    text = markdown(rows, arguments.baseline, arguments.note, first["version"])
    (arguments.results / "folding.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
