"""One structure file to accepted records and ledger rows."""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.dataset.filters import FilterSettings, methods_of, rejection
from data_prep.dataset.inputs import name_with_path
from data_prep.dataset.ledger import LedgerRow
from data_prep.structure.atom_site import ModelChoice
from data_prep.structure.clashes import clashing_fractions
from data_prep.structure.io import StructureError, read_structure_file
from data_prep.structure.record import ProteinRecord

NOT_ASKED_FOR = "not asked for"
"""Why chains are left out that are none of ``IngestSettings.only_ids``."""


@dataclass(frozen=True)
class ConfidenceSettings:
    """What counts as confident in a prediction."""

    min_plddt: float = 50.0
    """Residues below are masked as if they were not observed (Jumper et al. 2021, suppl. 1.3: self-distillation)."""
    min_mean_plddt: float | None = None
    """Chains below are left out; 70 for ESMFold's training set (Lin et al. 2023)."""

    def __post_init__(self) -> None:
        for name in ("min_plddt", "min_mean_plddt"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 100:
                raise ValueError(f"{name} is {value}, expected 0 to 100")


def with_confidence(record: ProteinRecord, settings: ConfidenceSettings) -> tuple[ProteinRecord, str | None]:
    """The record with pLDDT from 0 to 100 as B-factors and doubtful residues masked, and why to leave it out, if so.

    A residue's pLDDT is that of its alpha carbon, or the mean of its atoms without one. Values that never exceed 1 are
    taken for the scale 0 to 1 (which is said in the warnings); values outside 0 to 100 are no pLDDT, nor is 0
    throughout; another value throughout is remarked on.
    """
    values = record.b_factors[record.atom37_mask]
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 100:
        return record, f"no pLDDT: B-factor column holds {low:g} to {high:g} (expected 0 to 100)"
    if high == 0:
        return record, "no pLDDT: B-factor column holds 0 throughout"
    warnings = list(record.warnings)
    if low == high and len(record) > 1:
        warnings.append(f"B-factor column holds {low:g} throughout, a doubtful pLDDT")
    plddt = record.b_factors
    if high <= 1:
        plddt = (plddt.astype(np.float64) * 100).round(4).astype(np.float32)  # 0.7 is 70, not 69.99999
        warnings.append("pLDDT from 0 to 1: multiplied by 100")
    if methods_of(record) - {"other"}:
        warnings.append(f"B-factors read as pLDDT, though the file states {record.method}")
    observed = record.observed
    count = np.maximum(record.atom37_mask.sum(axis=1), 1)
    per_residue = np.where(record.ca_mask, plddt[:, 1], plddt.sum(axis=1) / count)  # [N], CA is atom 1
    mean = float(per_residue[observed].mean())
    if settings.min_mean_plddt is not None and mean < settings.min_mean_plddt:
        return record, f"mean pLDDT: {mean:.1f} (minimum {settings.min_mean_plddt:g})"
    keep = observed & (per_residue >= settings.min_plddt)
    if not keep.any():
        stated = f", though the file states {record.method}" if methods_of(record) - {"other"} else ""
        return record, f"pLDDT: {per_residue[observed].max():.1f} at most (minimum {settings.min_plddt:g}){stated}"
    if keep.sum() < observed.sum():
        warnings.append(f"{observed.sum() - keep.sum()} residues with pLDDT below {settings.min_plddt:g} masked")
    mask = record.atom37_mask & keep[:, None]
    return replace(
        record,
        atom37_mask=mask,
        atom37_positions=np.where(mask[..., None], record.atom37_positions, np.float32(0)),
        b_factors=np.where(mask, plddt, np.float32(0)),
        warnings=tuple(warnings),
    ), None


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
            rows.append(LedgerRow(file, record.chain_id, "rejected", NOT_ASKED_FOR))
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
