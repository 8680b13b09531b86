"""The one HTML page and the one plotter: pages that need no network, plots in them or as files, the same bytes again.

A page is a Jinja template that extends ``page.html.jinja``. Jinja and Matplotlib are loaded when the first page or plot
is made, so that a command that makes none starts without them.
"""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files.atomic import writing_path

Points = Sequence[tuple[float, float]] | np.ndarray
"""x and y of each."""


def render_page(package: str, template: str, /, **values: Any) -> str:
    """Return the page (or, of a ``.md.jinja``, the text without escapes) that a template in ``package`` makes.

    Templates find ``page.html.jinja`` too. A value named ``data`` is put into the page as JSON for its scripts, and
    ``viewer=viewer()`` the 3D viewer.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("data_prep", "")]),
        autoescape=lambda name: not (name or "").endswith(".md.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["for_script"] = json_for_script
    return environment.get_template(template).render(values)


def json_for_script(value: object) -> str:
    """Return JSON that can stand in a script element: no ``<`` in it, so nothing can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def viewer() -> dict[str, str]:
    """Return the library of the 3D viewer 3Dmol.js and its licence, see ``viewer/PROVENANCE.md``."""
    names = {"library": "3Dmol-min.js", "licence": "LICENSE"}
    return {
        key: resources.files("data_prep").joinpath("viewer", name).read_text(encoding="utf-8")
        for key, name in names.items()
    }


@dataclass(frozen=True)
class Plot:
    """A plot that is drawn when it is written: as an ``<svg>`` element where a template names it, or into a file."""

    draw: Callable[..., None]
    """Fills the axes that it is called with, one for each panel."""
    width: float = 6.0
    """Inches."""
    height: float = 3.6
    tips: Sequence[str] = ()
    """What a page shows under the pointer, for each mark of the artist whose ``gid`` is ``TIPS[...]``."""
    panels: int = 1
    """Axes side by side."""

    def __html__(self) -> str:
        """Return the ``<svg>`` element; its text stays text."""
        stream = io.StringIO()
        self._write(stream, "svg", {"svg.fonttype": "none"})
        svg = stream.getvalue()
        return _with_tips(svg[svg.index("<svg") :], self.tips)

    def save(self, path: Path) -> Path:
        """Write the plot as PNG, PDF or SVG, by the end of the path's name; whole or not at all."""
        with writing_path(path) as temporary:
            self._write(temporary, path.suffix[1:].lower(), {})
        return path

    def _write(self, target: Any, kind: str, settings: Mapping[str, Any]) -> None:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        options: Any = {"svg.hashsalt": "plot", "font.size": 9} | dict(settings)
        with rc_context(options):
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            panels = figure.subplots(1, self.panels, squeeze=False)[0]
            for axes in panels:
                axes.spines[["top", "right"]].set_visible(False)
                axes.set_axisbelow(True)
                axes.grid(alpha=0.25)
            self.draw(*panels)
            figure.savefig(target, format=kind, dpi=150, metadata=metadata)


TIPS = {"points": "tips-use", "bars": "tips-path"}
"""``gid`` of a scatter, or of the first of the bars, that tips belong to: after it stands the SVG element of a mark."""


def _with_tips(svg: str, tips: Sequence[str]) -> str:
    """Put a ``<title>``, which browsers show under the pointer, into each mark."""
    start = re.search('<g id="tips-(use|path)">', svg)
    if start is None or not tips:
        return svg
    texts = iter(tips)
    mark = re.compile(rf"<{start[1]}( [^>]*)/>")
    titled = mark.sub(
        lambda found: f'<{start[1]} class="mark"{found[1]}><title>{escape(next(texts))}</title></{start[1]}>',
        svg[start.end() :],
        count=len(tips),
    )
    return svg[: start.end()] + titled


def curves(lines: Mapping[str, Points], across: str, up: str, *, log: bool = False) -> Plot:
    """A line for each name; more than 2,000 points are thinned."""

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            thinned = points[:: max(1, len(points) // 2000)]
            axes.plot(*zip(*thinned, strict=True), label=name, linewidth=1.2, marker="." if len(thinned) < 30 else "")
        axes.set(xlabel=across, ylabel=up)
        if log:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend(frameon=False)

    return Plot(draw)


def scatter(
    points: Points,
    across: str,
    up: str,
    *,
    tips: Sequence[str] = (),
    x_limits: tuple[float | None, float | None] = (None, None),
    diagonal: tuple[float, float] | None = None,
    square: bool = False,
) -> Plot:
    """Points with y from 0 to 1, and perhaps a dashed line from (0, 0) to ``diagonal``.

    ``square``: x from 0 to 1 too, with the diagonal, as of scores before and after.
    """
    if square:
        x_limits, diagonal = (0, 1), (1, 1)

    def draw(axes: Any) -> None:
        if len(points):
            axes.scatter(*zip(*points, strict=True), s=14, alpha=0.7, gid=TIPS["points"])
        if diagonal is not None:
            axes.plot([0, diagonal[0]], [0, diagonal[1]], color="0.6", linewidth=0.8, linestyle="--")
        axes.set(xlabel=across, ylabel=up, ylim=(0, 1), aspect="equal" if square else "auto")
        axes.set_xlim(*x_limits)

    return Plot(draw, width=3.6 if square else 6.0, tips=tips)


def histogram(values: Sequence[float] | np.ndarray, edges: np.ndarray, across: str, up: str, unit: str = "") -> Plot:
    """Bars of how many values lie between each two of ``edges``; under the pointer the bar's range and count."""
    counts, _ = np.histogram(values, edges)
    bars = [(low, high, count) for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False) if count]

    def draw(axes: Any) -> None:
        for i, (low, high, count) in enumerate(bars):
            width = high - low
            (bar,) = axes.bar(low + 0.04 * width, count, width=0.92 * width, align="edge", color="tab:blue")
            if i == 0:
                bar.set_gid(TIPS["bars"])
        axes.set(xlim=(edges[0], edges[-1]), xlabel=across, ylabel=up)
        axes.yaxis.get_major_locator().set_params(integer=True)

    tips = [f"{shown(low)} to {shown(high)}{unit and f' {unit}'}: {count}" for low, high, count in bars]
    return Plot(draw, tips=tips)


def shown(value: float) -> str:
    """Return a number as axes show it: whole, or of four digits."""
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


def curves_with_spread(groups: Mapping[str, Sequence[Points]], across: str, up: str) -> Plot:
    """For each name the mean over several curves with the same x, and a band from the lowest to the highest."""

    def draw(axes: Any) -> None:
        for name, several in groups.items():
            x = [point[0] for point in several[0]]
            columns = list(zip(*([y for _, y in one] for one in several), strict=True))
            (line,) = axes.plot(x, [sum(column) / len(column) for column in columns], label=name, linewidth=1.5)
            axes.fill_between(x, list(map(min, columns)), list(map(max, columns)), color=line.get_color(), alpha=0.15)
        axes.set(xlabel=across, ylabel=up)
        axes.legend(frameon=False)

    return Plot(draw)


def dots_by_name(groups: Mapping[str, Sequence[float]], along: str) -> Plot:
    """A row of dots for each name, with a bar at their mean."""

    def draw(axes: Any) -> None:
        for row, values in enumerate(groups.values()):
            axes.scatter(values, [row] * len(values), s=22, alpha=0.7)
            axes.scatter([sum(values) / len(values)], [row], marker="|", s=260, color="black")
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set(xlabel=along)

    return Plot(draw, height=0.9 + 0.4 * len(groups))
