"""``report.html`` and ``README.md`` of a run, made from its tables: to look at while it trains, and to hand on.

Both are functions of the files in the run directory alone, so they can be written at any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_document
from data_prep.pages import curves, render_page, scatter
from evaluation.baselines import Baseline, Standing, means_in_words, read_baselines, standing
from evaluation.statistics import Estimate, estimate
from pipeline.runs.directory import RunDirectory
from pipeline.runs.tables import best_step, read_columns, read_rows
from pipeline.training.validation import sample_in_words

LAST_STEP = 2**62
SMOOTHING = 50
"""Steps in the running mean of the loss."""
RECENT = 1000
"""Steps over which the speed is taken."""

NOT_TERMS = frozenset({"step", "loss", "grad_norm", "lr", "recycles", "skipped"})
"""Columns of metrics.csv that are no loss term."""

Points = np.ndarray
"""Step and value, float64 [points, 2]."""


@dataclass(frozen=True)
class TargetChange:
    """A chain in the first and in the last round of validation."""

    target: str
    length: int
    before: float
    after: float


@dataclass(frozen=True)
class RunPage:
    """What the two pages show."""

    run: RunDirectory
    finished: bool
    step: int
    total: int
    skipped: int
    samples_per_second: float
    memory_mb: float
    loss: Points
    terms: dict[str, Points]
    gradient: Points
    rate: Points
    rounds: Points
    """Mean validation lDDT-Calpha by step."""
    targets: list[TargetChange]
    """Worst first."""
    panel: list[TargetChange]
    """Of the forgetting check."""
    baselines: dict[str, Baseline]
    """By validation chain; none in a run of an earlier version."""
    sample: str
    """Which chains are validated on, in words."""
    standing: Standing | None
    """The last round beside the baselines; None without them."""

    @property
    def best(self) -> int | None:
        """Step of the best round of validation; None without any."""
        return best_step({int(step): mean for step, mean in self.rounds})

    @property
    def change(self) -> Estimate:
        """Validation lDDT-Calpha, last round less first, over targets."""
        return estimate([target.after - target.before for target in self.targets])

    @property
    def panel_change(self) -> Estimate:
        """The same for the panel."""
        return estimate([target.after - target.before for target in self.panel])


def read_page(run: RunDirectory) -> RunPage:
    """Collect what the pages show from the run's files."""
    metrics, timing = read_columns(run.metrics_file), read_columns(run.timing_file)
    validation = read_rows(run.validation_file, LAST_STEP)
    none = np.empty(0)
    steps, seconds = metrics.get("step", none), timing.get("seconds", none)[-RECENT:].sum()
    baselines, config = read_baselines(run.baselines_file), run.config()
    held_out = run.info()["dataset_chains"]["val"]
    last_round = validation[-1]["step"] if validation else ""
    scores = {row["target"]: float(row["lddt_ca"] or "nan") for row in validation if row["step"] == last_round}
    return RunPage(
        run=run,
        finished=run.summary_file.is_file(),
        step=int(steps[-1]) if len(steps) else 0,
        total=config.training.max_steps,
        skipped=int(metrics.get("skipped", none).sum()),
        samples_per_second=float(timing["samples"][-RECENT:].sum() / seconds) if seconds else 0.0,
        memory_mb=float(timing.get("memory_mb", none).max(initial=0.0)),
        loss=_column(metrics, "loss"),
        terms={name: _running_mean(_column(metrics, name)) for name in metrics if name not in NOT_TERMS},
        gradient=_running_mean(_column(metrics, "grad_norm")),
        rate=_column(metrics, "lr"),
        rounds=_rounds(validation),
        targets=changes(validation),
        panel=changes(read_rows(run.panel_file, LAST_STEP)),
        baselines={row.target: row for row in baselines},
        sample=sample_in_words(baselines, held_out, overfit=bool(config.data.overfit)),
        standing=standing(scores, baselines),
    )


def _column(columns: Mapping[str, np.ndarray], name: str) -> Points:
    """What is a number; a skipped step may have none."""
    if name not in columns:
        return np.empty((0, 2))
    points = np.stack([columns["step"], columns[name]], axis=1)
    return points[np.isfinite(points[:, 1])]


def _running_mean(points: Points) -> Points:
    """Of the last ``SMOOTHING`` points, or as many as there are."""
    sums = np.concatenate([[0.0], points[:, 1].cumsum()])
    last = np.arange(1, len(points) + 1)
    first = np.maximum(last - SMOOTHING, 0)
    return np.stack([points[:, 0], (sums[last] - sums[first]) / (last - first)], axis=1)


def _rounds(rows: Sequence[dict[str, str]]) -> Points:
    by_step: dict[int, list[float]] = {}
    for row in rows:
        if row["lddt_ca"]:
            by_step.setdefault(int(row["step"]), []).append(float(row["lddt_ca"]))
    return np.array([(step, sum(scores) / len(scores)) for step, scores in by_step.items()]).reshape(-1, 2)


def changes(rows: Sequence[dict[str, str]]) -> list[TargetChange]:
    """Each chain's scores in the first and the last round in which it has one, the worst last score first."""
    first: dict[str, float] = {}
    last: dict[str, TargetChange] = {}
    for row in rows:
        if row["lddt_ca"]:
            score, target = float(row["lddt_ca"]), row["target"]
            before = first.setdefault(target, score)
            last[target] = TargetChange(target, int(row["length"]), before, score)
    return sorted(last.values(), key=lambda change: change.after)


def write_pages(run: RunDirectory) -> None:
    """Write ``report.html`` and ``README.md`` as things stand. Raises OSError."""
    page = read_page(run)
    figures = []
    if len(page.loss):
        smooth = {"each step": page.loss, f"mean of {SMOOTHING}": _running_mean(page.loss)}
        figures.append(("Loss", curves(smooth, "step", "loss")))
        figures.append((f"Loss terms, unweighted, mean of {SMOOTHING} steps", curves(page.terms, "step", "term")))
    if len(page.rounds):
        lines = {"model": page.rounds}
        if page.standing is not None:
            levels = {"straight helix": page.standing.helix, "copy of the nearest training chain": page.standing.copy}
            ends = page.rounds[[0, -1], 0]
            lines |= {name: [(x, y) for x in ends] for name, y in levels.items() if np.isfinite(y)}  # type: ignore[misc]
        figures.append(("Validation, mean over chains", curves(lines, "step", "lDDT-Cα")))
    if page.targets:
        points = [(target.before, target.after) for target in page.targets]
        figures.append(("Each chain before and after", scatter(points, "before", "now", square=True)))
        points = [(target.length, target.after) for target in page.targets]
        figures.append(("Validation by length", scatter(points, "residues", "lDDT-Cα")))
    if page.panel:
        points = [(target.before, target.after) for target in page.panel]
        figures.append(("Panel: what it knew before", scatter(points, "before", "after", square=True)))
    if len(page.gradient):
        figures.append((f"Gradient norm, mean of {SMOOTHING} steps", curves({"": page.gradient}, "step", "norm")))
        figures.append(("Learning rate", curves({"": page.rate}, "step", "rate")))
    info = run.info()
    for name, target in (("report.html.jinja", run.report_file), ("card.md.jinja", run.card_file)):
        text = render_page(
            "pipeline.training",
            name,
            page=page,
            figures=figures,
            means=means_in_words(list(page.baselines.values())),
            info=info,
            config=run.config(),
            settings=read_document(run.config_file),
            command=" ".join(info["command"]),
        )
        write_text(target, text)
