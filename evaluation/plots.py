"""``--plots``: the report's drawings as files for a paper or a slide, drawn by Matplotlib.

``histogram.svg``, ``length.svg`` and, where predictions state a pLDDT, ``confidence.svg`` are over all targets;
``residues_<target>.svg`` and ``distances_<target>.png`` are of a chosen one.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.pages import Plot
from evaluation.evaluate import Row
from evaluation.report import LABEL, reliability, score_histogram, scores_by_length

FULL_COLOUR: float = 4.0
"""angstrom; distance differences from here on have the full colour, as in the report: the widest threshold."""

_MAX_NAME = 60  # letters of a target's name in a file's: file systems allow 255 bytes, and a letter may have four


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
    worst = sorted(scored, key=lambda name: scored[name].score.lddt_ca)[:1]
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
    trace = row.score.trace
    pred = np.full(trace.true.shape, np.nan)
    pred[trace.in_pred] = trace.pred
    true = trace.true.astype(np.float64)
    of_pred, of_true = (np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (pred, true))
    return of_pred - of_true


def _residues(row: Row) -> Plot:
    """Curves over the residues of the truth in its order; gaps where a value is undefined."""
    table = row.score.residues

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
    return f"{row.target}: {LABEL} {row.score.lddt_ca:.4f}".replace("$", r"\$")
