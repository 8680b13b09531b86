"""Fold all queries: who goes together, one model on one device with its fallbacks when memory ends, several devices.

Sequences come shortest first, in batches of like lengths that are within the budget of memory. When memory ends all the
same, a batch is halved, then the trunk works in smaller pieces, then the model moves to the CPU; each step is a line.
"""

import gc
import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

import torch

from pipeline.config.device import free_bytes, is_out_of_memory, pick_device
from pipeline.folding.model import FoldingModel
from pipeline.folding.trunk import peak_bytes
from pipeline.prediction.files import Format, write_files
from pipeline.prediction.fold import Prediction, PredictionError, fold_batch
from pipeline.prediction.loading import Loaded, Source, load
from pipeline.prediction.relaxation import RelaxationError, alpha_carbon_shift, relax
from pipeline.prediction.report import StructureDetail, structure_detail
from pipeline.prediction.rows import PredictionRow, done_row, failed_row, relaxed_row, same_as, unrelaxed_row
from pipeline.prediction.sequences import Query

SHARE = 0.8
"""Of the memory that is free: other programs and the fragments of the allocator take some."""
STEM_HEADS = 40
"""Attention heads of ESM-2 3B, whose weights of one layer are there at a time."""
CHUNKS = (64, 16, 4, 1)
"""Rows of the pair representation at a time, where those that the trunk chooses are too many."""
MIN_FILL = 0.75
"""Length of the shortest to the longest of a batch: padding is computed with, and thrown away."""
GROUP_BATCHES = 4
"""A process gets this many batches' worth of queries at a time: few messages, and the devices end together."""

CPU = torch.device("cpu")

Event = PredictionRow | StructureDetail | str
"""A row, before it what the page shows of the structure, or a line for the screen."""


@dataclass(frozen=True)
class Plan:
    """Everything but the queries."""

    source: Source
    out: Path
    file_format: Format
    devices: tuple[str, ...]
    num_recycles: int
    max_memory: int | None = None
    """bytes beyond the weights, per process; None: measured."""
    max_residues: int = 1024
    """Per batch, with padding."""
    cpu_threads: int = 0
    """0: as many as torch finds cores, shared by the processes."""
    relax: bool = False
    """Relaxed structures beside the model's own."""
    page: bool = True
    """There will be a page."""


def fold_all(plan: Plan, loaded: Loaded, queries: Sequence[Query]) -> Iterator[Event]:
    """Fold and write ``queries``; with several devices in one process each, which load the model themselves.

    Raises PredictionError where no process can work, ConfigError for a device that cannot be used.
    """
    groups = shared(queries)
    firsts = by_length(group[0] for group in groups.values())
    if len(plan.devices) > 1 and len(firsts) > 1:
        yield from _run_processes(plan, groups, firsts)
        return
    worker = Worker(plan, loaded, plan.devices[0])
    for batch in worker.batches(firsts):
        yield from worker.process(batch, groups)


def by_length(queries: Iterable[Query]) -> list[Query]:
    """Shortest first: results come early, and pieces only get smaller."""
    return sorted(queries, key=lambda query: (query.linked_length, query.name))


def shared(queries: Iterable[Query]) -> dict[str, list[Query]]:
    """Queries by their key, in order: those under one key have the same prediction and are folded once."""
    groups: dict[str, list[Query]] = {}
    for query in queries:
        groups.setdefault(query.key, []).append(query)
    return groups


