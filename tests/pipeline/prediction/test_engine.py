"""What becomes of the sequences of processes that end, with threads in the place of processes."""

import multiprocessing
import os
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

import pytest

from pipeline.config.schema import ConfigError
from pipeline.prediction import engine
from pipeline.prediction.engine import Plan, by_length
from pipeline.prediction.fold import PredictionError
from pipeline.prediction.loading import Source
from pipeline.prediction.rows import PredictionRow
from pipeline.prediction.sequences import single_chain


@dataclass
class Thread:
    """A process in name: it has ended, with code -9, when its side of the pipe is closed."""

    target: object
    args: tuple
    daemon: bool
    exitcode: int = -9

    def start(self) -> None:
        connection, *rest = self.args
        own = Connection(os.dup(connection.fileno()))
        self.thread = threading.Thread(target=self.target, args=(own, *rest), daemon=True)
        self.thread.start()

    def join(self) -> None:
        self.thread.join(timeout=30)

    def terminate(self) -> None:
        pass


class Context:
    Pipe = staticmethod(multiprocessing.Pipe)
    Process = Thread


@pytest.fixture
def run(monkeypatch, tmp_path):
    """``run(serve, lengths)``: events of 'processes' on two devices that do what ``serve`` does with each query."""

    def start(serve, *lengths: int):
        monkeypatch.setattr(engine.multiprocessing, "get_context", lambda method: Context)
        monkeypatch.setattr(engine, "_serve", serve)
        queries = by_length(single_chain(f"s{i}", "ACDEFGHIKL"[:n]) for i, n in enumerate(lengths))
        plan = Plan(Source("run"), tmp_path, "pdb", ("cpu", "cpu"), 0, max_residues=10)
        return list(engine._run_processes(plan, {query.key: [query] for query in queries}, queries))

    return start


def serve(dies: str):
    """A process that folds in no time, and ends without a word at the query of this name."""

    def work(connection, plan, device, sharing):
        while True:
            connection.send(None)
            portion, _ = connection.recv()
            for query in portion:
                if query.name == dies:
                    connection.close()
                    return
                connection.send(PredictionRow(query.name, sequence_sha256=query.key))
            if not portion:
                connection.close()
                return

    return work


def test_a_sequence_that_ends_two_processes_fails_and_the_others_are_done(run):
    events = run(serve("s2"), *range(1, 9))
    rows = {event.name: event for event in events if isinstance(event, PredictionRow)}
    assert sorted(rows) == [f"s{i}" for i in range(8)] and len(events) == len(rows) + 1
    (line,) = (event for event in events if isinstance(event, str))
    assert line.startswith("the process on cpu ended with code -9: its ")
    assert {name for name, row in rows.items() if row.status != "done"} == {"s2"}
    assert rows["s2"].reason == "the process on cpu ended with code -9 while it folded this: is there enough memory?"


def test_processes_that_end_before_they_ask_for_anything_are_an_error(run):
    with pytest.raises(PredictionError, match="ended before they could fold anything"):
        run(lambda connection, *rest: connection.close(), 1, 2, 3)


def test_what_a_process_cannot_do_is_said_by_the_command(run):
    def refuse(connection, *rest):
        connection.send(ConfigError("device 'cuda:9' cannot be used here"))

    with pytest.raises(ConfigError, match="cuda:9"):
        run(refuse, 1, 2, 3)
