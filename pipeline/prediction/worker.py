"""One model on one device: folds batches, and falls back when memory ends."""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.config.device import free_bytes, is_out_of_memory
from pipeline.folding.model import FoldingModel
from pipeline.prediction.files import Format, write_files
from pipeline.prediction.fold import Prediction, PredictionError, fold_batch
from pipeline.prediction.linker import linked_length
from pipeline.prediction.memory import SHARE, MemoryModel, capped, size_text
from pipeline.prediction.modelcif_file import Origin
from pipeline.prediction.relaxation import RelaxationError, alpha_carbon_shift, relax
from pipeline.prediction.rows import PredictionRow, done_row, failed_row, relaxed_row, same_as, unrelaxed_row
from pipeline.prediction.sequences import Query

CHUNKS = (64, 16, 4, 1)
"""Rows of the pair representation at a time, where those that the trunk chooses are too many."""

CPU = torch.device("cpu")

Event = PredictionRow | str
"""A row, or a line for the screen."""


@dataclass(frozen=True)
class Output:
    """What is made of a prediction."""

    directory: Path
    file_format: Format
    origin: Origin
    relax: bool = False
    """Relaxed structures beside the model's own."""


class Worker:
    """Folds and writes batches with one model."""

    def __init__(
        self,
        model: FoldingModel,
        device: torch.device,
        output: Output,
        *,
        num_recycles: int,
        max_memory: int | None = None,
        share: float = SHARE,
    ) -> None:
        """``max_memory``: bytes beyond the weights; None: ``share`` of what is free once the weights are there."""
        self.model = model.to(device)
        self.device = device
        self.output = output
        self.num_recycles = num_recycles
        self._max_memory, self._share = max_memory, share
        self.memory = self._memory_model()
        self._chunk_to(0)  # sequences come shortest first, so pieces only get smaller

    def _memory_model(self) -> MemoryModel:
        budget = int(self._share * free_bytes(self.device)) if self._max_memory is None else self._max_memory
        self._cap = budget
        return MemoryModel(self.model.config, self.device, budget)

    def process(self, batch: Sequence[Query], same: dict[str, list[Query]]) -> Iterator[Event]:
        """Fold a batch, shortest first, and write it: a row per query, lines where something was fallen back to.

        ``same``: by key, the queries with the same sequence, which all get the files of one prediction.
        """
        parts = [(list(batch), ())]
        while parts:
            part, notes = parts.pop()
            made_room = list(self._make_room(part))
            yield from made_room
            notes = (*notes, *made_room)
            size, length = len(part), linked_length(part[-1])
            chunk, device = self._chunk, self.device
            refusal = self._too_large(part)
            if refusal:
                for query in part:
                    yield from (failed_row(one, refusal, notes=notes) for one in same[query.key])
                continue
            started = time.perf_counter()
            predictions, problem, ended = self._fold(part)
            how = {"device": str(device), "batch_size": size, "chunk_size": chunk or None, "notes": notes}
            if predictions is not None:
                seconds = time.perf_counter() - started
                total = sum(query.length for query in part)
                for prediction in predictions:
                    yield from self._write(prediction, same, seconds * prediction.query.length / total, how)
            elif not ended:
                if size > 1:  # one of them is to blame: each on its own
                    parts += [([query], notes) for query in reversed(part)]
                else:
                    yield from (failed_row(one, problem, notes=notes) for one in same[part[0].key])
            else:
                what = f"memory of {device} ended with {size} x {length} residues"
                if size > 1:
                    self.memory.budget = min(self.memory.budget, int(0.9 * self.memory.estimate(size, length, chunk)))
                    said = f"{what}: going on with {(size + 1) // 2} at a time"
                    parts += [(part[size // 2 :], (*notes, said)), (part[: size // 2], (*notes, said))]
                elif self._take_smaller_pieces(length):
                    said = f"{what}: going on in pieces of {self._chunk} rows"
                    parts.append((part, (*notes, said)))
                elif device != CPU:
                    said = f"{what}, in the smallest pieces: going on with the CPU"
                    self._to_cpu()
                    parts.append((part, (*notes, said)))
                else:
                    said = f"{what}, in the smallest pieces"
                    yield from (failed_row(one, said, notes=notes) for one in same[part[0].key])
                yield said

    def _fold(self, part: list[Query]) -> tuple[list[Prediction] | None, str, bool]:
        """Predictions; or None, the reason in a line, and whether it is that memory ended."""
        self.memory.start()
        try:
            with capped(self.device, self._cap):
                predictions = fold_batch(self.model, part, self.device, self.num_recycles)
        except (PredictionError, RuntimeError, MemoryError) as error:
            # Returned and not handled here: as long as the error is there, so are the tensors of the failed call.
            result = (None, str(error).strip().splitlines()[0] if str(error) else type(error).__name__)
            ended = is_out_of_memory(error)
        else:
            self.memory.learn(len(part), linked_length(part[-1]), self._chunk)
            return predictions, "", False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return *result, ended

    def _make_room(self, part: list[Query]) -> Iterator[str]:
        """Smaller pieces, then the CPU, where the estimate of a single query is above the budget."""
        if len(part) > 1:
            return
        length = linked_length(part[0])
        while self._needs(length) > self.memory.budget:
            needed, free = size_text(self._needs(length)), size_text(self.memory.budget)
            what = f"{length} residues need about {needed}, {free} are free on {self.device}"
            if self._take_smaller_pieces(length):
                yield f"{what}: in pieces of {self._chunk} rows from here on"
            elif self.device != CPU:
                self._to_cpu()
                yield f"{what}: with the CPU from here on"
            else:
                return

    def _needs(self, length: int) -> int:
        return self.memory.estimate(1, length, self._chunk)

    def _too_large(self, part: list[Query]) -> str:
        length = linked_length(part[0])
        if len(part) > 1 or self._needs(length) <= self.memory.budget:
            return ""
        return (
            f"{length} residues need about {size_text(self._needs(length))} even in the smallest pieces, and "
            f"{size_text(self.memory.budget)} are free: a larger machine, --max-memory, or a part of the sequence"
        )

    def _take_smaller_pieces(self, length: int) -> bool:
        """Whether there are smaller ones than the trunk works in; from here on it does."""
        rows = self.model.trunk.chunk_size_for(length)
        smaller = next((size for size in CHUNKS if size < rows), None)
        if smaller is not None:
            self._chunk_to(smaller)
        return smaller is not None

    def _chunk_to(self, size: int) -> None:
        """``size`` rows at a time; 0: as the trunk chooses."""
        self._chunk = size
        self.model.trunk.set_chunk_size(size)

    def _to_cpu(self) -> None:
        self.model.to(CPU)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.device, self._max_memory = CPU, None
        self._chunk_to(0)
        self.memory = self._memory_model()

    def _write(
        self, prediction: Prediction, same: dict[str, list[Query]], seconds: float, how: dict
    ) -> Iterator[PredictionRow]:
        """Files and rows of a prediction, for each of the queries that share it."""
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
                if self.output.relax:
                    first, relaxed = self._relax(prediction, first)
                yield first
            else:
                if relaxed is not None:
                    self._files(replace(relaxed, query=query))
                yield same_as(first, query, files[0])

    def _files(self, prediction: Prediction) -> list[str]:
        return write_files(self.output.directory, prediction, self.output.file_format, self.output.origin)

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
