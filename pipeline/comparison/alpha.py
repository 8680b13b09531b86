"""The LoRTA paper's rule for alpha: try 256 and 128 times the rank, halve both twice while neither converges, and take
the better one of the first pair in which one does."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from evaluation.baselines import standing
from pipeline.comparison.results import target_scores
from pipeline.comparison.variants import Variant
from pipeline.runs.directory import RunDirectory
from pipeline.runs.tables import read_rows, validation_history

FIRST = (256.0, 128.0)
"""alpha / rank of the first pair (LoRTA paper, appendix D.4)."""

SHARE = 10
"""The first and the last tenth of the steps are compared."""


@dataclass(frozen=True)
class Trial:
    """One alpha; a row of ``sweep.csv``."""

    adapter: str
    alpha: float
    converged: bool
    reason: str
    """Why it did not converge; empty if it did."""
    lddt_ca: float
    """Validation at the end; nan where it did not get there."""
    helix: float = math.nan
    """Mean lDDT-Calpha of a straight helix on the same chains; nan where it is not known."""
    copy: float = math.nan
    """The same of a copy of the nearest training chain."""
    words: str = ""
    """On which side of the two it is."""


def search(trial: Callable[[float], Trial], rank: int, pairs: int) -> list[Trial]:
    """Try alpha = 256 r and 128 r; where neither converges the next two halvings, and so on for ``pairs`` pairs."""
    done: list[Trial] = []
    for number in range(pairs):
        pair = [trial(first * rank / 4**number) for first in FIRST]
        done += pair
        if any(t.converged for t in pair):
            break
    return done


def best(trials: list[Trial]) -> Trial | None:
    """Return the converged trial of the highest score; None where no trial converged."""
    converged = [t for t in trials if t.converged]
    return max(converged, key=lambda t: -math.inf if math.isnan(t.lddt_ca) else t.lddt_ca, default=None)


def judge(variant: Variant, problem: str) -> Trial:
    """Whether a run converged: it came to its end, and its loss in the last tenth is below that in the first."""
    name, alpha = variant.adapter.name.rpartition(":")[0], variant.adapter.alpha or math.nan
    if problem:
        return Trial(name, alpha, False, problem, math.nan)
    run = RunDirectory(variant.path)
    step = run.summary()["step"]
    losses = [float(row["loss"]) for row in read_rows(run.metrics_file, step) if row["loss"]]
    part = max(1, len(losses) // SHARE)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    if last >= first:
        return Trial(name, alpha, False, f"loss from {first:.3g} to {last:.3g}", math.nan)
    found = standing(target_scores(variant), variant.baselines())
    beside = () if found is None else (found.helix, found.copy, str(found))
    return Trial(name, alpha, True, "", validation_history(run.validation_file, step).get(step, math.nan), *beside)
