"""All queries through one or several devices: rows and lines as they come."""

import multiprocessing
import multiprocessing.connection
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.config.device import pick_device
from pipeline.prediction.batching import batches, by_length, shared
from pipeline.prediction.fold import PredictionError
from pipeline.prediction.loading import Loaded, Source, load
from pipeline.prediction.memory import SHARE
from pipeline.prediction.rows import failed_row
from pipeline.prediction.sequences import Query
from pipeline.prediction.worker import Event, Output, Worker

GROUP_BATCHES = 4
"""A process gets this many batches' worth of queries at a time: few messages, and the devices end together."""


@dataclass(frozen=True)
class Plan:
    """Everything but the queries."""

    source: Source
    output: Output
    devices: tuple[str, ...]
    num_recycles: int
    max_memory: int | None
    """bytes beyond the weights, per process; None: measured."""
    max_residues: int
    """Per batch, with padding."""
    cpu_threads: int
    """0: as many as torch finds cores, shared by the processes."""


def run(plan: Plan, loaded: Loaded, queries: Sequence[Query]) -> Iterator[Event]:
    """Fold and write ``queries``; with several devices in one process each, which load the model themselves.

    Raises PredictionError where no process can work.
    """
    groups = shared(queries)
    firsts = by_length(group[0] for group in groups.values())
    if len(plan.devices) > 1 and len(firsts) > 1:
        yield from _run_processes(plan, groups, firsts)
        return
    worker = _worker(plan, loaded, plan.devices[0], 1)
    for batch in batches(firsts, worker, plan.max_residues):
        yield from worker.process(batch, groups)


def _worker(plan: Plan, loaded: Loaded, device: str, processes: int) -> Worker:
    threads = plan.cpu_threads or loaded.model.config.training.cpu_threads
    if not threads and processes > 1:
        threads = max(1, torch.get_num_threads() // processes)
    if threads:
        torch.set_num_threads(threads)
    return Worker(
        loaded.model,
        pick_device(device),
        plan.output,
        num_recycles=plan.num_recycles,
        max_memory=plan.max_memory,
        share=SHARE / processes,
    )


def _run_processes(plan: Plan, groups: dict[str, list[Query]], firsts: list[Query]) -> Iterator[Event]:
    """A process per device; each asks for queries when it has none.

    A process that the system kills, as for want of memory, is replaced; what it had not finished is folded one by one,
    and the query during which a process ends again fails. Raises PredictionError where no process can work.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(_portions(firsts, plan.max_residues * GROUP_BATCHES))
    open_of: dict[multiprocessing.connection.Connection, _Peer] = {}
    same_device = {device: plan.devices.count(device) for device in plan.devices}
    try:
        for device in plan.devices:
            _start(context, plan, device, same_device[device], open_of)
        while open_of:
            for connection in multiprocessing.connection.wait(list(open_of)):
                peer = open_of[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    del open_of[connection]
                    peer.process.join()
                    left = [query for query in peer.portion if query.key not in peer.finished]
                    if not left:
                        continue
                    how = f"the process on {peer.device} ended with code {peer.process.exitcode}"
                    if len(left) == 1:
                        reason = f"{how} while it folded this: is there enough memory?"
                        yield from (failed_row(one, reason) for one in groups[left[0].key])
                    else:
                        yield f"{how}: its {len(left)} sequences go on one by one"
                        waiting.extendleft([query] for query in reversed(left))
                    if waiting:
                        _start(context, plan, peer.device, same_device[peer.device], open_of)
                    continue
                if message is None:
                    peer.portion, peer.finished = waiting.popleft() if waiting else [], set()
                    connection.send((peer.portion, {query.key: groups[query.key] for query in peer.portion}))
                elif isinstance(message, BaseException):
                    raise message
                else:
                    if not isinstance(message, str):
                        peer.finished.add(message.sequence_sha256)
                    yield message
        if waiting:
            raise PredictionError(f"the processes on {', '.join(plan.devices)} ended before they could fold anything")
    finally:
        for peer in open_of.values():
            peer.process.terminate()
        for peer in open_of.values():
            peer.process.join()


@dataclass(eq=False)
class _Peer:
    device: str
    process: multiprocessing.process.BaseProcess
    portion: list[Query]
    finished: set[str]


def _start(context, plan: Plan, device: str, sharing: int, open_of: dict) -> None:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, plan, device, sharing), daemon=True)
    process.start()
    theirs.close()
    open_of[ours] = _Peer(device, process, [], set())


def _serve(connection: multiprocessing.connection.Connection, plan: Plan, device: str, sharing: int) -> None:
    """A process: asks for queries with None, answers with events, ends when it is sent none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    try:
        worker = _worker(plan, load(plan.source), device, sharing)
        while True:
            connection.send(None)
            portion, groups = connection.recv()
            if not portion:
                break
            for batch in batches(portion, worker, plan.max_residues):
                for event in worker.process(batch, groups):
                    connection.send(event)
    except (EOFError, BrokenPipeError):  # the parent is gone
        sys.exit(1)
    except Exception as error:  # for the parent, which knows how to say it
        connection.send(error)


def _portions(queries: Sequence[Query], residues: int) -> Iterator[list[Query]]:
    """Sorted queries in runs of at most ``residues``, at least one query each."""
    portion: list[Query] = []
    for query in queries:
        if portion and sum(one.length for one in portion) + query.length > residues:
            yield portion
            portion = []
        portion.append(query)
    if portion:
        yield portion
