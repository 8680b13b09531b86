"""Predicted aligned error and predicted TM-score (Jumper et al. 2021, suppl. 1.9.7)."""

import torch
from torch import Tensor

from pipeline.folding.frames import Rigid
from pipeline.losses.reduce import binned_cross_entropy, masked_mean, resolution_filter

_EPS = 1e-8


def _edges(bins: int, max_bin: float, like: Tensor) -> Tensor:
    return torch.linspace(0, max_bin, bins - 1, dtype=like.dtype, device=like.device)


def error_bin_centers(bins: int, max_bin: float, like: Tensor) -> Tensor:
    """Typical error of each bin, angstrom, [bins]; the last bin is open and counts half a step beyond its edge."""
    return (torch.arange(bins, dtype=like.dtype, device=like.device) + 0.5) * (max_bin / (bins - 2))


@torch.no_grad()
def aligned_errors(pred: Rigid, target: Rigid) -> Tensor:
    """Squared error of alpha carbon j seen from frame i, angstrom^2: frames [..., N] to [..., N, N]."""
    local = [frames[..., None].invert_apply(frames.trans[..., None, :, :]) for frames in (pred, target)]
    return (local[0] - local[1]).square().sum(-1)


def pae_loss(
    logits: Tensor,
    pred: Rigid,
    target: Rigid,
    mask: Tensor,
    resolution: Tensor | None = None,
    min_resolution: float = 0.1,
    max_resolution: float = 3.0,
    max_bin: float = 31.0,
) -> Tensor:
    """Cross-entropy of the binned aligned error, mean over residue pairs, per sample [B] (OpenFold's ``tm_loss``).

    ``logits`` [B, N, N, bins], frames [B, N] in angstrom, ``mask`` [B, N]. Resolution as in ``plddt_loss``. The frames
    get no gradient.
    """
    errors = aligned_errors(pred, target)
    bins = torch.searchsorted(_edges(logits.shape[-1], max_bin, errors).square(), errors)
    # OpenFold halves the mask against float16 overflow, which doubles its eps; visible in the reference values only
    # for an empty mask, where both give 0.
    pairs = mask[..., :, None] * mask[..., None, :]
    loss = masked_mean(binned_cross_entropy(logits, bins), pairs, (-1, -2), eps=2 * _EPS)
    return loss * resolution_filter(resolution, min_resolution, max_resolution, like=loss)
