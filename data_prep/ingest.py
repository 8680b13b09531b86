"""Structure files to accepted records and ledger rows, one file at a time, in one process or several."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from data_prep.filters import FilterSettings, rejection
from data_prep.ledger import LedgerRow
from data_prep.record import ProteinRecord
from data_prep.structure_io import StructureError, read_structure_file

MIN_FILES_PER_PROCESS = 32
"""Starting a process takes as long as reading about so many files."""


@dataclass(frozen=True)
class Ingested:
    """What one file gave."""

    file: str
    sha256: str
    """Hash of the file, empty if it could not be read."""
    records: tuple[ProteinRecord, ...]
    """Accepted chains."""
    rows: tuple[LedgerRow, ...]
    """One per chain, or one for the file; in the order of the chains."""


def ingest(root: str | os.PathLike, files: Sequence[str], filters: FilterSettings, jobs: int = 1) -> Iterator[Ingested]:
    """Read ``files`` (relative to ``root``) in their order; the results do not depend on ``jobs``."""
    work = partial(ingest_file, str(root), filters=filters)
    jobs = min(jobs, len(files) // MIN_FILES_PER_PROCESS)
    if jobs <= 1:
        yield from map(work, files)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(work, files, chunksize=4)


def ingest_file(root: str, file: str, filters: FilterSettings) -> Ingested:
    """Read one file and filter its chains. A file that cannot be used becomes a ledger row, never an exception."""
    try:
        structure = read_structure_file(Path(root, file))
    except StructureError as error:
        return Ingested(file, "", (), (LedgerRow(file, "", "unreadable", error.reason),))
    rows, accepted = [], []
    for record in structure.records:
        record = replace(record, source_file=file)
        reason = rejection(record, filters)
        if reason is None:
            accepted.append(record)
            rows.append(LedgerRow(file, record.chain_id, "accepted", "; ".join(record.warnings), record.id))
        else:
            rows.append(LedgerRow(file, record.chain_id, "rejected", reason))
    rows += [LedgerRow(file, chain.chain_id, "rejected", chain.reason) for chain in structure.skipped]
    return Ingested(file, structure.sha256, tuple(accepted), tuple(rows))
