"""The alpha carbons of a scored target, superposed, for the drawings of the report."""

from dataclasses import dataclass

import numpy as np

from evaluation.superposition import superpose

_PER_ANGSTROM = 100  # hundredths are finer than any drawing
_FARTHEST = 1e6  # angstrom; what lies farther from the truth's middle is drawn there


@dataclass(frozen=True)
class Trace:
    """Coordinates in hundredths of an angstrom, x, y and z of one residue after the other."""

    true: list[int]
    """3 R numbers: the residues of the truth with an alpha carbon, in its order, their middle at the origin."""
    pred: list[int]
    """3 M numbers: those of them that the prediction has, after its best fit to the truth."""


def make_trace(pred: np.ndarray, true: np.ndarray, pred_mask: np.ndarray, true_mask: np.ndarray) -> Trace:
    """From float [N, 3] positions in angstrom of residues that correspond, and bool [N] of those that are there."""
    true, pred = true.astype(np.float64), pred.astype(np.float64)
    both = pred_mask & true_mask
    middle = true[true_mask].mean(axis=0)
    if both.any():
        rotation, translation = superpose(pred[both], true[both])
        moved = pred[both] @ rotation.T + translation
    else:
        moved = np.zeros((0, 3))
    return Trace(_hundredths(true[true_mask] - middle), _hundredths(moved - middle))


def _hundredths(positions: np.ndarray) -> list[int]:
    return np.rint(np.clip(positions, -_FARTHEST, _FARTHEST) * _PER_ANGSTROM).astype(np.int64).ravel().tolist()
