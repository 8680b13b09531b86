"""What a person sees of a running training, and how it is stopped."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from data_prep.files.workers import handled_by

PLAIN_PROGRESS_SECONDS = 20.0
"""Between two lines of progress where there is no terminal to draw a bar on."""

STOPPING = b"\nstopping, and saving what is done; Ctrl-C again stops at once and does not save\n"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or SIGTERM came; a second Ctrl-C stops at once.

    Under a launcher one Ctrl-C arrives twice: as SIGINT from the terminal and as SIGTERM from the launcher.
    """
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        if not received and os.environ.get("LOCAL_RANK", "0") == "0":
            with suppress(OSError):
                os.write(2, STOPPING)  # in a handler the streams of Python may be in the middle of something
        received.append(number)

    with handled_by(handler, signal.SIGINT, signal.SIGTERM):
        yield lambda: bool(received)


class Clock:
    """The time of one invocation: whether it is over, and whether the next checkpoint is due."""

    def __init__(self, max_minutes: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """``max_minutes``: from now on; None: without end. ``now``: seconds."""
        self.now = now
        self.saved = now()
        self.end = math.inf if max_minutes is None else self.saved + 60 * max_minutes

    def is_over(self) -> bool:
        """Whether the time of the invocation is over."""
        return self.now() >= self.end

    def is_due(self, minutes: float) -> bool:
        """Whether ``minutes`` have passed since ``saved_now``; 0: never."""
        return 0 < 60 * minutes <= self.now() - self.saved

    def saved_now(self) -> None:
        """Count from now to the next checkpoint."""
        self.saved = self.now()


class ProgressOfSteps:
    """What has been seen so far, as a line."""

    def __init__(self, console: Console, start: int, total: int) -> None:
        self.console = console
        self.total = total
        self.step = self.start = start
        self.samples = 0
        self.loss = self.score = math.nan
        self.memory = 0.0
        self.begun = self.last = time.perf_counter()
        self.paused = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def line(self) -> str:
        """Loss, validation, speed, memory and the time that is left."""
        seconds = max(time.perf_counter() - self.begun - self.paused, 1e-9)
        done = self.step - self.start
        parts = [f"loss {self.loss:.3f}"]
        if not math.isnan(self.score):
            parts.append(f"lDDT {self.score:.3f}")
        parts += [f"{self.samples / seconds:.2f} samples/s", f"{self.memory / 1024:.1f} GB"]
        if done:
            parts.append(f"{duration(seconds / done * (self.total - self.step))} left")
        return "  ".join(parts)

    def advance(self, *, step: int, loss: float, samples: int, memory: float) -> None:
        """A step is done: its loss, samples in it, MB in use."""
        self.step, self.loss, self.memory = step, loss, memory
        self.samples += samples
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, state=self.line())  # type: ignore[arg-type]
        elif now - self.last >= PLAIN_PROGRESS_SECONDS:
            self.last = now
            self.console.print(f"step {step}/{self.total}  {self.line()}")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The block is no training: it does not count in the speed."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - started

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A bar on a terminal, a line now and then elsewhere."""
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, console=self.console) as self._bar:
            self._task = self._bar.add_task("training", total=self.total, completed=self.step, state="")
            yield


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 72:
        return f"{hours / 24:.0f} days"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
