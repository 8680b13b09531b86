"""Batches within a budget, duplicates once, and what happens when memory ends."""

import sys

import numpy as np
import pytest
import torch

from pipeline.config.device import free_bytes, is_out_of_memory
from pipeline.prediction import worker as worker_module
from pipeline.prediction.batching import batches, by_length, shared
from pipeline.prediction.fold import PredictionError, fold_batch
from pipeline.prediction.memory import TELLING, MemoryModel, capped, size_text, status_bytes
from pipeline.prediction.modelcif_file import Origin
from pipeline.prediction.sequences import single_chain
from pipeline.prediction.worker import Output, Worker

CPU = torch.device("cpu")


def queries(*lengths: int):
    rng = np.random.default_rng(0)
    return [single_chain(f"s{i}", "".join(rng.choice(list("ACDEFGHIKL"), n))) for i, n in enumerate(lengths)]


@pytest.fixture
def worker(esmfold_like, tmp_path):
    return Worker(esmfold_like, CPU, Output(tmp_path, "pdb", Origin("a test")), num_recycles=0, max_memory=1 << 40)


def process(worker, batch):
    events = list(worker.process(by_length(batch), shared(batch)))
    lines = [event for event in events if isinstance(event, str)]
    return lines, {event.name: event for event in events if not isinstance(event, str)}


def sizes(worker, found, max_residues):
    return [[q.length for q in batch] for batch in batches(by_length(found), worker, max_residues)]


def test_batches_are_of_like_lengths_and_within_the_limits(worker):
    found = queries(90, 10, 11, 12, 50, 52, 55, 600)
    assert sizes(worker, found, 200) == [[10, 11, 12], [50, 52, 55], [90], [600]]
    assert sizes(worker, found, 1) == [[n] for n in sorted(q.length for q in found)]
    worker.memory.budget = worker.memory.estimate(2, 52)
    assert sizes(worker, found, 200) == [[10, 11, 12], [50, 52], [55], [90], [600]]


def test_the_estimate_follows_what_was_measured(esmfold_like, monkeypatch):
    memory = MemoryModel(esmfold_like.config, CPU, 0)
    large, larger = memory.estimate(1, 500), memory.estimate(2, 900)
    assert large > TELLING
    monkeypatch.setattr(memory._peak, "read", lambda: memory._base + 3 * large)
    memory.learn(1, 500)
    assert memory.estimate(2, 900) == pytest.approx(3 * larger, rel=1e-6)
    monkeypatch.setattr(memory._peak, "read", lambda: memory._base)
    memory.learn(1, 50)  # too small to tell
    assert memory.estimate(1, 500) == pytest.approx(3 * large, rel=1e-6)
    memory.learn(1, 501)
    assert memory.estimate(1, 500) == pytest.approx(0.25 * large, rel=1e-6), "nothing is free"


@pytest.fixture
def full_heap():
    """Takes what the allocator has kept of earlier tests: blocks of a MiB and more are new to the process from here on.

    The end is a row of blocks that were all new: a single one can be, for other reasons, while much is kept still.
    """
    block, taken, new = 1 << 20, [], 0
    while new < 32:
        before = status_bytes("VmData")
        taken.append(torch.empty(block, dtype=torch.uint8))
        new = new + 1 if status_bytes("VmData") - before >= block // 2 else 0
    yield
    del taken


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator's state is read as Linux has it")
def test_the_peak_of_a_batch_is_measured(esmfold_like, full_heap):
    memory = MemoryModel(esmfold_like.config, CPU, 0)
    memory.start()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    assert memory.learn(1, 10) > 60 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits what a process can take")
