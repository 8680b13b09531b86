"""What a learning curve says: scores by number of structures, differences, verdicts, what the next gain takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from evaluation.baselines import Baseline
from evaluation.statistics import crossed_interval
from pipeline.comparison.results import (
    COPY,
    FEWEST_SEEDS,
    HELIX,
    PairedDifference,
    difference_of,
    in_words,
    target_scores,
)
from pipeline.comparison.variants import Variant

BASE, BEFORE = "base model", "before training"
GAIN = 0.02
"""lDDT-Calpha of which is said how many structures it takes."""
FURTHEST = 10
"""Times the largest size: the curve is not drawn out further than that."""
SIZES_OF_SLOPE = 3
"""The last so many sizes say how the curve rises: it bends, and the first ones know nothing of its end."""

FEW = f"{FEWEST_SEEDS} seeds and 2 held-out chains"

Scores = Mapping[int, Mapping[str, float]]
"""lDDT-Calpha by seed and target."""


@dataclass(frozen=True)
class Cell:
    """What one run reached."""

    size: int
    adapter: str
    seed: int
    scores: Mapping[str, float]
    """By held-out chain, after the last step."""
    before: Mapping[str, float]
    """The same before the first."""
    forgetting: Mapping[str, float]
    """By chain of the forgetting set, after the last step; empty without one."""
    forgetting_before: Mapping[str, float]
    baselines: Sequence[Baseline]
    """Of the held-out chains, and of the training chains of this run."""


def read_cell(variant: Variant) -> Cell:
    """Read a finished run."""
    return Cell(
        size=variant.size,
        adapter=variant.adapter.name,
        seed=variant.seed,
        scores=target_scores(variant),
        before=target_scores(variant, first=True),
        forgetting=target_scores(variant, forgetting=True),
        forgetting_before=target_scores(variant, first=True, forgetting=True),
        baselines=variant.baselines(),
    )


@dataclass(frozen=True)
class Row:
    """One line of the curve; a row of ``curve.csv``. What is not known is nan."""

    size: int
    name: str
    """An adapter, the base model or a baseline."""
    seeds: int
    targets: int
    lddt_ca: float
    """Mean over targets of the mean over seeds."""
    sd_over_seeds: float
    forgetting_before: float
    forgetting_after: float


@dataclass(frozen=True)
class SizedDifference(PairedDifference):
    """A row of ``differences.csv``."""

    size: int


@dataclass(frozen=True)
class Outlook:
    """How the curve of an adapter ends; a row of ``outlook.csv``."""

    adapter: str
    per_doubling: float
    """lDDT-Calpha for twice as many structures, by the last sizes; nan for a single size."""
    low: float
    """Ends of its 95% interval; nan with too few seeds or targets."""
    high: float
    more: float
    """Structures beside the largest size that the next ``GAIN`` takes; nan where it cannot be told."""
    more_low: float
    more_high: float
    """inf: more than ``FURTHEST`` times the largest size."""


class Curve:
    """All that is finished of a learning curve."""

    def __init__(self, cells: Sequence[Cell], *, has_base: bool) -> None:
        """``has_base``: whether runs start from a trained model, which before its first step is the base."""
        self.cells, self.has_base = cells, has_base
        self.sizes = sorted({cell.size for cell in cells})
        self.adapters = list(dict.fromkeys(cell.adapter for cell in cells))

    def scores(self, size: int, name: str) -> dict[int, dict[str, float]]:
        """Scores by seed and target, of an adapter, the base model or a baseline."""
        found: dict[int, dict[str, float]] = {}
        for cell in (cell for cell in self.cells if cell.size == size):
            if name == cell.adapter:
                found[cell.seed] = dict(cell.scores)
            elif name == BASE and self.has_base:
                found.setdefault(cell.seed, dict(cell.before))
            elif name in (HELIX, COPY):
                values = {row.target: row.helix if name == HELIX else row.copy for row in cell.baselines}
                known = {target: value for target, value in values.items() if math.isfinite(value)}
                found.setdefault(cell.seed, known)
        return {seed: scores for seed, scores in found.items() if scores}

    def names(self, size: int) -> list[str]:
        """Rows of a size: what needs no training first."""
        return [name for name in (HELIX, COPY, BASE, *self.adapters) if self.scores(size, name)]

    def rows(self) -> list[Row]:
        """Return a line for every size and adapter, baseline, base model."""
        return [self._row(size, name) for size in self.sizes for name in self.names(size)]

    def _row(self, size: int, name: str) -> Row:
        scores = self.scores(size, name)
        of_seeds = [float(np.mean(list(own.values()))) for own in scores.values()]
        cells = [cell for cell in self.cells if cell.size == size and (name == BASE or cell.adapter == name)]
        before = _mean([_mean(list(cell.forgetting_before.values())) for cell in cells])
        after = before if name == BASE else _mean([_mean(list(cell.forgetting.values())) for cell in cells])
        return Row(
            size=size,
            name=name,
            seeds=len(scores),
            targets=len({target for own in scores.values() for target in own}),
            lddt_ca=_mean(of_seeds),
            sd_over_seeds=float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else math.nan,
            forgetting_before=before,
            forgetting_after=after,
        )

    def reference(self, size: int) -> str:
        """What a verdict compares with: the base model, or the copy where there is one, or the helix."""
        return next((name for name in (BASE, COPY, HELIX) if self.scores(size, name)), "")

    def differences(self) -> list[SizedDifference]:
        """Return every adapter less base model, copy, helix and the first adapter, at each size."""
        return [
            self.difference(size, adapter, reference)
            for size in self.sizes
            for adapter in self.adapters
            for reference in (BASE, COPY, HELIX, self.adapters[0])
            if reference != adapter and self.scores(size, adapter) and self.scores(size, reference)
        ]

    def difference(self, size: int, adapter: str, reference: str) -> SizedDifference:
        """One adapter less a reference, paired by seed and target."""
        found = difference_of(adapter, self.scores(size, adapter), reference, self.scores(size, reference))
        return SizedDifference(**asdict(found), size=size)

    def forgetting(self, size: int, adapter: str) -> PairedDifference | None:
        """Return the change on the forgetting set; None without one."""
        cells = [cell for cell in self.cells if (cell.size, cell.adapter) == (size, adapter) and cell.forgetting]
        after = {cell.seed: cell.forgetting for cell in cells}
        before = {cell.seed: cell.forgetting_before for cell in cells}
        return difference_of(adapter, after, BEFORE, before) if cells else None

    def best(self, size: int) -> str:
        """Return the adapter of the highest mean score."""
        own = [adapter for adapter in self.adapters if self.scores(size, adapter)]
        return max(own, key=lambda adapter: self._row(size, adapter).lddt_ca)

    def verdict(self, size: int) -> str:
        """Say in one sentence whether training on so many structures was worth it."""
        best, reference = self.best(size), self.reference(size)
        score = self._row(size, best).lddt_ca
        if not reference:
            return f"{_structures(size)}: {best} scores {score:.3f}."
        found = self.difference(size, best, reference)
        beside = f"{abs(found.mean):.3f} {'above' if found.mean >= 0 else 'below'} the {reference}"
        if math.isnan(found.low):
            unsure = f"fewer than {FEW} cannot tell how sure that is"
            return f"{_structures(size)}: {best} scores {score:.3f}, {beside}; {unsure}."
        sure = "helped" if found.low > 0 else "hurt" if found.high < 0 else "made no difference that can be told"
        if reference != BASE:
            sure = {"helped": f"beats the {reference}", "hurt": f"falls short of the {reference}"}.get(
                sure, f"cannot be told apart from the {reference}"
            )
        subject = f"training {sure}" if reference == BASE else f"the best model {sure}"
        interval = f"95% interval {found.low:+.3f} to {found.high:+.3f}"
        return f"{_structures(size)}: {subject}: {best} scores {score:.3f}, {beside} ({interval})."

    def outlook(self, adapter: str) -> Outlook:
        """Say how the curve of an adapter ends, from the seeds that have all of its last sizes.

        The score is taken to be linear in the logarithm of the size over the last ``SIZES_OF_SLOPE`` sizes. The slope
        is then a weighted sum of scores, whose interval is over seeds and targets as all others are.
        """
        nothing = Outlook(adapter, *[math.nan] * (len(fields(Outlook)) - 1))
        sizes = [size for size in self.sizes if self.scores(size, adapter)][-SIZES_OF_SLOPE:]
        by_size = [self.scores(size, adapter) for size in sizes]
        seeds = sorted(set.intersection(*(set(scores) for scores in by_size))) if sizes else []
        if len(sizes) < 2 or not seeds:
            return nothing
        x = np.log2(sizes) - np.mean(np.log2(sizes))
        weights = x / (x**2).sum()
        targets = sorted(set.intersection(*(set(scores[seed]) for scores in by_size for seed in seeds)))
        values = np.array([[[scores[s][t] for t in targets] for s in seeds] for scores in by_size])
        slopes = np.tensordot(weights, values, axes=1)
        if not targets:
            return nothing
        slope = float(slopes.mean())
        if len(seeds) < FEWEST_SEEDS or len(targets) < 2:
            return Outlook(adapter, slope, *[math.nan] * 5)
        low, high = crossed_interval(slopes)
        more = [_more(sizes[-1], value) if low > 0 else math.nan for value in (slope, high, low)]
        return Outlook(adapter, slope, low, high, *more)

    def outlook_in_words(self, adapter: str) -> str:
        """Say how many more structures the next gain would take."""
        found, largest = self.outlook(adapter), self.sizes[-1]
        start = f"{adapter}: the next {GAIN} of lDDT-Calpha"
        if math.isnan(found.per_doubling):
            return f"{start}: cannot be told from one size."
        slope = f"{found.per_doubling:+.3f} for twice as many"
        if math.isnan(found.low):
            return f"{start}: cannot be told from fewer than {FEW} (the curve ends with {slope})."
        slope += f", 95% interval {found.low:+.3f} to {found.high:+.3f}"
        if math.isnan(found.more):
            return f"{start}: cannot be told: the curve does not surely rise ({slope})."
        numbers = (found.more, found.more_low, found.more_high)
        more, low, high = (f"over {FURTHEST * largest}" if math.isinf(n) else f"{n:.0f}" for n in numbers)
        about = "" if math.isinf(found.more) else "about "
        return f"{start} would take {about}{more} more structures ({low} to {high}; {slope})."


def _more(size: int, slope: float) -> float:
    """Structures beside ``size`` that ``GAIN`` takes at this slope per doubling; inf beyond ``FURTHEST``."""
    more = math.ceil(size * (2 ** min(GAIN / slope, 1000.0) - 1))
    return math.inf if more > FURTHEST * size else float(more)


def _structures(size: int) -> str:
    return f"{size} structure{'s' * (size != 1)}"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def curve_table(curve: Curve) -> str:
    """Return the Markdown table: a row for every size and adapter, baseline, base model."""
    forgets = any(cell.forgetting for cell in curve.cells)
    heading = "| structures | model | lDDT-Cα (sd over seeds) | less base | less copy | less first adapter |"
    lines = [heading + (" forgetting set, before → after |" if forgets else ""), "|" + "---|" * (7 if forgets else 6)]
    for row in curve.rows():
        spread = (
            "" if math.isnan(row.sd_over_seeds) or row.name not in curve.adapters else f" ({row.sd_over_seeds:.3f})"
        )
        cells = [str(row.size), row.name, f"{row.lddt_ca:.3f}{spread}"]
        for reference in (BASE, COPY, curve.adapters[0]):
            shown = row.name in curve.adapters and row.name != reference and curve.scores(row.size, reference)
            cells.append(in_words(curve.difference(row.size, row.name, reference)) if shown else "-")
        if forgets:
            change = curve.forgetting(row.size, row.name)
            after = f"{row.forgetting_before:.3f} → {row.forgetting_after:.3f}"
            cells.append(f"{after}: {in_words(change)}" if change else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def curve_lines(curve: Curve) -> dict[str, list[list[tuple[float, float]]]]:
    """Return a curve for each seed by name, over the sizes, of the seeds that have every size of that name."""
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for name in (HELIX, COPY, BASE, *curve.adapters):
        by_size = {size: scores for size in curve.sizes if (scores := curve.scores(size, name))}
        seeds = set.intersection(*(set(scores) for scores in by_size.values())) if by_size else set()
        if seeds:
            lines[name] = [
                [(float(size), _mean(list(scores[seed].values()))) for size, scores in by_size.items()]
                for seed in sorted(seeds)
            ]
    return lines
