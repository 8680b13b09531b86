"""What the variants of a comparison reached, and how sure that is."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.files.text import csv_text
from evaluation.baselines import Baseline, Standing, means_in_words, standing
from evaluation.statistics import crossed_interval
from pipeline.comparison.variants import TRAIN_SCORES, Variant
from pipeline.runs.directory import RunDirectory
from pipeline.runs.tables import read_rows, validation_history

FEWEST_SEEDS = 3
"""Below it there is no interval: two seeds say next to nothing about others."""

OFF_THE_PLATEAU = 0.1
"""Mean lDDT-Calpha above that of a straight helix. Runs stay near the helix until they find the fold, and pass this
mark within a round or two of finding it."""

HELIX, COPY = "straight helix", "copy of the nearest training chain"


@dataclass(frozen=True)
class RunResult:
    """One variant at its end; a row of ``runs.csv``."""

    adapter: str
    seed: int
    alpha: float
    """nan without an adapter that has one."""
    trained_parameters: int
    """In all: the trunk's too."""
    stem_parameters: int
    """Of the adapter, or of the stem where all of it trains."""
    adapter_bytes: int
    steps: int
    seconds_per_step: float
    """Median."""
    memory_mb: int
    """Largest of the process."""
    val_lddt_ca: float
    train_lddt_ca: float
    plateau_end: float
    """Step of the first round of validation that is off the plateau (``OFF_THE_PLATEAU``); nan if none is."""


@dataclass(frozen=True)
class PairedDifference:
    """An adapter against the reference or the copy, target by target; a row of ``differences.csv``."""

    adapter: str
    reference: str
    targets: int
    seeds: int
    mean: float
    low: float
    """Lower end of the 95% bootstrap interval over seeds and targets; nan with fewer than ``FEWEST_SEEDS`` seeds."""
    high: float
    better: int
    """Targets with a higher score, mean over seeds."""


def run_result(variant: Variant) -> RunResult:
    """Read a finished variant."""
    run = RunDirectory(variant.path)
    parts, summary = run.info()["parameters"], run.summary()
    history = validation_history(run.validation_file, summary["step"])
    with (variant.path / TRAIN_SCORES).open(newline="") as stream:
        train = [float(row["lddt_ca"]) for row in csv.DictReader(stream)]
    alpha = variant.alpha()
    return RunResult(
        adapter=variant.adapter.name,
        seed=variant.seed,
        alpha=math.nan if alpha is None else float(alpha),
        trained_parameters=sum(part["trainable"] for part in parts.values()),
        stem_parameters=sum(parts.get(name, {"trainable": 0})["trainable"] for name in ("stem", "adapter")),
        adapter_bytes=variant.adapter_bytes(),
        steps=summary["step"],
        seconds_per_step=summary["seconds_per_step"],
        memory_mb=round(summary["memory_mb"]),
        val_lddt_ca=history.get(summary["step"], math.nan),
        train_lddt_ca=float(np.mean(train)) if train else math.nan,
        plateau_end=plateau_end(history, variant.baselines()),
    )


def plateau_end(history: Mapping[int, float], baselines: Sequence[Baseline]) -> float:
    """Return the step of the first round whose mean lDDT-Calpha exceeds the helix' by more than ``OFF_THE_PLATEAU``.

    nan if no round does, or the baselines of the run are not known. The rounds are ``validate_every`` steps apart, and
    so the plateau ended at this step or in the interval before it.
    """
    found = _of_helix(baselines)
    if found is None:
        return math.nan
    return min((step for step, mean in history.items() if mean > found.helix + OFF_THE_PLATEAU), default=math.nan)


def _of_helix(baselines: Sequence[Baseline]) -> Standing | None:
    """The means of the baselines."""
    return standing({row.target: row.helix for row in baselines}, baselines)


def target_scores(variant: Variant, *, first: bool = False, forgetting: bool = False) -> dict[str, float]:
    """lDDT-Calpha by chain in the last round, or the ``first`` one, of validation or of the forgetting set."""
    run = RunDirectory(variant.path)
    last = run.summary()["step"]
    step = 0 if first else last
    rows = read_rows(run.panel_file if forgetting else run.validation_file, last)
    return {row["target"]: float(row["lddt_ca"]) for row in rows if int(row["step"]) == step and row["lddt_ca"]}


def curve(variant: Variant) -> dict[int, float]:
    """Mean validation lDDT-Calpha by step."""
    run = RunDirectory(variant.path)
    return validation_history(run.validation_file, run.summary()["step"])


def paired_differences(
    scores: Mapping[str, Mapping[int, Mapping[str, float]]], reference: str
) -> list[PairedDifference]:
    """Each adapter less the reference, over the seeds and targets that both have.

    A target's difference is its mean over seeds; variants of one seed share initial weights, data and their order. The
    interval is over both: it says how the mean would vary with other seeds and other targets of the same kind.

    Args:
        scores: adapter -> seed -> target -> lDDT-Calpha.
        reference: the adapter that is subtracted.
    """
    return [
        difference_of(adapter, by_seed, reference, scores[reference])
        for adapter, by_seed in scores.items()
        if adapter != reference
    ]


