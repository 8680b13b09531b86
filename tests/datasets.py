"""Datasets of given records, for tests that need one and not its making."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from data_prep.dataset.ledger import LedgerRow
from data_prep.dataset.store import DatasetWriter, Placement
from data_prep.structure.record import ProteinRecord


def write_dataset(
    path: str | os.PathLike,
    records: Iterable[ProteinRecord],
    *,
    placements: Mapping[str, Placement] | None = None,
    ledger: Iterable[LedgerRow] = (),
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a whole dataset; without ``placements`` every record is a training chain and a cluster of its own."""
    with DatasetWriter(path, overwrite=overwrite) as writer:
        ids = []
        for record in records:
            writer.add(record)
            ids.append(record.id)
        if placements is None:
            placements = {record_id: Placement(cluster=i) for i, record_id in enumerate(ids)}
        writer.finish(placements, ledger=ledger, settings=settings)
