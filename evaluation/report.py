"""``report.html``: one page with the summary, every target, and the residues of a chosen one. It needs no network.

Plots over all targets are SVG made here, those of a chosen target are drawn by the page's own script
(``report_script.html.jinja``) from numbers that lie in the page.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from data_prep.structure.residues import RESNAMES, RESTYPES_WITH_X
from evaluation.evaluate import Row
from evaluation.output import OPTIONAL, write_atomically
from evaluation.screen import summary_lines

WIDTH, HEIGHT = 460, 260
"""Pixels of a plot, axes included."""

DETAILED: int = 1000
"""Targets, worst first, whose residues lie in the page; 1,000 of 300 residues make about 15 MB."""

_LEFT, _BOTTOM, _TOP, _RIGHT = 46, 36, 12, 12
_BINS = 20  # of the histogram, each 0.05 wide
_LETTER = dict(zip(RESNAMES, RESTYPES_WITH_X, strict=True))


@dataclass(frozen=True)
class Axis:
    """Maps data to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and labels, at round numbers."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** np.floor(np.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        values = np.arange(np.ceil(self.low / step) * step, self.high + step / 1000, step)
        return [(round(self(value), 1), f"{value:g}") for value in values.round(6)]


def write_report(directory: Path, rows: Sequence[Row], summary: Mapping) -> Path:
    """Writes ``report.html`` next to the scores; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("evaluation", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    ranked = sorted(rows, key=lambda row: -1.0 if row.score is None else row.score.lddt_ca)
    scored = [row for row in ranked if row.score is not None]
    drawings = {
        "How many targets reach which lDDT-Calpha": histogram([row.score.lddt_ca for row in scored]),
        "lDDT-Calpha against the length of the truth": against_length(
            [(row.target, row.score.n_truth, row.score.lddt_ca) for row in scored]
        ),
    }
    if summary["plddt"]["scales"]:
        drawings["What residues of one pLDDT reach: on the line, the confidence is right"] = reliability(
            summary["plddt"]["per_residue"]["bins"]
        )
    path = directory / "report.html"
    page = environment.get_template("report.html.jinja").render(
        rows=ranked,
        place={row.target: i for i, row in enumerate(scored[:DETAILED])},
        optional=[name for names in OPTIONAL.values() for name in names if name in summary["scored"]],
        base=(summary["baselines"] or {}).get("targets"),
        summary=summary,
        lines=summary_lines(summary),
        drawings=drawings,
        data=as_script([details(row) for row in scored[:DETAILED]]),
        viewer_library=Markup(_viewer_file("3Dmol-min.js")),
        viewer_licence=_viewer_file("LICENSE"),
        left_out=max(0, len(scored) - DETAILED),
        width=WIDTH,
        height=HEIGHT,
    )
    write_atomically(path, page)
    return path


def _viewer_file(name: str) -> str:
    """A file of the 3D viewer that the page carries, see ``viewer/PROVENANCE.md``."""
    return (resources.files("evaluation") / "viewer" / name).read_text(encoding="utf-8")


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


def as_script(value: object) -> str:
    """JSON that can stand in a script element: no ``<`` in it, so nothing can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def histogram(scores: Sequence[float]) -> dict:
    """Bars of scores in [0, 1], and the axes, in pixels."""
    counts, edges = np.histogram(scores, bins=_BINS, range=(0, 1))
    x, y = _axes(0, 1, max(int(counts.max()), 1))
    bars = [
        {
            "x": round(x(low) + 0.5, 1),
            "y": round(y(count), 1),
            "width": round(x(high) - x(low) - 1, 1),
            "height": round(y(0) - y(count), 1),
            "title": f"{count} target(s) from {low:.2f} to {high:.2f}",
        }
        for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
        if count
    ]
    return _drawing(x, y, "lDDT-Calpha", "targets", bars=bars)


def against_length(points: Sequence[tuple[str, int, float]]) -> dict:
    """Points (target, residues, score), and the axes, in pixels."""
    x, y = _axes(0, max((length for _, length, _ in points), default=1) * 1.05, 1)
    dots = [
        {"x": round(x(length), 1), "y": round(y(score), 1), "title": f"{name}: {score:.3f}, {length} residues"}
        for name, length, score in points
    ]
    return _drawing(x, y, "residues", "lDDT-Calpha", points=dots)


def reliability(bins: Sequence[Mapping]) -> dict:
    """Points of mean pLDDT and mean lDDT of each bin (``CalibrationBin`` as a dictionary), and the line on which the
    two agree, in pixels."""
    x, y = _axes(0, 100, 1)
    dots = [
        {
            "x": round(x(one["mean_plddt"]), 1),
            "y": round(y(one["mean_lddt"]), 1),
            "title": f"{one['n']} residues: pLDDT {one['mean_plddt']:.1f}, lDDT {one['mean_lddt']:.3f}",
        }
        for one in bins
    ]
    return _drawing(x, y, "pLDDT", "lDDT-Calpha", points=dots, line=(x(0), y(0), x(100), y(1)))


def _drawing(x: Axis, y: Axis, across: str, up: str, bars: Sequence = (), points: Sequence = (), line=None) -> dict:
    return {"bars": bars, "points": points, "line": line, "x": x.ticks(), "y": y.ticks(), "across": across, "up": up}


def _axes(low: float, high: float, top: float) -> tuple[Axis, Axis]:
    return Axis(low, high, _LEFT, WIDTH - _RIGHT), Axis(0, top, HEIGHT - _BOTTOM, _TOP)
