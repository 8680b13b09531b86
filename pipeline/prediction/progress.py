"""How far a command is: sequences, residues per second, time left."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pipeline.prediction.batching import work
from pipeline.prediction.rows import PredictionRow
from pipeline.prediction.sequences import Query

LINE_EVERY = 30.0
"""Seconds between lines where the screen is a file."""


class FoldingProgress:
    """A bar on a terminal, a line now and then elsewhere. Use as a context manager."""

    def __init__(self, console: Console, queries: Iterable[Query]) -> None:
        self._work = {query.name: work(query) for query in queries}
        self._left = sum(self._work.values())
        self._count = len(self._work)
        self._console = console
        self._done = self._residues = 0
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("folding"), BarColumn(), TextColumn("{task.fields[text]}"), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("folding", total=self._left, text=f"0 of {self._count}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def add(self, row: PredictionRow) -> None:
        """Count a row."""
        self._done += 1
        self._residues += row.length or 0
        amount = self._work.pop(row.name, 0.0)
        self._left -= amount
        self._bar.update(self._task, advance=amount, text=self.text())
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self._console.print(self.text())

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line)

    def text(self) -> str:
        """``12 of 340 sequences, 85 residues/s, 14 min left``."""
        passed = max(time.monotonic() - self._started, 1e-6)
        done = self._bar.tasks[self._task].completed
        parts = [f"{self._done} of {self._count} sequences", f"{self._residues / passed:.0f} residues/s"]
        if done > 0 and self._work:
            parts.append(f"{duration(self._left * passed / done)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
