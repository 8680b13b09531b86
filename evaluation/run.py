"""Runs through the targets: progress on a terminal, finished targets kept as they end, those kept before taken."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import track

from evaluation.evaluate import Row, Settings, evaluate
from evaluation.journal import Journal
from evaluation.targets import Target


def run_targets(
    targets: Sequence[Target], settings: Settings, out: Path | None = None, resume: bool = False, jobs: int = 1
) -> tuple[list[Row], int]:
    """Scores the targets, or takes what an earlier run in the same directory found.

    Args:
        targets: what to score; their names differ.
        settings: how.
        out: a directory in which finished targets are kept as the run goes on; None keeps nothing.
        resume: take from ``out`` the targets that were scored with the same settings from the same files.
        jobs: processes.

    Returns:
        The rows in the order of the targets, and how many of them were taken.

    Raises:
        UsageError: ``out`` holds a run with other settings.
        WorkerError: one of the processes was killed.
    """
    rows: dict[str, Row] = {}
    with nullcontext() if out is None else Journal(out, settings, resume) as journal:
        if journal is not None and resume:
            rows = {target.name: row for target in targets if (row := journal.finished(target)) is not None}
        taken = len(rows)
        rest = [target for target in targets if target.name not in rows]
        terminal = Console(stderr=True)
        scored = track(
            evaluate(rest, settings, jobs),
            total=len(rest),
            description="scoring",
            console=terminal,
            transient=True,
            disable=not terminal.is_terminal,
        )
        for target, row in zip(rest, scored, strict=True):
            rows[target.name] = row
            if journal is not None:
                journal.add(target, row)
        ordered = [rows[target.name] for target in targets]
        if journal is not None:
            journal.close_with(targets, ordered)
    return ordered, taken
