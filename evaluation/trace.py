"""The alpha carbons of a scored target, for the drawings of the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from evaluation.superposition import superpose

_DRAWN = 100  # hundredths of an angstrom are finer than any drawing
_KEPT = 1000  # thousandths are what the files state


@dataclass(frozen=True, eq=False)
class Trace:
    """Positions in angstrom, as the files have them."""

    true: np.ndarray
    """float32 [R, 3]: the residues of the truth with an alpha carbon, in its order."""
    pred: np.ndarray
    """float32 [M, 3]: those of them that the prediction has."""
    in_pred: np.ndarray
    """bool [R]: which these are."""

    def superposed(self) -> tuple[list[int], list[int]]:
        """Hundredths of an angstrom, x, y and z of one residue after the other: the truth, its middle at the origin,
        and the prediction after its best fit."""
        true, pred = self.true.astype(np.float64), self.pred.astype(np.float64)
        if len(pred):
            rotation, translation = superpose(pred, true[self.in_pred])
            pred = pred @ rotation.T + translation
        middle = true.mean(axis=0)
        return _whole(true - middle, _DRAWN), _whole(pred - middle, _DRAWN)

    def columns(self) -> dict[str, list]:
        """Whole numbers, as JSON can hold them."""
        return {
            "true": _whole(self.true, _KEPT),
            "pred": _whole(self.pred, _KEPT),
            "in_pred": self.in_pred.astype(int).tolist(),
        }

    @classmethod
    def of_columns(cls, columns: Mapping[str, list]) -> Self:
        """The inverse of ``columns``."""
        true, pred = (np.array(columns[name], dtype=np.float64).reshape(-1, 3) / _KEPT for name in ("true", "pred"))
        return cls(true.astype(np.float32), pred.astype(np.float32), np.array(columns["in_pred"], dtype=bool))


def _whole(positions: np.ndarray, per_angstrom: int) -> list[int]:
    return np.rint(positions.astype(np.float64) * per_angstrom).astype(np.int64).ravel().tolist()