def copy_differences(
    scores: Mapping[str, Mapping[int, Mapping[str, float]]], baselines: Sequence[Baseline]
) -> list[PairedDifference]:
    """Each adapter less the copy of the nearest training chain, over the targets that have one, as
    ``paired_differences``; none where no target has one."""
    copies = {row.target: row.copy for row in baselines if math.isfinite(row.copy)}
    if not copies:
        return []
    return [difference_of(adapter, own, COPY, dict.fromkeys(own, copies)) for adapter, own in scores.items()]


def difference_of(
    adapter: str,
    ours: Mapping[int, Mapping[str, float]],
    reference: str,
    theirs: Mapping[int, Mapping[str, float]],
) -> PairedDifference:
    """Both by seed and target. The interval is nan with fewer than ``FEWEST_SEEDS`` seeds or two targets."""
    seeds = sorted(ours.keys() & theirs.keys())
    targets = sorted({target for seed in seeds for target in ours[seed].keys() & theirs[seed].keys()})
    nothing = math.nan
    values = np.array(
        [[ours[s].get(t, nothing) - theirs[s].get(t, nothing) for t in targets] for s in seeds], dtype=np.float64
    ).reshape(len(seeds), len(targets))
    means = np.nanmean(values, axis=0) if targets else np.empty(0)
    enough = len(seeds) >= FEWEST_SEEDS and len(targets) > 1
    low, high = crossed_interval(values) if enough else (nothing, nothing)
    return PairedDifference(
        adapter=adapter,
        reference=reference,
        targets=len(targets),
        seeds=len(seeds),
        mean=float(means.mean()) if targets else nothing,
        low=low,
        high=high,
        better=int(np.count_nonzero(means > 0)),
    )


def write_csv(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """A table of dataclasses."""
    names = [field.name for field in fields(kind)]
    write_text(path, csv_text(names, ([_cell(getattr(row, name)) for name in names] for row in rows)))


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def markdown_table(
    results: Sequence[RunResult], differences: Sequence[PairedDifference], baselines: Sequence[Baseline]
) -> str:
    """Return a row per adapter: means over seeds, the spread over seeds of the score, the steps at which the plateau
    ended, differences to the reference and to the copy; then a row for each baseline, and what the intervals are."""
    lines = [
        "| adapter | alpha | parameters in the stem | adapter, bytes | s per step | MB | plateau ended at step "
        "(by seed) | train lDDT-Cα | val lDDT-Cα (sd over seeds) | less reference | less copy |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    known = {(difference.adapter, difference.reference == COPY): difference for difference in differences}
    for adapter in dict.fromkeys(result.adapter for result in results):
        rows = [result for result in results if result.adapter == adapter]
        scores = [row.val_lddt_ca for row in rows]
        spread = f"{np.std(scores, ddof=1):.3f}" if len(scores) > 1 else "-"
        alpha = "-" if math.isnan(rows[0].alpha) else f"{rows[0].alpha:g}"
        seconds, memory = np.mean([row.seconds_per_step for row in rows]), np.mean([row.memory_mb for row in rows])
        train = np.mean([row.train_lddt_ca for row in rows])
        ends = [row.plateau_end for row in rows]
        ended = ", ".join("never" if math.isnan(end) else f"{end:,.0f}" for end in ends) if baselines else "-"
        lines.append(
            f"| {adapter} | {alpha} | {rows[0].stem_parameters:,} | {rows[0].adapter_bytes:,} | {seconds:.3f} | "
            f"{memory:.0f} | {ended} | {train:.3f} | {np.mean(scores):.3f} ({spread}) | "
            f"{in_words(known.get((adapter, False)), 'reference')} | {in_words(known.get((adapter, True)), '-')} |"
        )
    means = _of_helix(baselines)
    for name, value in () if means is None else ((HELIX, means.helix), (COPY, means.copy)):
        if math.isfinite(value):
            lines.append(f"| {name} | - | 0 | 0 | - | - | - | - | {value:.3f} | - | - |")
    return "\n".join([*lines, "", _intervals_in_words(differences), *_baselines_in_words(baselines)]) + "\n"


def in_words(difference: PairedDifference | None, without: str = "") -> str:
    """Return the mean with its interval where there is one; ``without`` in place of no difference."""
    if difference is None:
        return without
    interval = "" if math.isnan(difference.low) else f" ({difference.low:+.3f} to {difference.high:+.3f})"
    return f"{difference.mean:+.3f}{interval}"


def _intervals_in_words(differences: Sequence[PairedDifference]) -> str:
    if any(not math.isnan(difference.low) for difference in differences):
        return "In brackets: 95% bootstrap intervals over seeds and targets, both resampled."
    seeds = max((difference.seeds for difference in differences), default=0)
    if seeds < FEWEST_SEEDS:
        return f"No intervals: fewer than {FEWEST_SEEDS} seeds cannot tell how far apart seeds lie."
    return "No intervals: a single target cannot tell how far apart targets lie."


def _baselines_in_words(baselines: Sequence[Baseline]) -> list[str]:
    """What the baselines are and where the plateau ends, if they are known."""
    if not baselines:
        return []
    return [
        f"Without a model: {means_in_words(baselines)}; the copy is of the training chains of these runs. The plateau "
        f"ends with the first round of validation whose mean is more than {OFF_THE_PLATEAU} above the helix."
    ]
