"""Histograms as inline SVG: no scripts, no files beside the page, the same bytes every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT, MARGIN = 420, 150, 28


@dataclass(frozen=True)
class Histogram:
    """One chart of a report."""

    title: str
    svg: str
    note: str
    """How many values, their range, how many are not stated."""


def histogram(title: str, values: Sequence[float | None], unit: str, *, bins: int = 24) -> Histogram:
    """Counts of ``values``; None is counted as not stated. Bins are equal and span the values."""
    stated = np.array([value for value in values if value is not None], dtype=np.float64)
    unstated = len(values) - len(stated)
    rest = f"; {unstated} not stated" if unstated else ""
    if not len(stated):
        return Histogram(title, "", f"no values{rest}")
    low, high = float(stated.min()), float(stated.max())
    if (stated == np.rint(stated)).all():  # whole numbers share a bin with none but themselves, or evenly
        step = max(1, int(np.ceil((high - low + 1) / bins)))
        edges = np.arange(low, high + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts, edges = np.histogram(stated, edges)
    unit = unit and f" {unit}"
    note = f"{len(stated)} values, {_shown(low)} to {_shown(high)}{unit}, median {_shown(np.median(stated))}{rest}"
    spans = zip(edges, edges[1:], counts.tolist(), strict=False)
    labels = [f"{_shown(a)} to {_shown(b)}{unit}: {count}" for a, b, count in spans]
    return Histogram(title, _bars(counts.tolist(), labels, f"{_shown(low)}", f"{_shown(high)}{unit}"), note)


def _shown(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


def _bars(counts: list[int], labels: list[str], first: str, last: str) -> str:
    top = max(counts)
    width = (WIDTH - 2 * MARGIN) / len(counts)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">']
    for i, (count, label) in enumerate(zip(counts, labels, strict=True)):
        height = (HEIGHT - 2 * MARGIN) * count / top
        place = f'x="{MARGIN + i * width:.1f}" y="{HEIGHT - MARGIN - height:.1f}"'
        size = f'width="{max(width - 1, 0.5):.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="bar" {place} {size}><title>{escape(label)}</title></rect>')
    base = HEIGHT - MARGIN
    parts.append(f'<line class="axis" x1="{MARGIN}" y1="{base}" x2="{WIDTH - MARGIN}" y2="{base}"/>')
    parts.append(f'<text x="{MARGIN}" y="{base + 16}">{escape(first)}</text>')
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{base + 16}" text-anchor="end">{escape(last)}</text>')
    parts.append(f'<text x="{MARGIN - 4}" y="{MARGIN}" text-anchor="end">{top}</text></svg>')
    return "".join(parts)
