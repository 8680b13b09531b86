"""The confidence that a predictor wrote into the B-factor column."""

from collections.abc import Sequence

import numpy as np

from data_prep.calpha_trace import CalphaTrace

LOWEST_MEDIAN: float = 15.0
"""On the scale 0-100 no predictor is as unsure of half of its residues; expected errors hardly reach 15 A."""


def plddt_of(prediction: Sequence[CalphaTrace]) -> tuple[list[np.ndarray] | None, str]:
    """The confidence that a prediction keeps in its B-factors.

    B-factors are taken for pLDDT when the file names no experiment, every atom of a residue has the same value (and
    most residues have several atoms), the values differ between residues, and all lie within 0-1 or 0-100. Values
    above 1 whose median is below ``LOWEST_MEDIAN`` are not: CASP predictions keep an expected error in angstrom there.

    Returns:
        float64 [N] per chain on the scale 0-100, and the scale of the file, ``0-1`` or ``0-100``; None and '' where
        the B-factors are something else.
    """
    if any(chain.method not in (None, "", "THEORETICAL MODEL") for chain in prediction):
        return None, ""
    if any(chain.n_atoms < 1.5 * np.count_nonzero(chain.ca_mask) for chain in prediction):
        return None, ""  # as the next line would find, but without looking at the column
    if any((chain.b_column.n_atoms[chain.ca_mask] > 1).mean() < 0.5 for chain in prediction):
        return None, ""
    for chain in prediction:
        column = chain.b_column
        uneven = np.abs(column.values - column.of_ca[column.residue]) > 0.005
        if (uneven & chain.ca_mask[column.residue]).any():
            return None, ""
    values = np.concatenate([chain.b_column.of_ca[chain.ca_mask] for chain in prediction])
    if not len(values) or values.min() < 0 or values.max() > 100 or values.min() == values.max():
        return None, ""
    if values.max() > 1 and np.median(values) < LOWEST_MEDIAN:
        return None, ""
    factor, scale = (100.0, "0-1") if values.max() <= 1 else (1.0, "0-100")
    return [chain.b_column.of_ca.astype(np.float64) * factor for chain in prediction], scale
