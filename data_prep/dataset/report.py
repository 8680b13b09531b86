"""``report.html`` of a dataset: what is in it, what was left out and why, how near the held-out chains are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.dataset.ledger import LedgerRow, reasons
from data_prep.pages import Plot, histogram, render_page, shown

MAX_ROWS = 5000
"""Rows of the ledger in the page; a browser searches so many at once."""

SPLITS = ("train", "val", "test", "none")


@dataclass(frozen=True)
class Chart:
    """A histogram of the page."""

    title: str
    plot: Plot | None
    note: str
    """How many values, their range, how many are not stated."""


def report_page(index: pa.Table, ledger: Sequence[LedgerRow], description: Mapping[str, Any]) -> dict[str, str]:
    """The page by its file name. ``index`` as of ``dataset.INDEX_SCHEMA``, ``description`` as in dataset.json."""
    columns = ("id", "split", "length", "cluster", "nearest_train_id", "nearest_train_identity")
    chains = index.select(columns).to_pylist()
    years = [None if date is None else int(date[:4]) for date in index["release_date"].to_pylist()]
    held_out = [row for row in chains if row["split"] in ("val", "test")]
    held_out.sort(key=lambda row: (-(row["nearest_train_identity"] or 0.0), row["id"]))
    charts = [
        chart("Length", index["length"].to_pylist(), "residues"),
        chart("Resolution", index["resolution"].to_pylist(), "A"),
        chart("Release", years, ""),
        chart("Cluster size", index["cluster_size"].to_pylist(), "chains"),
    ]
    if held_out:
        nearest = [row["nearest_train_identity"] or 0.0 for row in held_out]
        charts.append(chart("Identity of held-out chains to training", nearest, ""))
    page = render_page(
        "data_prep.dataset",
        "report.html.jinja",
        description={**description, "settings": {"clustering": None, **description["settings"]}},
        splits=[split for split in map(lambda name: _split_row(name, chains), SPLITS) if split["chains"]],
        charts=charts,
        reasons=reasons(ledger, examples=10),
        held_out=held_out[:MAX_ROWS],
        ledger=sorted(ledger, key=lambda row: row.file),
        shown=MAX_ROWS,
        settings=json.dumps(description["settings"], indent=2),
    )
    return {"report.html": page}


def chart(title: str, values: Sequence[float | None], unit: str, *, bins: int = 24) -> Chart:
    """Counts of ``values``; None is counted as not stated. Bins are equal and span the values."""
    stated = np.array([value for value in values if value is not None], dtype=np.float64)
    unstated = len(values) - len(stated)
    rest = f"; {unstated} not stated" if unstated else ""
    if not len(stated):
        return Chart(title, None, f"no values{rest}")
    low, high = float(stated.min()), float(stated.max())
    if (stated == np.rint(stated)).all():  # whole numbers share a bin with none but themselves, or evenly
        step = max(1, int(np.ceil((high - low + 1) / bins)))
        edges = np.arange(low, high + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    of_unit = unit and f" {unit}"
    note = f"{len(stated)} values, {shown(low)} to {shown(high)}{of_unit}, median {shown(np.median(stated))}{rest}"
    return Chart(title, histogram(stated, edges, unit, "", unit), note)


def _split_row(name: str, chains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    members = [row for row in chains if row["split"] == name]
    clusters = len({row["cluster"] for row in members})
    return {"name": name, "chains": len(members), "clusters": clusters, "residues": sum(r["length"] for r in members)}