def size_text(size: int) -> str:
    """``61.2 GiB``, below one ``58 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.0f} MiB"


def bytes_needed(model: FoldingModel, device: torch.device, batch: int, length: int, chunk_size: int = 0) -> int:
    """Bytes beyond the weights that a batch padded to ``length`` takes: the trunk's peak, logits, the stem's attention.

    ``chunk_size`` is the trunk's, 0: as it chooses.
    """
    trunk, heads = model.config.trunk, model.config.heads
    bins = heads.distogram_bins + (heads.pae_bins if heads.pae else 0)
    pair = peak_bytes(trunk, batch, length, chunk_size=chunk_size, device=device.type)
    return pair + 4 * batch * length * length * (2 * bins + STEM_HEADS)


class Worker:
    """Folds and writes batches with one model on one device."""

    def __init__(self, plan: Plan, loaded: Loaded, device: str, processes: int = 1) -> None:
        """``processes``: how many share the device and the CPU's threads."""
        threads = plan.cpu_threads or loaded.model.config.training.cpu_threads
        if not threads and processes > 1:
            threads = max(1, torch.get_num_threads() // processes)
        if threads:
            torch.set_num_threads(threads)
        self.plan = plan
        self.about = loaded.description
        self.device = pick_device(device)
        self.model = loaded.model.to(self.device)
        self._share = SHARE / processes
        self.budget = plan.max_memory or self._free()
        """bytes beyond the weights that a batch may take."""
        self._chunk_to(0)

    def batches(self, queries: Sequence[Query]) -> Iterator[list[Query]]:
        """Batches of sorted queries, each planned when it is asked for, with the budget of then.

        A batch is within the budget and at most ``max_residues`` with padding, or is a single query.
        """
        waiting = deque(queries)
        while waiting:
            batch = [waiting.popleft()]
            while waiting:
                length, size = waiting[0].linked_length, len(batch) + 1
                full = size * length > self.plan.max_residues or self.needs(length, size) > self.budget
                if full or batch[0].linked_length < MIN_FILL * length:
                    break
                batch.append(waiting.popleft())
            yield batch

    def process(self, batch: Sequence[Query], same: dict[str, list[Query]]) -> Iterator[Event]:
        """Fold a batch, shortest first, and write it: a row per query, lines where something was fallen back to.

        ``same``: by key, the queries with the same sequence, which all get the files of one prediction.
        """
        parts: list[tuple[list[Query], tuple[str, ...]]] = [(list(batch), ())]
        while parts:
            part, notes = parts.pop()
            size, length = len(part), part[-1].linked_length
            if size == 1:
                said = list(self._make_room(length))
                yield from said
                notes = (*notes, *said)
            if size == 1 and self.needs(length) > self.budget:
                yield from (failed_row(one, self.refusal(length), notes=notes) for one in same[part[0].key])
                continue
            how = {"device": str(self.device), "batch_size": size, "chunk_size": self.chunk or None, "notes": notes}
            started = time.perf_counter()
            folded, ended = self._fold(part)
            if not isinstance(folded, str):
                seconds = time.perf_counter() - started
                total = sum(query.length for query in part)
                for prediction in folded:
                    yield from self._write(prediction, same, seconds * prediction.query.length / total, how)
            elif not ended and size > 1:  # one of them is to blame: each on its own
                parts += [([query], notes) for query in reversed(part)]
            elif not ended:
                yield from (failed_row(one, folded, notes=notes) for one in same[part[0].key])
            else:
                line = f"memory of {self.device} ended with {size} x {length} residues"
                if size > 1:
                    self.budget = min(self.budget, int(0.9 * self.needs(length, size)))
                    line += f": going on with {(size + 1) // 2} at a time"
                    parts += [(part[size // 2 :], (*notes, line)), (part[: size // 2], (*notes, line))]
                elif step := self._step_down(length):
                    line += f"{'' if step.startswith('in') else ', in the smallest pieces'}: going on {step}"
                    parts.append((part, (*notes, line)))
                else:
                    line += ", in the smallest pieces"
                    yield from (failed_row(one, line, notes=notes) for one in same[part[0].key])
                yield line

    def needs(self, length: int, size: int = 1) -> int:
        """Bytes that a batch of ``size`` queries takes, as an estimate."""
        return bytes_needed(self.model, self.device, size, length, self.chunk)

    def refusal(self, length: int) -> str:
        """Why a query is not begun."""
        return (
            f"{length} residues need about {size_text(self.needs(length))} even in the smallest pieces, and "
            f"{size_text(self.budget)} are free: a larger machine, --max-memory, or a part of the sequence"
        )

    def _free(self) -> int:
        return int(self._share * free_bytes(self.device))

    def _fold(self, part: list[Query]) -> tuple[list[Prediction] | str, bool]:
        """Predictions, or the reason in a line why there are none and whether it is that memory ended."""
        try:
            return fold_batch(self.model, part, self.device, self.plan.num_recycles), False
        except (PredictionError, RuntimeError, MemoryError) as error:
            # Returned and not handled here: as long as the error is there, so are the tensors of the failed call.
            result = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            ended = is_out_of_memory(error)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return result, ended

    def _make_room(self, length: int) -> Iterator[str]:
        """Step down while the estimate of a single query is above the budget."""
        while (needed := self.needs(length)) > self.budget:
            free = f"{size_text(self.budget)} are free on {self.device}"
            step = self._step_down(length)
            if not step:
                return
            yield f"{length} residues need about {size_text(needed)}, {free}: {step} from here on"

    def _step_down(self, length: int) -> str:
        """Take smaller pieces than the trunk works in, else the CPU; says which. Empty: there is neither."""
        rows = self.model.trunk.chunk_size_for(length)
        smaller = next((size for size in CHUNKS if size < rows), None)
        if smaller is not None:
            self._chunk_to(smaller)
            return f"in pieces of {smaller} rows"
        if self.device == CPU:
            return ""
        on_cuda = self.device.type == "cuda"
        self.device, self.model = CPU, self.model.to(CPU)
        if on_cuda:
            torch.cuda.empty_cache()
        self.budget = self._free()  # --max-memory was that of the other device
        self._chunk_to(0)
        return "with the CPU"

    def _chunk_to(self, size: int) -> None:
        """``size`` rows at a time; 0: as the trunk chooses."""
        self.chunk = size
        self.model.trunk.set_chunk_size(size)

    def _write(
        self, prediction: Prediction, same: dict[str, list[Query]], seconds: float, how: dict
    ) -> Iterator[PredictionRow | StructureDetail]:
        """Files, details and rows of a prediction, for each of the queries that share it."""
        started = time.perf_counter()
        first: PredictionRow | None = None
        relaxed: Prediction | None = None
        for query in same[prediction.query.key]:
            try:
                prediction = replace(prediction, query=query)
                files = self._files(prediction)
            except PredictionError as error:
                yield failed_row(query, str(error), **how)
                continue
            if first is None:
                first = done_row(prediction, files, seconds + time.perf_counter() - started, **how)
                if self.plan.relax:
                    first, relaxed = self._relax(prediction, first)
                row = first
            else:
                if relaxed is not None:
                    self._files(replace(relaxed, query=query))
                row = same_as(first, query, files[0])
            if self.plan.page:
                yield structure_detail(query.name, prediction, relaxed)
            yield row

    def _files(self, prediction: Prediction) -> list[str]:
        return write_files(self.plan.out, prediction, self.plan.file_format, self.about)

    def _relax(self, prediction: Prediction, row: PredictionRow) -> tuple[PredictionRow, Prediction | None]:
        """The row with what became of the relaxation; the relaxed prediction, whose files are written, if it worked."""
        started = time.perf_counter()
        try:
            relaxed = relax(prediction)
            self._files(relaxed)
        except (RelaxationError, PredictionError) as error:
            return unrelaxed_row(row, str(error)), None
        shift, seconds = alpha_carbon_shift(prediction, relaxed), time.perf_counter() - started
        return relaxed_row(row, relaxed, shift, seconds), relaxed


@dataclass(eq=False)
class _Peer:
    """A process, and what it is folding."""

    device: str
    process: multiprocessing.process.BaseProcess
    portion: list[Query]
    finished: set[str]


def _run_processes(plan: Plan, groups: dict[str, list[Query]], firsts: list[Query]) -> Iterator[Event]:
    """A process per device; each asks for queries when it has none.

    A process that the system kills, as for want of memory, is replaced; what it had not finished is folded one by one,
    and the query during which a process ends again fails. Raises PredictionError where no process can work.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(_portions(firsts, plan.max_residues * GROUP_BATCHES))
    open_of: dict[Connection, _Peer] = {}

    def start(device: str) -> None:
        ours, theirs = context.Pipe()
        arguments = (theirs, plan, device, plan.devices.count(device))
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        open_of[ours] = _Peer(device, process, [], set())

    try:
        for device in plan.devices:
            start(device)
        while open_of:
            for ready in wait(list(open_of)):
                connection = cast(Connection, ready)
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
                        start(peer.device)
                    continue
                if message is None:
                    peer.portion, peer.finished = waiting.popleft() if waiting else [], set()
                    connection.send((peer.portion, {query.key: groups[query.key] for query in peer.portion}))
                elif isinstance(message, BaseException):
                    raise message
                else:
                    if isinstance(message, PredictionRow):
                        peer.finished.add(message.sequence_sha256)
                    yield message
        if waiting:
            raise PredictionError(f"the processes on {', '.join(plan.devices)} ended before they could fold anything")
    finally:
        for peer in open_of.values():
            peer.process.terminate()
        for peer in open_of.values():
            peer.process.join()


def _serve(connection: Connection, plan: Plan, device: str, sharing: int) -> None:
    """A process: asks for queries with None, answers with events, ends when it is sent none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    try:
        worker = Worker(plan, load(plan.source), device, sharing)
        while True:
            connection.send(None)
            portion, groups = connection.recv()
            if not portion:
                break
            for batch in worker.batches(portion):
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
