"""``report.html``: one page with the summary, a histogram, lDDT against length, and every target. It needs no network.

The drawings are SVG made here: two plots of points and bars, for which loading a plotting library would take longer
than scoring fifty targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.evaluate import Row
from evaluation.output import write_atomically
from evaluation.screen import summary_lines

WIDTH, HEIGHT = 460, 260
"""Pixels of a plot, axes included."""

_LEFT, _BOTTOM, _TOP, _RIGHT = 46, 36, 12, 12
_BINS = 20  # of the histogram, each 0.05 wide


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

    environment = Environment(
        loader=PackageLoader("evaluation", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    scored = [row for row in rows if row.score is not None]
    path = directory / "report.html"
    page = environment.get_template("report.html.jinja").render(
        rows=sorted(rows, key=lambda row: -1.0 if row.score is None else row.score.lddt_ca),
        summary=summary,
        lines=summary_lines(summary),
        histogram=histogram([row.score.lddt_ca for row in scored]),
        lengths=against_length([(row.target, row.score.n_truth, row.score.lddt_ca) for row in scored]),
        width=WIDTH,
        height=HEIGHT,
    )
    write_atomically(path, page)
    return path


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
    return {"bars": bars, "points": [], "x": x.ticks(), "y": y.ticks(), "across": "lDDT-Calpha", "up": "targets"}


def against_length(points: Sequence[tuple[str, int, float]]) -> dict:
    """Points (target, residues, score), and the axes, in pixels."""
    x, y = _axes(0, max((length for _, length, _ in points), default=1) * 1.05, 1)
    dots = [
        {"x": round(x(length), 1), "y": round(y(score), 1), "title": f"{name}: {score:.3f}, {length} residues"}
        for name, length, score in points
    ]
    return {"bars": [], "points": dots, "x": x.ticks(), "y": y.ticks(), "across": "residues", "up": "lDDT-Calpha"}


def _axes(low: float, high: float, top: float) -> tuple[Axis, Axis]:
    return Axis(low, high, _LEFT, WIDTH - _RIGHT), Axis(0, top, HEIGHT - _BOTTOM, _TOP)
