"""Error of the distances between alpha carbons, over all pairs."""

import torch
from torch import Tensor

LENGTH_SCALE = 10.0
"""angstrom, as in FAPE."""
_EPS = 1e-4


def ca_distance_loss(predicted: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute error of the distances of each sample over ``LENGTH_SCALE``, [B].

    Unlike FAPE it does not depend on the orientation of frames, so that it says where a residue belongs before the
    frames are learned; a mirror image loses nothing. The mean is over the iterations of the structure module.

    ``predicted`` [K, B, N, 3] of K iterations and ``true`` [B, N, 3] in angstrom, ``mask`` [B, N] of known alpha
    carbons. The true positions get no gradient. A sample without a pair loses 0.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)

    def distances(points: Tensor) -> Tensor:
        return ((points[..., :, None, :] - points[..., None, :, :]).square().sum(-1) + _EPS).sqrt()  # [..., N, N]

    error = (distances(predicted.to(dtype)) - distances(true.detach().to(dtype))).abs()
    pairs = mask.to(dtype)[:, :, None] * mask.to(dtype)[:, None]
    pairs = pairs - torch.diag_embed(pairs.diagonal(dim1=-2, dim2=-1))
    return (error * pairs).sum((-1, -2)).mean(0) / LENGTH_SCALE / pairs.sum((-1, -2)).clamp(min=1)
