"""The confidence that a predictor wrote into the B-factor column."""

from collections.abc import Sequence

import numpy as np

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX

_CA = ATOM37_INDEX["CA"]

LOWEST_MEDIAN: float = 15.0
"""On the scale 0-100 no predictor is as unsure of half of its residues; expected errors hardly reach 15 A."""


def plddt_of(prediction: Sequence[ProteinRecord]) -> tuple[list[np.ndarray] | None, str]:
    """The confidence that a prediction keeps in its B-factors: that of the alpha carbons.

    B-factors are pLDDT where the file says so (``ProteinRecord.states_plddt``). Else they are taken for it when the
    file names no experiment, every atom of a residue has the same value (and most residues have several atoms), and the
    values differ between residues. All must lie within 0-1 or 0-100. Values above 1 whose median is below
    ``LOWEST_MEDIAN`` are not: CASP predictions keep an expected error in angstrom there.

    Returns:
        float64 [N] per chain on the scale 0-100, and the scale of the file, ``0-1`` or ``0-100``; None and '' where
        the B-factors are something else.
    """
    stated = all(chain.states_plddt for chain in prediction)
    if not stated:
        if any(chain.method not in (None, "", "THEORETICAL MODEL") for chain in prediction):
            return None, ""
        for chain in prediction:
            if (chain.atom37_mask[chain.ca_mask].sum(axis=1) > 1).mean() < 0.5:
                return None, ""
            uneven = np.abs(chain.b_factors - chain.b_factors[:, _CA, None]) > 0.005
            if (uneven & chain.atom37_mask)[chain.ca_mask].any():
                return None, ""
    values = np.concatenate([chain.b_factors[chain.ca_mask, _CA] for chain in prediction])
    if not len(values) or values.min() < 0 or values.max() > 100 or (values.min() == values.max() and not stated):
        return None, ""
    if values.max() > 1 and np.median(values) < LOWEST_MEDIAN and not stated:
        return None, ""
    factor, scale = (100.0, "0-1") if values.max() <= 1 else (1.0, "0-100")
    return [chain.b_factors[:, _CA].astype(np.float64) * factor for chain in prediction], scale
