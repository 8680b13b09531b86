"""Work spread over processes that neither outlive nor outwait each other, and what signals do meanwhile."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import TypeVar

from data_prep.files.errors import RunError

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def handled_by(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Within the block ``handler`` gets these signals, but outside the main thread, where Python takes none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessKilledError(RunError):
    """A worker process ended before its work was done, as the system ends one that takes too much memory."""


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    *,
    prepare: Callable[..., None] | None = None,
    prepare_with: tuple = (),
) -> Iterator[Result]:
    """``work`` of each item as it is done, in any order, in ``jobs`` fresh processes (here, if that is one or less).

    ``prepare(*prepare_with)`` is called once in each process. An interrupt lets what has begun come to its end, and a
    process ends with its parent, however that ends. Raises what ``work`` raises, and ``ProcessKilledError``.
    """
    if min(jobs, len(items)) <= 1:
        if prepare is not None:
            prepare(*prepare_with)
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(items)), context, _begin, (prepare, prepare_with))
    try:
        # Processes inherit what is ignored: an interrupt of the whole group is the parent's affair.
        with handled_by(signal.SIG_IGN, signal.SIGINT):
            begun: list[Future[Result]] = [pool.submit(work, item) for item in items]
        for done in as_completed(begun):
            yield done.result()
    except BrokenProcessPool:
        raise ProcessKilledError("a worker process was killed, for want of memory perhaps") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(prepare: Callable[..., None] | None, prepare_with: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*prepare_with)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
