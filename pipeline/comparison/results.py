"""What the arms of a comparison reached, and how sure that is."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from data_prep.structure_bytes import atomic_write
from evaluation.statistics import Estimate, estimate
from pipeline.comparison.arms import TRAIN_SCORES, Arm
from pipeline.run import RunDirectory
from pipeline.training.tables import read_rows
from pipeline.training.validation import validation_history


@dataclass(frozen=True)
class ArmResult:
    """One arm at its end; a row of ``arms.csv``."""

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


@dataclass(frozen=True)
class PairedDifference:
    """An adapter against the reference, target by target; a row of ``differences.csv``."""

    adapter: str
    reference: str
    targets: int
    seeds: int
    mean: float
    low: float
    """Lower end of the 95% bootstrap interval over targets."""
    high: float
    better: int
    """Targets with a higher score, mean over seeds."""


def arm_result(arm: Arm) -> ArmResult:
    """Read a finished arm."""
    run = RunDirectory(arm.path)
    parts, summary = run.info()["parameters"], run.summary()
    history = validation_history(run.validation_file, summary["step"])
    with (arm.path / TRAIN_SCORES).open(newline="") as stream:
        train = [float(row["lddt_ca"]) for row in csv.DictReader(stream)]
    alpha = arm.alpha()
    return ArmResult(
        adapter=arm.adapter.name,
        seed=arm.seed,
        alpha=math.nan if alpha is None else float(alpha),
        trained_parameters=sum(part["trainable"] for part in parts.values()),
        stem_parameters=sum(parts.get(name, {"trainable": 0})["trainable"] for name in ("stem", "adapter")),
        adapter_bytes=arm.adapter_bytes(),
        steps=summary["step"],
        seconds_per_step=summary["seconds_per_step"],
        memory_mb=round(summary["memory_mb"]),
        val_lddt_ca=history.get(summary["step"], math.nan),
        train_lddt_ca=float(np.mean(train)) if train else math.nan,
    )


def target_scores(arm: Arm) -> dict[str, float]:
    """lDDT-Calpha by validation chain in the last round."""
    run = RunDirectory(arm.path)
    last = run.summary()["step"]
    rows = read_rows(run.validation_file, last)
    return {row["target"]: float(row["lddt_ca"]) for row in rows if int(row["step"]) == last and row["lddt_ca"]}


def curve(arm: Arm) -> dict[int, float]:
    """Mean validation lDDT-Calpha by step."""
    run = RunDirectory(arm.path)
    return validation_history(run.validation_file, run.summary()["step"])


def paired_differences(
    scores: Mapping[str, Mapping[int, Mapping[str, float]]], reference: str
) -> list[PairedDifference]:
    """Each adapter less the reference, over the seeds and targets that both have.

    A target's difference is its mean over seeds; arms of one seed share initial weights, data and their order. The
    interval is over targets: it says how the mean would vary with other targets of the same kind.

    Args:
        scores: adapter -> seed -> target -> lDDT-Calpha.
        reference: the adapter that is subtracted.
    """
    found = []
    for adapter, by_seed in scores.items():
        if adapter == reference:
            continue
        seeds = sorted(by_seed.keys() & scores[reference].keys())
        by_target: dict[str, list[float]] = {}
        for seed in seeds:
            theirs, ours = scores[reference][seed], by_seed[seed]
            for target in sorted(theirs.keys() & ours.keys()):
                by_target.setdefault(target, []).append(ours[target] - theirs[target])
        means = [float(np.mean(values)) for values in by_target.values()]
        result: Estimate = estimate(means)
        blank = math.nan
        found.append(
            PairedDifference(
                adapter=adapter,
                reference=reference,
                targets=len(means),
                seeds=len(seeds),
                mean=blank if result.mean is None else result.mean,
                low=blank if result.low is None else result.low,
                high=blank if result.high is None else result.high,
                better=sum(mean > 0 for mean in means),
            )
        )
    return found


def write_csv(path: Path, kind: type, rows: Sequence[object]) -> None:
    """A table of dataclasses."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row).items()
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else _short(v) for k, v in values})
    atomic_write(path, text.getvalue().encode())


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def markdown_table(results: Sequence[ArmResult], differences: Sequence[PairedDifference]) -> str:
    """A row per adapter: means over seeds, and the spread over seeds of the score."""
    lines = [
        "| adapter | alpha | parameters in the stem | adapter, bytes | s per step | MB | train lDDT-Cα | val lDDT-Cα "
        "(sd over seeds) | less reference (95% interval over targets) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_adapter = {difference.adapter: difference for difference in differences}
    for adapter in dict.fromkeys(result.adapter for result in results):
        rows = [result for result in results if result.adapter == adapter]
        scores = [row.val_lddt_ca for row in rows]
        spread = f"{np.std(scores, ddof=1):.3f}" if len(scores) > 1 else "-"
        d = by_adapter.get(adapter)
        against = "reference" if d is None else f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
        alpha = "-" if math.isnan(rows[0].alpha) else f"{rows[0].alpha:g}"
        seconds, memory = np.mean([row.seconds_per_step for row in rows]), np.mean([row.memory_mb for row in rows])
        train = np.mean([row.train_lddt_ca for row in rows])
        lines.append(
            f"| {adapter} | {alpha} | {rows[0].stem_parameters:,} | {rows[0].adapter_bytes:,} | {seconds:.3f} | "
            f"{memory:.0f} | {train:.3f} | {np.mean(scores):.3f} ({spread}) | {against} |"
        )
    return "\n".join(lines) + "\n"
