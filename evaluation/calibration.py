"""Does the prediction know how good it is: its pLDDT against the lDDT that was found.

Correlations say whether the order is right (Pearson: on a line, Spearman: by rank), the expected calibration error
whether the value is (Guo et al. 2017, arXiv 1706.04599): residues are sorted into ten bins by pLDDT, and the distances
between a bin's mean pLDDT / 100 and its mean lDDT are averaged, each bin with the weight of its residues.
"""

from dataclasses import dataclass

import numpy as np

BINS: int = 10
"""Of pLDDT, each 10 wide."""


@dataclass(frozen=True)
class CalibrationBin:
    """The residues (or targets) of one range of pLDDT; never empty."""

    low: float
    """pLDDT, 0 to 100; the upper end belongs to the next bin, except 100."""
    high: float
    n: int
    mean_plddt: float
    """0 to 100."""
    mean_lddt: float
    """0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """How the pLDDT and the lDDT of n residues (or targets) go together. None where it is undefined."""

    n: int
    pearson: float | None
    """in [-1, 1]; None for fewer than two, or where all of either are equal."""
    spearman: float | None
    """in [-1, 1]; the same of the ranks, equal values share their mean rank."""
    ece: float | None
    """Expected calibration error, in [0, 1] on the scale of lDDT; None without residues."""
    bins: tuple[CalibrationBin, ...]


NOTHING_TO_COMPARE = Calibration(0, None, None, None, ())
"""Of no residues."""


def calibrate(plddt: np.ndarray, lddt: np.ndarray) -> Calibration:
    """Compares confidence and score.

    Args:
        plddt: float [N], 0 to 100.
        lddt: float [N], 0 to 1, of the same residues or targets.

    Raises:
        ValueError: lengths that differ, or values that are not finite: leave undefined residues out.
    """
    plddt, lddt = np.asarray(plddt, dtype=np.float64), np.asarray(lddt, dtype=np.float64)
    if plddt.shape != lddt.shape or plddt.ndim != 1 or not (np.isfinite(plddt) & np.isfinite(lddt)).all():
        raise ValueError(f"plddt {plddt.shape} and lddt {lddt.shape}: expected two finite arrays of one length")
    if not len(plddt):
        return NOTHING_TO_COMPARE
    number = np.clip((plddt / (100 / BINS)).astype(np.int64), 0, BINS - 1)
    bins = tuple(
        CalibrationBin(
            low=100 / BINS * one,
            high=100 / BINS * (one + 1),
            n=int(np.count_nonzero(number == one)),
            mean_plddt=float(plddt[number == one].mean()),
            mean_lddt=float(lddt[number == one].mean()),
        )
        for one in np.unique(number).tolist()
    )
    gaps = [one.n * abs(one.mean_plddt / 100 - one.mean_lddt) for one in bins]
    return Calibration(
        n=len(plddt),
        pearson=_correlation(plddt, lddt),
        spearman=_correlation(_ranks(plddt), _ranks(lddt)),
        ece=sum(gaps) / len(plddt),
        bins=bins,
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # the squares of very small numbers would vanish
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """float64 [N]: ranks from 1; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
