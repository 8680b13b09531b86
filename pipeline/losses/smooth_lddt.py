"""A differentiable lDDT of alpha carbons (Abramson et al. 2024, suppl. Algorithm 27)."""

import torch
from torch import Tensor

from pipeline.losses.plddt import THRESHOLDS, distance_errors


def smooth_lddt_loss(predicted: Tensor, true: Tensor, mask: Tensor, cutoff: float = 15.0) -> Tensor:
    """Return one minus the smooth lDDT-Calpha of each sample, [B].

    A pair of true alpha carbons closer than ``cutoff`` counts with the mean over the thresholds t of sigmoid(t - e),
    where e is the error of its distance; far pairs, which lDDT does not see, get no gradient. A perfect prediction
    loses 0.20 (the sigmoids of the thresholds). Deviation from the paper: pairs are pooled per sample as lDDT pools
    them; there are no nucleotides, whose cutoff is 30 angstrom. A sample without a pair loses 0.

    ``predicted`` and ``true`` [B, N, 3] in angstrom, ``mask`` [B, N] of known alpha carbons. The true positions get no
    gradient.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    error, scored = distance_errors(predicted.to(dtype), true.detach().to(dtype), mask, cutoff)
    preserved = sum(torch.sigmoid(threshold - error) for threshold in THRESHOLDS) / len(THRESHOLDS)
    pairs = scored.sum((-1, -2))
    lost = (scored * (1 - preserved)).sum((-1, -2))
    return lost / pairs.clamp(min=1)
