"""Predicted lDDT-Calpha: the score, its binned prediction and the loss (Jumper et al. 2021, suppl. 1.9.6, Alg. 29)."""

import torch
from torch import Tensor

from pipeline.losses.reduce import binned_cross_entropy, masked_mean, resolution_filter

_EPS = 1e-10
THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""angstrom."""


def distance_errors(pred: Tensor, true: Tensor, mask: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return what lDDT compares: errors of the pairwise distances, angstrom, and 1 for the pairs that count.

    Both are [..., N, N]; a pair counts, both ways, if it is closer than ``cutoff`` in the true structure. ``pred`` and
    ``true`` [..., N, 3] in angstrom, ``mask`` [..., N].
    """
    mask = mask.to(true.dtype)

    def distances(points: Tensor) -> Tensor:
        return ((points[..., :, None, :] - points[..., None, :, :]).square().sum(-1) + _EPS).sqrt()

    true_distances = distances(true)
    scored = (true_distances < cutoff) * mask[..., :, None] * mask[..., None, :]
    scored = scored - torch.diag_embed(scored.diagonal(dim1=-2, dim2=-1))
    return (true_distances - distances(pred)).abs(), scored


@torch.no_grad()
def lddt_ca(pred: Tensor, true: Tensor, mask: Tensor, cutoff: float = 15.0, per_residue: bool = True) -> Tensor:
    """AlphaFold's lDDT of alpha carbons, in [0, 1]: [..., N], or [...] over all pairs if not ``per_residue``.

    ``pred`` and ``true`` [..., N, 3] in angstrom, ``mask`` [..., N]. Pairs closer than ``cutoff`` in the true structure
    count, both ways; preserved means within a threshold by ``<``. A residue without a neighbour scores 1. This is the
    training target; scores for people are those of ``evaluation.lddt``.
    """
    error, scored = distance_errors(pred, true, mask, cutoff)
    preserved = sum((error < threshold).to(true.dtype) for threshold in THRESHOLDS) / len(THRESHOLDS)
    dims = (-1,) if per_residue else (-1, -2)
    return (_EPS + (scored * preserved).sum(dims)) / (_EPS + scored.sum(dims))


def lddt_bins(score: Tensor, bins: int = 50) -> Tensor:
    """Bin of a score in [0, 1]; a score of 1 falls into the last one."""
    return (score * bins).floor().long().clamp(max=bins - 1)


def plddt_loss(
    logits: Tensor,
    pred_ca: Tensor,
    true_ca: Tensor,
    mask: Tensor,
    resolution: Tensor | None = None,
    min_resolution: float = 0.1,
    max_resolution: float = 3.0,
    cutoff: float = 15.0,
) -> Tensor:
    """Cross-entropy of the binned lDDT-Calpha, mean over residues, per sample [B].

    ``logits`` [B, N, bins], ``pred_ca`` and ``true_ca`` [B, N, 3] in angstrom, ``mask`` [B, N]: known alpha carbons.
    Samples whose ``resolution`` [B] is outside the range or NaN lose nothing; without ``resolution`` all count. The
    predicted positions get no gradient.
    """
    bins = lddt_bins(lddt_ca(pred_ca, true_ca, mask, cutoff), logits.shape[-1])
    loss = masked_mean(binned_cross_entropy(logits, bins), mask, -1, eps=_EPS)
    return loss * resolution_filter(resolution, min_resolution, max_resolution, like=loss)


def predicted_plddt(logits: Tensor) -> Tensor:
    """Expected lDDT, 0 to 100: logits [..., bins] to [...]."""
    bins = logits.shape[-1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    centers = (torch.arange(bins, dtype=dtype, device=logits.device) + 0.5) / bins
    return 100 * (logits.softmax(-1, dtype=dtype) * centers).sum(-1)
