"""``report.html``: one page with the summary, every target, and the residues of a chosen one. It needs no network.

Plots over all targets are drawn here, those of a chosen target by the page's own script
(``report_script.html.jinja``) from numbers that lie in the page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.pages import Plot, histogram, render_page, scatter, viewer
from data_prep.structure.residues import RESNAMES, RESTYPES_WITH_X
from evaluation.evaluate import Row
from evaluation.output import OPTIONAL
from evaluation.screen import summary_lines

DETAILED: int = 1000
"""Targets, worst first, whose residues lie in the page; 1,000 of 300 residues make about 15 MB."""

LABEL = "lDDT-C\N{GREEK SMALL LETTER ALPHA}"
_LETTER = dict(zip(RESNAMES, RESTYPES_WITH_X, strict=True))


def write_report(directory: Path, rows: Sequence[Row], summary: Mapping) -> Path:
    """Writes ``report.html`` next to the scores; returns its path."""
    ranked = sorted(rows, key=lambda row: -1.0 if row.score is None else row.score.lddt_ca)
    scored = [row for row in ranked if row.score is not None]
    drawings = {
        "How many targets reach which lDDT-Calpha": score_histogram(scored),
        "lDDT-Calpha against the length of the truth": scores_by_length(scored),
    }
    if summary["plddt"]["scales"]:
        drawings["What residues of one pLDDT reach: on the line, the confidence is right"] = reliability(
            summary["plddt"]["per_residue"]["bins"]
        )
    path = directory / "report.html"
    page = render_page(
        "evaluation",
        "report.html.jinja",
        rows=ranked,
        place={row.target: i for i, row in enumerate(scored[:DETAILED])},
        optional=[name for names in OPTIONAL.values() for name in names if name in summary["scored"]],
        base=(summary["baselines"] or {}).get("targets"),
        summary=summary,
        lines=summary_lines(summary),
        drawings=drawings,
        data=[details(row) for row in scored[:DETAILED]],
        viewer=viewer(),
        left_out=max(0, len(scored) - DETAILED),
    )
    write_text(path, page)
    return path


def score_histogram(scored: Sequence[Row]) -> Plot:
    """Scores in twenty bins."""
    return histogram([row.score.lddt_ca for row in scored], np.linspace(0, 1, 21).round(2), LABEL, "targets")


def scores_by_length(scored: Sequence[Row]) -> Plot:
    """A point for each target."""
    points = [(row.score.n_truth, row.score.lddt_ca) for row in scored]
    tips = [f"{row.target}: {row.score.lddt_ca:.3f}, {row.score.n_truth} residues" for row in scored]
    return scatter(points, "residues of the truth", LABEL, tips=tips, x_limits=(0, None))


def reliability(bins: Sequence[Mapping]) -> Plot:
    """Mean pLDDT and mean lDDT of each bin (``CalibrationBin`` as a dictionary), and the line where the two agree."""
    tips = [f"{one['n']} residues: pLDDT {one['mean_plddt']:.1f}, lDDT {one['mean_lddt']:.3f}" for one in bins]
    points = [(one["mean_plddt"], one["mean_lddt"]) for one in bins]
    label = f"{LABEL} of the residues"
    return scatter(points, "pLDDT", label, tips=tips, x_limits=(0, 100), diagonal=(100, 1))


def details(row: Row) -> dict:
    """The residues of a scored target, as the page's script takes them.

    ``lddt`` in thousandths and ``plddt`` (0 to 100) have null where they are undefined; ``true`` and ``pred`` are
    those of ``Trace.superposed``, ``matched`` says which residues ``pred`` has.
    """
    table = row.score.residues.columns()
    true, pred = row.score.trace.superposed()
    numbers = [f"{number}{code}" for number, code in zip(table["number"], table["insertion_code"], strict=True)]
    return {
        "name": row.target,
        "score": row.score.lddt_ca,
        "chains": table["chain"],
        "numbers": numbers,
        "letters": "".join(_LETTER[name] for name in table["name"]),
        "matched": [int(there) for there in table["in_pred"]],
        "lddt": [None if value is None else round(1000 * value) for value in table["lddt_ca"]],
        "plddt": [None if value is None else round(value, 1) for value in table["plddt"]],
        "true": true,
        "pred": pred,
    }
