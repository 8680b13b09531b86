"""What a person sees of a running training, and how it is stopped."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.training.proof import FactorProof, PartCount

PLAIN_PROGRESS_SECONDS = 20.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


def report_parameters(parts: Sequence[PartCount], console: Console) -> None:
    """Parameters by part, one line each."""
    console.print("Parameters (trainable / all):")
    for part in parts:
        console.print(f"  {part.part:<17}{part.trainable:>13,} / {part.total:,}")
    console.print(f"  {'together':<17}{sum(p.trainable for p in parts):>13,} / {sum(p.total for p in parts):,}")


def report_proof(proofs: Sequence[FactorProof], console: Console) -> None:
    """The gradient path, one line per factor."""
    if not proofs:
        console.print("Gradient path: no adapter; frozen parameters get no gradient.")
        return
    console.print("Gradient path of the adapter (gradient norm at step 0, and with the zero factors off zero):")
    for proof in proofs[:12]:
        shape = " x ".join(str(n) for n in proof.shape)
        console.print(
            f"  {proof.name:<20}{shape:>12}{proof.gradient_at_start:>12.3g}{proof.gradient_off_zero:>12.3g}"
            f"{'   starts at zero' if proof.starts_at_zero else ''}",
        )
    if len(proofs) > 12:
        console.print(f"  and {len(proofs) - 12} more factors, all with finite non-zero gradients where they should")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or SIGTERM came; a second Ctrl-C stops at once."""
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def progress_of_steps(console: Console, start: int, total: int) -> Iterator[Callable[[Mapping], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=total, completed=start, loss=float("nan"))
            yield lambda row: progress.update(task, advance=1, loss=row["loss"])
        return
    begun = last = time.perf_counter()

    def line(row: Mapping) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= PLAIN_PROGRESS_SECONDS:
            last = now
            left = (now - begun) / (row["step"] - start) * (total - row["step"])
            console.print(f"step {row['step']}/{total}  loss {row['loss']:.3f}  {left:.0f} s left")

    yield line
