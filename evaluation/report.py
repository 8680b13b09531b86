"""``report.html``, one page with the summary, every target, and the residues of a chosen one; ``plots/``, drawings.

Plots over all targets are drawn here, those of a chosen target by the page's own script
(``report_script.html.jinja``) from numbers that lie in the page. As files for a paper or a
slide (``--plots``), ``histogram.svg``, ``length.svg`` and, where predictions state a pLDDT, ``confidence.svg`` are over
all targets; ``residues_<target>.svg`` and ``distances_<target>.png`` are of a chosen one.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.pages import Plot, histogram, render_page, scatter, viewer
from data_prep.structure.residues import RESNAMES, RESTYPES_WITH_X
from evaluation.output import OPTIONAL, summary_lines
from evaluation.run import Row

DETAILED: int = 1000
"""Targets, worst first, whose residues lie in the page; 1,000 of 300 residues make about 15 MB."""

FULL_COLOUR: float = 4.0
"""angstrom; distance differences from here on have the full colour, as in the report: the widest threshold."""

_MAX_NAME = 60  # letters of a target's name in a file's: file systems allow 255 bytes, and a letter may have four

LABEL = "lDDT-C\N{GREEK SMALL LETTER ALPHA}"
_LETTER = dict(zip(RESNAMES, RESTYPES_WITH_X, strict=True))


def write_report(directory: Path, rows: Sequence[Row], summary: Mapping) -> Path:
    """Writes ``report.html`` next to the scores; returns its path."""
    ranked = sorted(rows, key=lambda row: -1.0 if row.score is None else row.scored.lddt_ca)
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
    return histogram([row.scored.lddt_ca for row in scored], np.linspace(0, 1, 21).round(2), LABEL, "targets")


def scores_by_length(scored: Sequence[Row]) -> Plot:
    """A point for each target."""
    points = [(row.scored.n_truth, row.scored.lddt_ca) for row in scored]
    tips = [f"{row.target}: {row.scored.lddt_ca:.3f}, {row.scored.n_truth} residues" for row in scored]
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
    table = row.scored.residues.columns()
    true, pred = row.scored.trace.superposed()
    numbers = [f"{number}{code}" for number, code in zip(table["number"], table["insertion_code"], strict=True)]
    return {
        "name": row.target,
        "score": row.scored.lddt_ca,
        "chains": table["chain"],
        "numbers": numbers,
        "letters": "".join(_LETTER[name] for name in table["name"]),
        "matched": [int(there) for there in table["in_pred"]],
        "lddt": [None if value is None else round(1000 * value) for value in table["lddt_ca"]],
        "plddt": [None if value is None else round(value, 1) for value in table["plddt"]],
        "true": true,
        "pred": pred,
    }


def write_plots(directory: Path, rows: Sequence[Row], summary: Mapping, chosen: Sequence[str] = ()) -> list[Path]:
    """Writes the plots into ``directory``; returns their paths.

    ``chosen`` names the targets whose residues are drawn: by default the worst scored one.

    Raises:
        KeyError: a chosen target that has no score.
    """
    scored = {row.target: row for row in rows if row.score is not None}
    directory.mkdir(parents=True, exist_ok=True)
    written = [
        score_histogram(list(scored.values())).save(directory / "histogram.svg"),
        scores_by_length(list(scored.values())).save(directory / "length.svg"),
    ]
    if summary["plddt"]["scales"]:
        written.append(reliability(summary["plddt"]["per_residue"]["bins"]).save(directory / "confidence.svg"))
    worst = sorted(scored, key=lambda name: scored[name].scored.lddt_ca)[:1]
    for name, file_name in _file_names(chosen or worst).items():
        written.append(_residues(scored[name]).save(directory / f"residues_{file_name}.svg"))
        written.append(_distances(scored[name]).save(directory / f"distances_{file_name}.png"))
    return written


def _file_names(targets: Sequence[str]) -> dict[str, str]:
    """A part of a file's name for each target: safe on every system, and no two the same where case is ignored."""
    names: dict[str, str] = {}
    for target in dict.fromkeys(targets):
        safe = re.sub(r"[^\w.+-]", "_", target)[:_MAX_NAME]
        taken = {name.casefold() for name in names.values()}
        numbered = (f"{safe}_{number}" for number in count(2))
        names[target] = next(name for name in chain([safe], numbered) if name.casefold() not in taken)
    return names


def distance_differences(row: Row) -> np.ndarray:
    """float64 [R, R], angstrom: distances of the prediction less those of the truth; nan where it lacks a residue."""
    trace = row.scored.trace
    pred = np.full(trace.true.shape, np.nan)
    pred[trace.in_pred] = trace.pred
    true = trace.true.astype(np.float64)
    of_pred, of_true = (np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (pred, true))
    return of_pred - of_true


def _residues(row: Row) -> Plot:
    """Curves over the residues of the truth in its order; gaps where a value is undefined."""
    table = row.scored.residues

    def draw(axes: Any) -> None:
        place = np.arange(len(table.number))
        missing = np.flatnonzero(~table.in_pred)
        axes.bar(missing, np.ones(len(missing)), width=1.0, color="0.9", label="missing" if len(missing) else None)
        if np.isfinite(table.plddt).any():
            axes.plot(place, table.plddt / 100, color="tab:orange", linewidth=1, label="pLDDT / 100")
        axes.plot(place, table.lddt_ca, color="tab:blue", linewidth=1, label=LABEL)
        starts = np.flatnonzero(np.append(True, table.chain[1:] != table.chain[:-1]))
        ticks = sorted({*starts.tolist(), *place[:: max(1, len(place) // 8)].tolist()})
        axes.set_xticks(ticks, [f"{table.chain[i]} {table.number[i]}{table.insertion_code[i]}".strip() for i in ticks])
        axes.set(xlim=(-0.5, len(place) - 0.5), ylim=(0, 1), xlabel="residue", ylabel=LABEL, title=_title(row))
        axes.legend(loc="lower right")

    return Plot(draw, width=8, height=3.4)


def _distances(row: Row) -> Plot:
    def draw(axes: Any) -> None:
        axes.grid(False)
        axes.set_facecolor("0.75")
        image = axes.imshow(distance_differences(row), cmap="RdBu_r", vmin=-FULL_COLOUR, vmax=FULL_COLOUR)
        label = "distance, prediction less truth (\N{ANGSTROM SIGN})"
        axes.figure.colorbar(image, ax=axes, label=label, extend="both")
        axes.set(xlabel="residue, counted from 0", ylabel="residue, counted from 0", title=_title(row))

    return Plot(draw, width=5, height=3.4)


def _title(row: Row) -> str:
    return f"{row.target}: {LABEL} {row.scored.lddt_ca:.4f}".replace("$", r"\$")
