"""What a reader sees of runs: CSV and Markdown tables, the table of the seeds of one setting, the model card."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from data_prep.files.atomic import write_text
from data_prep.files.command_line import program
from data_prep.files.text import csv_text
from pipeline.config.bundled import bundled_text
from pipeline.config.layers import to_toml
from pipeline.lm.settings import WITHOUT_ADAPTER, StageConfig

TITLES = {"nlu": "text classification", "sft": "instruction tuning", "dpo": "preference optimisation"}


def rows_as_csv(rows: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> str:
    """Rows as CSV, the columns ``first`` before the others in the order of their first appearance."""
    names = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return csv_text(names, ([row.get(name, "") for name in names] for row in rows))


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and sample standard deviation, ``0.845 ± 0.005``; one value alone without a spread."""
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def result_row(result: dict[str, Any]) -> dict[str, Any]:
    """The scores of a complete run as columns: best and last evaluation, what was trained, how long."""
    metric = result["metric"]
    return {
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


def write_seed_tables(folder: Path, results: Sequence[dict[str, Any]]) -> str:
    """Write ``results.csv`` and ``results.md``, a row per seed; return the line of means."""
    rows = [
        {
            "task": result.get("task", result["stage"]), "method": result["method"], "rank": result["rank"] or "",
            "seed": result["seed"], **result_row(result),
        }
        for result in results
    ]  # fmt: skip
    write_text(folder / "results.csv", rows_as_csv(rows))
    metric = results[0]["metric"]
    best, last = ([row[kind] for row in rows] for kind in ("best", "last"))
    table = markdown(
        ("seed", f"{metric}, best", "at step", f"{metric}, last", "at step"),
        [(r["seed"], f"{r['best']:.4f}", r["best_step"], f"{r['last']:.4f}", r["last_step"]) for r in rows]
        + [("mean ± s.d.", spread(best), "", spread(last), "")],
    )
    write_text(folder / "results.md", f"{table}\nWritten by {program()}.\n")
    return f"{metric} over {len(rows)} seed(s): best {spread(best)}, last {spread(last)}"


def model_card(config: StageConfig, result: dict[str, Any], notes: list[str]) -> str:
    """README.md of a run: front matter that the hub reads, what was trained, on what, how well.

    Args:
        config: resolved.
        result: as in ``results.json``.
        notes: what a reader has to know about limits, a line each.
    """
    method, stage = config.adapter.method, result["stage"]
    indented = "".join(f"    {line}\n" if line else "\n" for line in to_toml(config).splitlines())
    template = Environment(undefined=StrictUndefined).from_string(bundled_text("pipeline.lm", "card.md.jinja"))
    return template.render(
        library="transformers" if method in WITHOUT_ADAPTER else "peft", method=method, result=result, notes=notes,
        title=TITLES[stage], configuration=indented, base=repr(result["base"]),
        front_base=json.dumps(result["base"]),
        model_class="AutoModelForSequenceClassification" if stage == "nlu" else "AutoModelForCausalLM",
    ) + "\n"  # fmt: skip
