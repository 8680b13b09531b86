"""Predicted structures whose B-factor column holds pLDDT: on the scale 0 to 100, doubtful residues masked.

Experimental B-factors are never read as a confidence: this is done only where the user says that the files are
predictions.
"""

from dataclasses import dataclass, replace

import numpy as np

from data_prep.dataset.filters import methods_of
from data_prep.structure.record import ProteinRecord


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
