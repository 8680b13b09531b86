"""How per-element errors become one number per sample.

Every loss of this package sums over its own sample alone and returns [B]. Means carry a small ``eps`` in the
denominator, so that a sample whose mask is empty gives 0; the values are those of AlphaFold's code, since they are
part of the published numbers.
"""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, dims: int | tuple[int, ...], eps: float = 1e-4) -> Tensor:
    """``sum(mask * values) / (eps + sum(mask))`` over ``dims``; ``mask`` broadcasts to ``values``."""
    mask = mask.to(values.dtype).expand(values.shape)
    return (values * mask).sum(dims) / (eps + mask.sum(dims))


def binned_cross_entropy(logits: Tensor, bins: Tensor) -> Tensor:
    """``-log softmax(logits)[bins]``: logits [..., K], bins int [...], result [...], at least float32.

    Logits in half precision are widened first: the loss of a rare bin is lost in bfloat16's 8 bits.
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    picked = logits.gather(-1, bins[..., None]).squeeze(-1)
    return logits.logsumexp(-1) - picked


def resolution_filter(resolution: Tensor | None, low: float, high: float, like: Tensor) -> Tensor:
    """1.0 for samples whose ``resolution`` [B] (angstrom) lies in [low, high], else 0.0; ``None`` keeps every sample.

    NaN, for structures without a resolution, is outside, as is 0, by which OpenFold marks NMR.
    """
    if resolution is None:
        return torch.ones_like(like)
    return ((resolution >= low) & (resolution <= high)).to(like.dtype)
