"""Exact comparison of records, for the tests of this directory."""

import numpy as np

from data_prep.structure.record import ProteinRecord

ARRAYS = ("residue_index", "atom37_positions", "atom37_mask", "b_factors", "auth_seq_id", "insertion_code")
HEADER = ("resolution", "method", "deposition_date", "release_date")


def differences(a: ProteinRecord, b: ProteinRecord, *, header: bool = True) -> list[str]:
    """Names of the fields that are not identical in value, shape and type."""
    names = ["chain_id", "sequence", *(HEADER if header else ())]
    different = [name for name in names if getattr(a, name) != getattr(b, name)]
    for name in ARRAYS:
        x, y = getattr(a, name), getattr(b, name)
        if x.shape != y.shape or x.dtype != y.dtype or not np.array_equal(x, y):
            different.append(name)
    return different