def test_memory_on_the_cpu_ends_where_it_should(full_heap):
    with capped(CPU, 100 << 20):
        torch.ones(50 << 20, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as error:
            torch.ones(200 << 20, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    torch.ones(200 << 20, dtype=torch.uint8)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits what a process can take")
def test_a_fold_that_runs_out_of_memory_is_a_row(worker, full_heap):
    worker.memory.budget, worker._cap = 1 << 40, 30 << 20  # an estimate that is far too low
    pair = 1000**2 * worker.model.config.trunk.c_z * 4
    assert pair > worker._cap, "or it depends on what else is held"
    _, rows = process(worker, queries(20, 1000))
    assert rows["s0"].status == "done" and rows["s1"].status == "failed"
    assert "memory of cpu ended with 1 x 1000 residues" in rows["s1"].reason


def test_sizes_are_in_words_of_their_own_scale():
    assert [size_text(n) for n in (0, 58 << 20, (1 << 30) - 1, 3 << 29, 10 << 30)] == [
        "0 MiB", "58 MiB", "1024 MiB", "1.5 GiB", "10.0 GiB"
    ]  # fmt: skip


def test_free_memory_is_a_number_of_this_machine():
    assert 0 < free_bytes(CPU) < 1 << 50


def test_same_sequences_are_folded_once(worker, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(worker_module, "fold_batch", lambda m, part, *a: calls.append(part) or fold_batch(m, part, *a))
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

    monkeypatch.setattr(worker_module, "fold_batch", fold)
    budget = worker.memory.budget
    lines, rows = process(worker, queries(10, 11, 12))
    assert lines[0] == "memory of cpu ended with 3 x 12 residues: going on with 2 at a time"
    assert {row.status for row in rows.values()} == {"done"} and rows["s2"].batch_size == 1
    assert lines[0] in rows["s2"].notes and worker.memory.budget < budget


def test_a_sequence_that_memory_is_not_enough_for_fails_alone(worker, monkeypatch):
    def fold(model, part, *rest):
        if max(query.length for query in part) > 11:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fold_batch(model, part, *rest)

    monkeypatch.setattr(worker_module, "fold_batch", fold)
    _, rows = process(worker, queries(10, 11, 12))
    assert [rows[name].status for name in ("s0", "s1", "s2")] == ["done", "done", "failed"]
    assert rows["s2"].reason == "memory of cpu ended with 1 x 12 residues, in the smallest pieces"
    said = rows["s2"].notes.split("; ")
    assert said[-1].endswith("going on in pieces of 1 rows")


def test_a_sequence_above_the_budget_is_not_begun(worker, monkeypatch):
    monkeypatch.setattr(worker_module, "fold_batch", lambda *a: pytest.fail("it was begun"))
    worker.memory.budget = 1 << 30
    _, rows = process(worker, queries(10_000))
    assert rows["s0"].status == "failed" and "10000 residues need about" in rows["s0"].reason


def test_smaller_pieces_before_a_sequence_is_given_up(worker, monkeypatch):
    (query,) = queries(40)
    worker.memory.budget = worker.memory.estimate(1, 40, 16)
    assert worker.memory.estimate(1, 40) > worker.memory.budget, "or there is nothing to test"
    lines, rows = process(worker, [query])
    assert rows["s0"].status == "done" and rows["s0"].chunk_size == 16
    assert lines[-1].endswith("in pieces of 16 rows from here on") and rows["s0"].notes == lines[-1]


def test_one_bad_sequence_of_a_batch_does_not_take_the_others_along(worker, monkeypatch):
    def fold(model, part, *rest):
        if any(query.name == "s1" for query in part):
            raise PredictionError("s1: the model gave numbers that are not finite")
        return fold_batch(model, part, *rest)

    monkeypatch.setattr(worker_module, "fold_batch", fold)
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
def worker_elsewhere(esmfold_like, tmp_path):
    return Worker(
        esmfold_like, FIRST_CPU, Output(tmp_path, "pdb", Origin("a test")), num_recycles=0, max_memory=1 << 40
    )


def test_a_device_whose_memory_ends_hands_over_to_the_cpu(worker_elsewhere, monkeypatch):
    monkeypatch.setattr(worker_module, "fold_batch", without_the_first_cpu)
    lines, rows = process(worker_elsewhere, queries(10, 11))
    assert "memory of cpu:0 ended with 1 x 10 residues, in the smallest pieces: going on with the CPU" in lines
    assert {row.status for row in rows.values()} == {"done"} and {row.device for row in rows.values()} == {"cpu"}
    assert worker_elsewhere.memory.budget < 1 << 40, "measured anew: --max-memory was that of the other device"


def test_a_sequence_above_a_devices_budget_goes_to_the_cpu(worker_elsewhere):
    worker_elsewhere.memory.budget = 1 << 20
    lines, rows = process(worker_elsewhere, queries(40))
    assert lines[-1].endswith("are free on cpu:0: with the CPU from here on")
    assert rows["s0"].status == "done" and rows["s0"].device == "cpu" and lines[-1] in rows["s0"].notes


def test_a_file_that_cannot_hold_the_structure_fails_alone(worker, monkeypatch):
    write_files = worker_module.write_files

    def write(directory, prediction, *rest):
        if prediction.query.name == "a":
            raise PredictionError("a: more than a PDB file can hold")
        return write_files(directory, prediction, *rest)

    monkeypatch.setattr(worker_module, "write_files", write)
    twins = [single_chain(name, "MKTAYIAKQR") for name in ("a", "b")]
    a, b = worker.process(twins[:1], shared(twins))
    assert (a.status, a.reason) == ("failed", "a: more than a PDB file can hold")
    assert (b.name, b.status, b.file) == ("b", "done", "b.pdb") and b.seconds > 0, "it was folded, not copied"
