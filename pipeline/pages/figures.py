"""Figures as SVG, drawn by matplotlib: curves and points of a run or of a comparison."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 6.0, 3.6
"""inches."""


def svg(draw: Callable[[Any], None], width: float = WIDTH, height: float = HEIGHT) -> str:
    """An ``<svg>`` element with one set of axes that ``draw`` has filled; text stays text, the same each time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, *, log: bool = False) -> str:
    """A line for each name, as (x, y) points; more than 2,000 points are thinned."""

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            thinned = points[:: max(1, len(points) // 2000)]
            axes.plot(*zip(*thinned, strict=True), label=name, linewidth=1.2, marker="." if len(thinned) < 30 else "")
        axes.set(xlabel=across, ylabel=up)
        if log:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend(frameon=False)

    return svg(draw)


def scatter(points: Sequence[tuple[float, float]], across: str, up: str, *, unit_square: bool = False) -> str:
    """Points; ``unit_square``: both axes from 0 to 1, with the diagonal."""

    def draw(axes: Any) -> None:
        if unit_square:
            axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        else:
            axes.set_ylim(0, 1)
        if points:
            axes.scatter(*zip(*points, strict=True), s=14, alpha=0.7)
        axes.set(xlabel=across, ylabel=up)

    return svg(draw, width=HEIGHT if unit_square else WIDTH)
