"""One structure file to accepted records and ledger rows."""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from data_prep.dataset.filters import FilterSettings, rejection
from data_prep.dataset.inputs import name_with_path
from data_prep.dataset.ledger import LedgerRow
from data_prep.structure.clashes import clashing_fractions
from data_prep.structure.confidence import ConfidenceSettings, with_confidence
from data_prep.structure.io import StructureError, read_structure_file
from data_prep.structure.models import ModelChoice
from data_prep.structure.record import ProteinRecord


@dataclass(frozen=True)
class IngestSettings:
    """What is read from each file, and what of it is kept."""

    filters: FilterSettings = field(default_factory=FilterSettings)
    model: ModelChoice = None
    """Number of the model to read, None is the first, 'all' makes a record of each."""
    only_ids: tuple[str, ...] | None = None
    """Record ids to keep, None is all."""
    confidence: ConfidenceSettings | None = None
    """Given if the files are predictions with pLDDT in their B-factor column."""
    path_in_id: tuple[str, ...] = ()
    """Files whose records have their directory in their ids: other directories have files of the same stem."""

    @cached_property
    def wanted_ids(self) -> frozenset[str] | None:
        """``only_ids`` to look up in."""
        return None if self.only_ids is None else frozenset(self.only_ids)


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
    left_out: dict[str, str] = field(default_factory=dict)
    """Ids of the chains that were asked for and are not among ``records``, and why."""


def ingest_file(root: str | os.PathLike, file: str, settings: IngestSettings) -> Ingested:
    """Read one file (relative to ``root``) and filter its chains.

    A file that cannot be used becomes a ledger row, never an exception.
    """
    try:
        name = name_with_path(file) if file in settings.path_in_id else None
        structure = read_structure_file(Path(root, file), model=settings.model, name=name)
    except StructureError as error:
        return Ingested(file, "", (), (LedgerRow(file, "", "unreadable", error.reason),))
    wants_clashes = settings.filters.max_clash_fraction is not None
    clashing = clashing_fractions(structure.records) if wants_clashes else [0.0] * len(structure.records)
    rows, accepted, left_out = [], [], {}
    for record, share in zip(structure.records, clashing, strict=True):
        if settings.wanted_ids is not None and record.id not in settings.wanted_ids:
            rows.append(LedgerRow(file, record.chain_id, "rejected", "not asked for"))
            continue
        record, reason = _checked(replace(record, source_file=file), settings, share)
        if reason is None:
            accepted.append(record)
            rows.append(LedgerRow(file, record.chain_id, "accepted", "; ".join(record.warnings), record.id))
        else:
            model = f", in model {record.model_number}" if settings.model == "all" else ""
            left_out[record.id] = reason
            rows.append(LedgerRow(file, record.chain_id, "rejected", reason + model))
    rows += [LedgerRow(file, chain.chain_id, "rejected", chain.reason) for chain in structure.skipped]
    digest = structure.sha256
    return Ingested(file, digest, tuple(accepted), tuple(replace(row, sha256=digest) for row in rows), left_out)


def _checked(record: ProteinRecord, settings: IngestSettings, clashing: float) -> tuple[ProteinRecord, str | None]:
    """The record as it goes into the dataset, and why it does not, if so."""
    if settings.confidence is not None:
        record, reason = with_confidence(record, settings.confidence)
        if reason is not None:
            return record, reason
    return record, rejection(record, settings.filters, clashing)
