"""Tables and plots of a grid, in the shapes of the LoRTA paper's Table 1 and Figures 2 and 4."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from data_prep.files.release import program
from data_prep.structure.structure_bytes import atomic_write
from pipeline.lm.tables import csv_text, markdown, spread

Row = dict[str, Any]


def _label(row: Row) -> str:
    return f"{row['method']} r={row['rank']}" if row["rank"] else row["method"]


def _groups(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Finished rows by method with rank, then by task, in the order of the grid."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["status"] == "done":
            groups.setdefault(_label(row), {}).setdefault(row["task"], []).append(row)
    return groups


def score_table(rows: Sequence[Row], kind: str) -> str:
    """Methods against tasks: mean ± s.d. over seeds of the ``best`` or ``last`` evaluation, and the average of tasks.

    A cell says how many seeds it has when they are fewer than the most. The average is given only where every task has
    results.
    """
    groups = _groups(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    metrics = {row["task"]: row["metric"] for row in rows if row["status"] == "done"}
    seeds = max((len(found) for by_task in groups.values() for found in by_task.values()), default=0)
    lines = []
    for name, by_task in groups.items():
        parameters = next(iter(by_task.values()))[0]["adapter_parameters"]
        line = [name, f"{parameters:,}"]
        for task in tasks:
            values = [row[kind] for row in by_task.get(task, [])]
            few = f" ({len(values)} of {seeds} seeds)" if 0 < len(values) < seeds else ""
            line.append(spread(values) + few if values else "")
        if len(tasks) > 1:
            complete = all(task in by_task for task in tasks)
            means = [statistics.fmean(row[kind] for row in by_task[task]) for task in tasks] if complete else []
            line.append(f"{statistics.fmean(means):.3f}" if means else "")
        lines.append(line)
    header = ["method", "adapter parameters", *(f"{task} {metrics.get(task, '')}".strip() for task in tasks)]
    return markdown(header + (["average"] if len(tasks) > 1 else []), lines)


def plot(rows: Sequence[Row], kind: str, file: Path) -> None:
    """Score or loss against trainable adapter parameters (log scale), a panel per task; seeds as dots, means joined."""
    done = [row for row in rows if row["status"] == "done"]
    tasks = list(dict.fromkeys(row["task"] for row in done))
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 4), squeeze=False, layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in done))
    for panel, task in zip(axes[0], tasks, strict=True):
        here = [row for row in done if row["task"] == task]
        for index, method in enumerate(methods):
            own = [row for row in here if row["method"] == method]
            if not own:
                continue
            if own[0]["adapter_parameters"] == 0:  # the head alone: no place on a log axis
                panel.axhline(statistics.fmean(r[kind] for r in own), color=f"C{index}", ls=":", label=method)
                continue
            sizes = sorted({row["adapter_parameters"] for row in own})
            means = [statistics.fmean(r[kind] for r in own if r["adapter_parameters"] == size) for size in sizes]
            panel.plot(sizes, means, "o-", color=f"C{index}", label=method)
            panel.plot(
                [r["adapter_parameters"] for r in own], [r[kind] for r in own], ".", color=f"C{index}", alpha=0.4
            )
        panel.set(
            xscale="log", xlabel="trainable adapter parameters", ylabel=f"{here[0]['metric']} ({kind} evaluation)"
        )
        panel.set_title(task)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(file)
    plt.close(figure)


def write_comparison(folder: Path, rows: Sequence[Row], title: str, *, plots: bool) -> list[str]:
    """Write ``cells.csv``, ``table.md`` and perhaps the plots; returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "cells.csv", csv_text(rows))
    names = ["cells.csv"]
    if any(row["status"] == "done" for row in rows):
        text = f"# {title}\n\n"
        for kind in ("best", "last"):
            text += f"Mean ± s.d. over seeds, {kind} evaluation of each run:\n\n{score_table(rows, kind)}\n"
        missing = [row for row in rows if row["status"] != "done"]
        if missing:
            text += "Without a result:\n\n" + "".join(
                f"* {row['task']} {_label(row)}, seed {row['seed']}: {row['status']}\n" for row in missing
            )
        text += f"\nWritten by {program()}.\n"
        atomic_write(folder / "table.md", text.encode())
        for kind in ("best", "last") if plots else ():
            for suffix in ("png", "svg"):
                plot(rows, kind, folder / f"parameters_{kind}.{suffix}")
                names.append(f"parameters_{kind}.{suffix}")
        names.append("table.md")
    return names
