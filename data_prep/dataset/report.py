"""``report.html`` of a dataset: what is in it, what was left out and why, how near the held-out chains are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pyarrow as pa

from data_prep.dataset.histograms import histogram
from data_prep.dataset.ledger import LedgerRow, reasons
from data_prep.dataset.report_template import TEMPLATE

MAX_ROWS = 5000
"""Rows of the ledger in the page; a browser searches so many at once."""

SPLITS = ("train", "val", "test", "none")


def report_page(index: pa.Table, ledger: Sequence[LedgerRow], description: Mapping[str, Any]) -> dict[str, str]:
    """The page by its file name. ``index`` as of ``dataset.INDEX_SCHEMA``, ``description`` as in dataset.json."""
    columns = ("id", "split", "length", "cluster", "nearest_train_id", "nearest_train_identity")
    chains = index.select(columns).to_pylist()
    years = [None if date is None else int(date[:4]) for date in index["release_date"].to_pylist()]
    held_out = [row for row in chains if row["split"] in ("val", "test")]
    held_out.sort(key=lambda row: (-(row["nearest_train_identity"] or 0.0), row["id"]))
    charts = [
        histogram("Length", index["length"].to_pylist(), "residues"),
        histogram("Resolution", index["resolution"].to_pylist(), "A"),
        histogram("Release", years, ""),
        histogram("Cluster size", index["cluster_size"].to_pylist(), "chains"),
    ]
    if held_out:
        nearest = [row["nearest_train_identity"] or 0.0 for row in held_out]
        charts.append(histogram("Identity of held-out chains to training", nearest, ""))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE).render(
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


def _split_row(name: str, chains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    members = [row for row in chains if row["split"] == name]
    clusters = len({row["cluster"] for row in members})
    return {"name": name, "chains": len(members), "clusters": clusters, "residues": sum(r["length"] for r in members)}
