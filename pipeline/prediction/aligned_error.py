"""PAE, pTM and ipTM of one prediction, row by row so that long chains fit (Jumper et al. 2021, suppl. 1.9.7)."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.losses.pae import error_bin_centers

MAX_ERROR = 31.0
"""angstrom, edge of the last bin of the head."""
_ROWS = 128


@dataclass(frozen=True, eq=False)
class AlignedError:
    """What the head for aligned errors says."""

    pae: np.ndarray
    """float32 [N, N], angstrom: expected error of residue j seen from the frame of residue i."""
    ptm: float
    """Predicted TM-score, 0 to 1."""
    iptm: float | None
    """The same over pairs of different chains (Evans et al. 2021, section 2.5); None for one chain."""
    largest: float
    """The largest value that ``pae`` could have, angstrom."""


def read_aligned_error(logits: torch.Tensor, chain: np.ndarray) -> AlignedError:
    """Confidence from ``logits`` [N, N, bins] of residues of the chains ``chain`` int [N]; d0 is that of N residues."""
    n, bins = len(logits), logits.shape[-1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    centers = error_bin_centers(bins, MAX_ERROR, torch.empty(0, dtype=dtype, device=logits.device))
    d0 = 1.24 * (max(n, 19) - 15) ** (1 / 3) - 1.8
    tm_of_bin = 1 / (1 + (centers / d0).square())
    errors, scores = [], []
    for rows in logits.split(_ROWS):
        probability = rows.softmax(-1, dtype=dtype)
        errors.append((probability @ centers).cpu())
        scores.append((probability @ tm_of_bin).cpu())
    pae, tm = torch.cat(errors).numpy(), torch.cat(scores).numpy()
    other = chain[:, None] != chain
    iptm = float(((tm * other).sum(-1) / other.sum(-1)).max()) if other.any() else None
    return AlignedError(pae, float(tm.mean(-1).max()), iptm, float(centers[-1]))
