"""Cross-entropy of binned C-beta distances (Jumper et al. 2021, suppl. 1.9.8)."""

import torch
from torch import Tensor

from pipeline.losses.reduce import binned_cross_entropy, masked_mean


def distance_bins(positions: Tensor, min_bin: float = 2.3125, max_bin: float = 21.6875, bins: int = 64) -> Tensor:
    """Bin of every pairwise distance: positions [..., N, 3] in angstrom to int64 [..., N, N], 0 to ``bins - 1``.

    The ``bins - 1`` edges are evenly spaced from ``min_bin`` to ``max_bin``; the first and last bin are open. Squared
    distances are compared with squared edges.
    """
    edges = torch.linspace(min_bin, max_bin, bins - 1, dtype=positions.dtype, device=positions.device).square()
    squared = (positions[..., :, None, :] - positions[..., None, :, :]).square().sum(-1)
    return torch.searchsorted(edges, squared)  # the number of edges strictly below


def distogram_loss(
    logits: Tensor, pseudo_beta: Tensor, mask: Tensor, min_bin: float = 2.3125, max_bin: float = 21.6875
) -> Tensor:
    """Mean over residue pairs, per sample [B].

    ``logits`` [B, N, N, bins], ``pseudo_beta`` [B, N, 3] in angstrom, ``mask`` [B, N].
    """
    bins = distance_bins(pseudo_beta, min_bin, max_bin, logits.shape[-1])
    errors = binned_cross_entropy(logits, bins)
    return masked_mean(errors, mask[..., :, None] * mask[..., None, :], (-1, -2), eps=1e-6)
