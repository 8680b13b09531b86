"""Supervised side-chain torsions and the length of the predicted sine-cosine pairs (suppl. 1.9.1, Alg. 27)."""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.folding.geometry import residue_table
from pipeline.losses.reduce import masked_mean

_NORM_EPS = 1e-6


class ChiLoss(NamedTuple):
    """Losses per sample, [B] each."""

    total: Tensor
    """``chi_weight * chi + norm_weight * norm``."""
    chi: Tensor
    """Mean squared distance of unit vectors over existing chis and all layers."""
    norm: Tensor
    """Mean deviation of the unnormalised vectors' length from 1, over all seven torsions of every residue."""


def supervised_chi(
    angles: Tensor,
    unnormalized_angles: Tensor,
    aatype: Tensor,
    true_chis: Tensor,
    chi_mask: Tensor,
    residue_mask: Tensor,
    chi_weight: float = 0.5,
    norm_weight: float = 0.01,
) -> ChiLoss:
    """Torsion losses over the layers of the structure module.

    ``angles`` and ``unnormalized_angles`` [layers, B, N, 7, 2] (sin, cos), ``aatype`` int [B, N], ``true_chis``
    [B, N, 4, 2], ``chi_mask`` [B, N, 4], ``residue_mask`` [B, N]. A chi that looks the same after 180 degrees is
    compared with the nearer of the two. Deviation: each sample has its own mean (OpenFold's sums over the batch).
    """
    pred = angles[..., 3:, :]  # [layers, B, N, 4, 2]
    periodic = residue_table("chi_pi_periodic", aatype, angles.dtype)[..., None]  # [B, N, 4, 1]
    error = (pred - true_chis).square().sum(-1)
    turned_error = (pred - (1 - 2 * periodic) * true_chis).square().sum(-1)
    chi = masked_mean(torch.minimum(error, turned_error), chi_mask, (0, 2, 3))  # over layers, residues, chis

    length = (unnormalized_angles.square().sum(-1) + _NORM_EPS).sqrt()  # [layers, B, N, 7]
    norm = masked_mean((length - 1).abs(), residue_mask[..., None], (0, 2, 3))
    return ChiLoss(chi_weight * chi + norm_weight * norm, chi, norm)
