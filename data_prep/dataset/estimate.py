"""What a run would do, how long it would take and how big its result would be, from a sample of its files."""

import time
from dataclasses import dataclass

from data_prep.dataset.build import Input
from data_prep.dataset.clusters import similarities
from data_prep.dataset.ingest import IngestSettings, ingest_file

SAMPLE = 100
"""Files that are read for an estimate, evenly spaced over the input."""

BYTES_PER_ATOM, BYTES_PER_RESIDUE, BYTES_PER_CHAIN = 16, 14, 400
"""Of shards (see ``data_prep.dataset.shards``) and of index, ledger and report."""


@dataclass(frozen=True)
class Estimate:
    """Numbers for the whole input, from ``n_sampled`` of its files."""

    n_files: int
    n_left_out: int
    """Files of the input that would not be read."""
    n_sampled: int
    n_unreadable: float
    n_chains: float
    """Accepted chains."""
    read_seconds: float
    """With one process."""
    compare_seconds: float
    """Aligning every pair of different sequences, with one process."""
    n_bytes: float


def estimate(source: Input, reading: IngestSettings, *, clock=time.perf_counter) -> Estimate:
    """Read a sample of the input and scale up. Writes nothing."""
    n = len(source.files)
    sampled = source.files[:: max(1, -(-n // SAMPLE))]
    start = clock()
    results = [ingest_file(source.root, file, source.settings(reading)) for file in sampled]
    per_file = (clock() - start) / max(len(sampled), 1)
    records = [record for result in results for record in result.records]
    scale = n / max(len(sampled), 1)
    n_chains = len(records) * scale
    different = list(dict.fromkeys(record.sequence for record in records))
    start = clock()
    similarities(different)
    per_pair = (clock() - start) / max(_pairs(len(different)), 1)
    n_bytes = sum(
        BYTES_PER_ATOM * int(record.atom37_mask.sum()) + BYTES_PER_RESIDUE * len(record) + BYTES_PER_CHAIN
        for record in records
    )
    return Estimate(
        n_files=n,
        n_left_out=len({row.file for row in source.rows}),
        n_sampled=len(sampled),
        n_unreadable=sum(not result.sha256 for result in results) * scale,
        n_chains=n_chains,
        read_seconds=per_file * n,
        compare_seconds=per_pair * _pairs(len(different) * scale),
        n_bytes=n_bytes * scale,
    )


def _pairs(n: float) -> float:
    return n * (n - 1) / 2
