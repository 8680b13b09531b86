"""Results of one setting over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.files.release import program
from data_prep.structure.structure_bytes import atomic_write
from pipeline.lm.tables import csv_text, markdown, spread


def seed_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per run: what was trained, and the metric of the best and the last evaluation."""
    rows = []
    for result in results:
        metric = result["metric"]
        rows.append(
            {
                "task": result.get("task", result["stage"]),
                "method": result["method"],
                "rank": result["rank"] or "",
                "seed": result["seed"],
                "adapter_parameters": result["parameters"]["adapter"],
                "head_parameters": result["parameters"]["head"],
                "metric": metric,
                "best": result["best"][metric],
                "best_step": result["best"]["step"],
                "last": result["last"][metric],
                "last_step": result["last"]["step"],
                "train_seconds": result["train_seconds"],
                "version": result["versions"]["lorta-fold"],
            }
        )
    return rows


def write_seed_tables(folder: Path, results: Sequence[dict[str, Any]]) -> str:
    """Write ``results.csv`` and ``results.md``; returns the line of means."""
    rows = seed_rows(results)
    atomic_write(folder / "results.csv", csv_text(rows))
    metric = results[0]["metric"]
    best, last = ([row[kind] for row in rows] for kind in ("best", "last"))
    table = markdown(
        ("seed", f"{metric}, best", "at step", f"{metric}, last", "at step"),
        [(r["seed"], f"{r['best']:.4f}", r["best_step"], f"{r['last']:.4f}", r["last_step"]) for r in rows]
        + [("mean ± s.d.", spread(best), "", spread(last), "")],
    )
    atomic_write(folder / "results.md", f"{table}\nWritten by {program()}.\n".encode())
    return f"{metric} over {len(rows)} seed(s): best {spread(best)}, last {spread(last)}"
