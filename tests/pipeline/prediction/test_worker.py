"""Batches within a budget, duplicates once, and what happens when memory ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config.device import free_bytes, is_out_of_memory
from pipeline.prediction import engine
from pipeline.prediction.engine import Plan, Worker, by_length, bytes_needed, shared, size_text
from pipeline.prediction.fold import PredictionError, fold_batch
from pipeline.prediction.loading import Loaded, Source
from pipeline.prediction.rows import PredictionRow
from pipeline.prediction.sequences import single_chain

CPU = torch.device("cpu")


def queries(*lengths: int):
    rng = np.random.default_rng(0)
    return [single_chain(f"s{i}", "".join(rng.choice(list("ACDEFGHIKL"), n))) for i, n in enumerate(lengths)]


@pytest.fixture
def worker(esmfold_like, tmp_path):
    plan = Plan(Source("run"), tmp_path, "pdb", ("cpu",), num_recycles=0, max_memory=1 << 40, page=False)
    return Worker(plan, Loaded(esmfold_like, "", "a test", None), "cpu")


def process(worker, batch):
    events = list(worker.process(by_length(batch), shared(batch)))
    lines = [event for event in events if isinstance(event, str)]
    return lines, {event.name: event for event in events if isinstance(event, PredictionRow)}


def sizes(worker, found, max_residues):
    worker.plan = replace(worker.plan, max_residues=max_residues)
    return [[q.length for q in batch] for batch in worker.batches(by_length(found))]


def test_batches_are_of_like_lengths_and_within_the_limits(worker):
    found = queries(90, 10, 11, 12, 50, 52, 55, 600)
    assert sizes(worker, found, 200) == [[10, 11, 12], [50, 52, 55], [90], [600]]
    assert sizes(worker, found, 1) == [[n] for n in sorted(q.length for q in found)]
    worker.budget = worker.needs(52, 2)
    assert sizes(worker, found, 200) == [[10, 11, 12], [50, 52], [55], [90], [600]]


def test_sizes_are_in_words_of_their_own_scale():
    assert [size_text(n) for n in (0, 58 << 20, (1 << 30) - 1, 3 << 29, 10 << 30)] == [
        "0 MiB", "58 MiB", "1024 MiB", "1.5 GiB", "10.0 GiB"
    ]  # fmt: skip


def test_free_memory_is_a_number_of_this_machine():
    assert 0 < free_bytes(CPU) < 1 << 50


def test_same_sequences_are_folded_once(worker, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(engine, "fold_batch", lambda m, part, *a: calls.append(part) or fold_batch(m, part, *a))
    twins = [single_chain(name, "MKTAYIAKQR") for name in ("a", "b")]
    events = list(worker.process(twins[:1], shared(twins)))
    assert [row.name for row in events] == ["a", "b"] and len(calls) == 1
    assert events[1].notes == "same sequence as a: folded once" and events[1].seconds == 0 < events[0].seconds
    assert (tmp_path / "a.pdb").read_text() == (tmp_path / "b.pdb").read_text()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (PredictionError("x: not finite"), False),
    ],
)
def test_which_errors_mean_that_memory_ended(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_batches_are_halved_when_memory_ends(worker, monkeypatch):
    def fold(model, part, *rest):
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fold_batch(model, part, *rest)

    monkeypatch.setattr(engine, "fold_batch", fold)
    budget = worker.budget
    lines, rows = process(worker, queries(10, 11, 12))
    assert lines[0] == "memory of cpu ended with 3 x 12 residues: going on with 2 at a time"
    assert {row.status for row in rows.values()} == {"done"} and rows["s2"].batch_size == 1
    assert lines[0] in rows["s2"].notes and worker.budget < budget


def test_a_sequence_that_memory_is_not_enough_for_fails_alone(worker, monkeypatch):
    def fold(model, part, *rest):
        if max(query.length for query in part) > 11:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fold_batch(model, part, *rest)

    monkeypatch.setattr(engine, "fold_batch", fold)
    _, rows = process(worker, queries(10, 11, 12))
    assert [rows[name].status for name in ("s0", "s1", "s2")] == ["done", "done", "failed"]
    assert rows["s2"].reason == "memory of cpu ended with 1 x 12 residues, in the smallest pieces"
    said = rows["s2"].notes.split("; ")
    assert said[-1].endswith("going on in pieces of 1 rows")


def test_a_sequence_above_the_budget_is_not_begun(worker, monkeypatch):
    monkeypatch.setattr(engine, "fold_batch", lambda *a: pytest.fail("it was begun"))
    worker.budget = 1 << 30
    _, rows = process(worker, queries(10_000))
    assert rows["s0"].status == "failed" and "10000 residues need about" in rows["s0"].reason


def test_smaller_pieces_before_a_sequence_is_given_up(worker, monkeypatch):
    (query,) = queries(40)
    worker.budget = bytes_needed(worker.model, CPU, 1, 40, 16)
    assert worker.needs(40) > worker.budget, "or there is nothing to test"
    lines, rows = process(worker, [query])
    assert rows["s0"].status == "done" and rows["s0"].chunk_size == 16
    assert lines[-1].endswith("in pieces of 16 rows from here on") and rows["s0"].notes == lines[-1]


def test_one_bad_sequence_of_a_batch_does_not_take_the_others_along(worker, monkeypatch):
    def fold(model, part, *rest):
        if any(query.name == "s1" for query in part):
            raise PredictionError("s1: the model gave numbers that are not finite")
        return fold_batch(model, part, *rest)

    monkeypatch.setattr(engine, "fold_batch", fold)
    _, rows = process(worker, queries(10, 11, 12))
    assert [rows[name].status for name in ("s0", "s1", "s2")] == ["done", "failed", "done"]
    assert rows["s1"].reason == "s1: the model gave numbers that are not finite"


FIRST_CPU = torch.device("cpu:0")
"""Another device than ``cpu`` by its name: it stands for a GPU."""


def without_the_first_cpu(model, part, device, recycles):
    if device == FIRST_CPU:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return fold_batch(model, part, device, recycles)


@pytest.fixture
def worker_elsewhere(worker):
    worker.device = FIRST_CPU
    return worker


def test_a_device_whose_memory_ends_hands_over_to_the_cpu(worker_elsewhere, monkeypatch):
    monkeypatch.setattr(engine, "fold_batch", without_the_first_cpu)
    lines, rows = process(worker_elsewhere, queries(10, 11))
    assert "memory of cpu:0 ended with 1 x 10 residues, in the smallest pieces: going on with the CPU" in lines
    assert {row.status for row in rows.values()} == {"done"} and {row.device for row in rows.values()} == {"cpu"}
    assert worker_elsewhere.budget < 1 << 40, "measured anew: --max-memory was that of the other device"


def test_a_sequence_above_a_devices_budget_goes_to_the_cpu(worker_elsewhere):
    worker_elsewhere.budget = 1 << 20
    lines, rows = process(worker_elsewhere, queries(40))
    assert lines[-1].endswith("are free on cpu:0: with the CPU from here on")
    assert rows["s0"].status == "done" and rows["s0"].device == "cpu" and lines[-1] in rows["s0"].notes


def test_a_file_that_cannot_hold_the_structure_fails_alone(worker, monkeypatch):
    write_files = engine.write_files

    def write(directory, prediction, *rest):
        if prediction.query.name == "a":
            raise PredictionError("a: more than a PDB file can hold")
        return write_files(directory, prediction, *rest)

    monkeypatch.setattr(engine, "write_files", write)
    twins = [single_chain(name, "MKTAYIAKQR") for name in ("a", "b")]
    a, b = worker.process(twins[:1], shared(twins))
    assert (a.status, a.reason) == ("failed", "a: more than a PDB file can hold")
    assert (b.name, b.status, b.file) == ("b", "done", "b.pdb") and b.seconds > 0, "it was folded, not copied"
