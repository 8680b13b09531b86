"""Thousandths of an angstrom: the precision of structure files, in which positions are whole numbers."""

import numpy as np

PER_ANGSTROM = 1000


def thousandths(positions: np.ndarray) -> np.ndarray:
    """angstrom to the nearest whole thousandth, float64, so that squares of distances are exact too."""
    return np.rint(positions.astype(np.float64) * PER_ANGSTROM)
