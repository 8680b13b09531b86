"""How training ends: at its end, interrupted, or failed."""

from dataclasses import dataclass


class TrainingError(RuntimeError):
    """A run that failed; the message is one line."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the state up to the last step is saved."""


class TimeUp(Interrupted):
    """The time of ``--max-minutes`` is over; the state up to the last step is saved."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run says of itself."""

    step: int
    validation: dict[int, float]
    """Mean lDDT-Calpha by step."""
    best_step: int | None
    """Step of the best round; None without validation."""
    stopped_early: bool
    seconds_per_step: float
    """Median."""
    share_waiting: float
    """Part of the time of the steps that was spent waiting for data."""
    memory_mb: float
