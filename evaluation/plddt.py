"""The confidence that a predictor wrote into the B-factor column."""

from collections.abc import Sequence

import numpy as np

from data_prep.record import ProteinRecord
from data_prep.residues import ATOM37_INDEX

LOWEST_MEDIAN: float = 15.0
"""On the scale 0-100 no predictor is as unsure of half of its residues; expected errors hardly reach 15 A."""

_CA = ATOM37_INDEX["CA"]


def plddt_of(prediction: Sequence[ProteinRecord]) -> tuple[list[np.ndarray] | None, str]:
    """The confidence that a prediction keeps in its B-factors.

    B-factors are taken for pLDDT when the file names no experiment, every atom of a residue has the same value (and
    most residues have several atoms), the values differ between residues, and all lie within 0-1 or 0-100. Values
    above 1 whose median is below ``LOWEST_MEDIAN`` are not: CASP predictions keep an expected error in angstrom there.

    Returns:
        float64 [N] per chain on the scale 0-100, and the scale of the file, ``0-1`` or ``0-100``; None and '' where
        the B-factors are something else.
    """
    if any(record.method not in (None, "", "THEORETICAL MODEL") for record in prediction):
        return None, ""
    values = np.concatenate([record.b_factors[record.ca_mask, _CA] for record in prediction])
    for record in prediction:
        several = record.atom37_mask.sum(axis=1) > 1
        uneven = record.atom37_mask & (np.abs(record.b_factors - record.b_factors[:, [_CA]]) > 0.005)
        if uneven[record.ca_mask].any() or several[record.ca_mask].mean() < 0.5:
            return None, ""
    if not len(values) or values.min() < 0 or values.max() > 100 or values.min() == values.max():
        return None, ""
    if values.max() > 1 and np.median(values) < LOWEST_MEDIAN:
        return None, ""
    factor, scale = (100.0, "0-1") if values.max() <= 1 else (1.0, "0-100")
    return [record.b_factors[:, _CA].astype(np.float64) * factor for record in prediction], scale
