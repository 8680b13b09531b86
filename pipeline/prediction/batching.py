"""Which sequences are folded together."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from pipeline.prediction.linker import linked_length
from pipeline.prediction.sequences import Query
from pipeline.prediction.worker import Worker

MIN_FILL = 0.75
"""Length of the shortest to the longest of a batch: padding is computed with, and thrown away."""


def by_length(queries: Iterable[Query]) -> list[Query]:
    """Shortest first: results come early, and what a batch takes is known before longer ones are begun."""
    return sorted(queries, key=lambda query: (linked_length(query), query.name))


def batches(queries: Sequence[Query], worker: Worker, max_residues: int) -> Iterator[list[Query]]:
    """Batches of sorted queries, each planned when it is asked for, with what ``worker`` has learned by then.

    A batch is within the memory budget and at most ``max_residues`` with padding, or is a single query.
    """
    waiting = deque(queries)
    while waiting:
        batch = [waiting.popleft()]
        shortest = linked_length(batch[0])
        while waiting:
            length, size = linked_length(waiting[0]), len(batch) + 1
            full = size * length > max_residues or worker.memory.estimate(size, length) > worker.memory.budget
            if full or shortest < MIN_FILL * length:
                break
            batch.append(waiting.popleft())
        yield batch


def shared(queries: Iterable[Query]) -> dict[str, list[Query]]:
    """Queries by their key, in order: those under one key have the same prediction and are folded once."""
    groups: dict[str, list[Query]] = {}
    for query in queries:
        groups.setdefault(query.key, []).append(query)
    return groups


def work(query: Query) -> float:
    """What folding takes, in arbitrary units, for the time left: between the square and the cube of the length."""
    n = linked_length(query)
    return n * n * (n + 400.0) + 40_000.0 * n
