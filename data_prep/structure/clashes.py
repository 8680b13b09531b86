"""Protein chains of one file that stand in each other's place: the share of each chain's atoms that clash."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from data_prep.structure.decimals import PER_ANGSTROM, thousandths
from data_prep.structure.record import ProteinRecord

CLASH_DISTANCE = 1.7
"""angstrom between atoms of different chains (Abramson et al. 2024, AlphaFold 3, suppl. 2.5.4)."""

_CLASH_UNITS = CLASH_DISTANCE * PER_ANGSTROM
"""Distances are compared in thousandths, whole numbers: what is at the threshold is not moved by rounding."""

_BLOCK = 512
"""Atoms compared with all others at once."""


def clashing_fractions(records: Sequence[ProteinRecord]) -> list[float]:
    """For each chain of a file the share of its atoms nearer than ``CLASH_DISTANCE`` to an atom of another chain of the
    same model.
    """
    atoms = [thousandths(record.atom37_positions[record.atom37_mask]) for record in records]
    clashing = [np.zeros(len(xyz), dtype=bool) for xyz in atoms]
    for i, j in combinations(range(len(atoms)), 2):
        if records[i].model_number != records[j].model_number:
            continue
        near_i, near_j = _near_box(atoms[i], atoms[j]), _near_box(atoms[j], atoms[i])
        if not len(near_i) or not len(near_j):
            continue
        for start in range(0, len(near_i), _BLOCK):
            block = near_i[start : start + _BLOCK]
            squared = ((atoms[i][block][:, None] - atoms[j][near_j][None]) ** 2).sum(axis=-1)  # [block, near_j]
            hit = squared < _CLASH_UNITS**2
            clashing[i][block] |= hit.any(axis=1)
            clashing[j][near_j] |= hit.any(axis=0)
    return [float(hits.mean()) if len(hits) else 0.0 for hits in clashing]


def _near_box(xyz: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int [n]: atoms of ``xyz`` inside the box around ``other``, which is the only place where they can clash."""
    if not len(other):
        return np.zeros(0, dtype=np.int64)
    low, high = other.min(axis=0) - _CLASH_UNITS, other.max(axis=0) + _CLASH_UNITS
    return np.flatnonzero(((xyz >= low) & (xyz <= high)).all(axis=1))
