"""The triangle updates by NVIDIA's cuEquivariance, for the arguments that our own kernels take (CUDA devices alone).

cuEquivariance (extras ``cuequivariance-cu12`` and ``-cu13``) computes a triangle multiplicative update as a whole, and
of a triangle attention the softmax and its products; layer norm, projections and gate are PyTorch's here. As of 0.13 it
has kernels for float32 and bfloat16, chains longer than ``SHORT``, channels and head widths as ``takes_multiplication``
and ``takes_attention`` say, and computes the rest in plain PyTorch; that rest stays with our own kernels.
``folding/kernel_choice.py`` decides whether these functions are used at all.
"""

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.folding.kernels.common import Plan, no_autocast, product_dtype

SHORT = 100
"""Residues up to which cuEquivariance has no kernel."""
SHORT_NARROW = 200
"""The same for attention heads narrower than ``NARROW``."""
NARROW = 32
"""Channels of a head."""
DTYPES = (torch.float32, torch.bfloat16)


def library() -> ModuleType:
    """``cuequivariance_torch``, imported when it is first needed. ImportError where it is missing."""
    import cuequivariance_torch

    return cuequivariance_torch


def takes_multiplication(length: int, channels: int, hidden: int, dtype: torch.dtype) -> bool:
    """Whether cuEquivariance has a kernel for a triangle multiplication of these sizes in this number format."""
    return length > SHORT and channels % 32 == 0 and hidden % 32 == 0 and dtype in DTYPES


def takes_attention(length: int, width: int, dtype: torch.dtype) -> bool:
    """The same for triangle attention with heads of ``width`` channels."""
    most, multiple = (32, 4) if dtype is torch.float32 else (128, 8)
    enough = length > (SHORT_NARROW if width < NARROW else SHORT)
    return enough and width <= most and width % multiple == 0 and dtype in DTYPES


def triangle_multiplication(
    z: Tensor, mask: Tensor | None, keep: Tensor | None, *rest: Tensor | float | Plan
) -> Tensor:
    """As ``TriangleProduct.apply``, with the same arguments. Under autocast layer norms stay float32 there too."""
    *parameters, eps, outgoing, plan = rest
    return _combined(z, _once_more(plan, _multiplication, z, mask, *parameters, eps, outgoing), keep, plan)


def triangle_attention(
    z: Tensor, mask: Tensor | None, keep: Tensor | None, *arguments: Tensor | float | bool | Plan
) -> Tensor:
    """As ``TriangleSelfAttention.apply``, with the same arguments."""
    *parameters, eps, starting, plan = arguments
    keep = None if keep is None else keep.expand(z.shape)
    z_t, mask_t, keep_t = (t if starting or t is None else t.transpose(1, 2) for t in (z, mask, keep))
    if plan.overwrite:
        first = 0
        for update in _attention_rows(z_t, mask_t, *parameters, eps, plan):
            here = slice(first, first + update.shape[1])
            _combined(z_t[:, here], update, None if keep is None else keep_t[:, here], plan)
            first = here.stop
        return z
    update = _once_more(plan, _attention, z_t, mask_t, *parameters, eps, plan)
    return _combined(z, update if starting else update.transpose(1, 2), keep, plan)


def _once_more(plan: Plan, function: Callable[..., Tensor], z: Tensor, *arguments: object) -> Tensor:
    """``function(z, *arguments)``, computed again in the backward pass where our own kernels would."""
    if torch.is_grad_enabled() and not plan.saves(z.numel()):
        return checkpoint(function, z, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(z, *arguments)


def _combined(z: Tensor, update: Tensor, keep: Tensor | None, plan: Plan) -> Tensor:
    """What ``plan`` says to make of ``z`` and its update."""
    update = update.to(z.dtype)
    if keep is not None:
        update = update * keep
    if plan.overwrite:
        return z.add_(update)
    return z + update if plan.add else update


def _multiplication(
    z: Tensor,
    mask: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    out_norm_weight: Tensor,
    out_norm_bias: Tensor,
    w_z: Tensor,
    b_z: Tensor,
    w_g: Tensor,
    b_g: Tensor,
    eps: float,
    outgoing: bool,
) -> Tensor:
    (p_weight, g_weight), (p_bias, g_bias) = w_in.chunk(2), b_in.chunk(2)  # [2h, c] and [2h], of a before those of b
    return library().triangle_multiplicative_update(
        z,
        direction="outgoing" if outgoing else "incoming",
        mask=mask,
        norm_in_weight=norm_weight,
        norm_in_bias=norm_bias,
        p_in_weight=p_weight,
        p_in_bias=p_bias,
        g_in_weight=g_weight,
        g_in_bias=g_bias,
        norm_out_weight=out_norm_weight,
        norm_out_bias=out_norm_bias,
        p_out_weight=w_z,
        p_out_bias=b_z,
        g_out_weight=w_g,
        g_out_bias=b_g,
        eps=eps,
    )


def _attention(*arguments: object) -> Tensor:
    return torch.cat(list(_attention_rows(*arguments)), dim=1)


def _attention_rows(
    z: Tensor,
    mask: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w_b: Tensor,
    w: Tensor,
    b_g: Tensor,
    w_o: Tensor,
    b_o: Tensor,
    eps: float,
    plan: Plan,
) -> Iterator[Tensor]:
    """Updates [B, rows, N, c] of attention along the rows of ``z`` [B, N, N, c], some rows at a time, in their order.

    All of ``z`` has been read for the bias before the first one is there, and of a block's rows no later one is.
    """
    dtype, (n, heads) = product_dtype(z), (z.shape[1], len(w_b))
    w_b, w, b_g, w_o, b_o = (p.to(dtype) for p in (w_b, w, b_g, w_o, b_o))
    rows = plan.rows_for(z, n * len(w))
    starts = range(0, n, rows)

    def normalised(first: int) -> Tensor:
        block = z[:, first : first + rows].to(norm_weight.dtype)
        return F.layer_norm(block, norm_weight.shape, norm_weight, norm_bias, eps).to(dtype)

    with no_autocast(z):
        whole = normalised(0) if len(starts) == 1 else None
        bias = torch.cat([F.linear(normalised(i) if whole is None else whole, w_b) for i in starts], dim=1)
        bias = bias.permute(0, 3, 1, 2)[:, None].float()  # [B, 1, H, N, N] of [B, N, N, H]
    for i in starts:
        with no_autocast(z):
            x = normalised(i) if whole is None else whole
            projections = F.linear(x, w).unflatten(-1, (4, heads, -1))  # [B, rows, N, 4, H, d]
            q, k, v, logit = projections.transpose(2, 4).unbind(3)  # [B, rows, H, N, d] each
            attended = library().triangle_attention(
                q,
                k,
                v,
                bias,
                mask=None if mask is None else mask[:, i : i + rows, None, None] > 0,  # [B, rows, 1, 1, N]
                scale=1.0,  # 1 / sqrt(d) is in the weights of q
            )
            gate = (logit + b_g.view(heads, 1, -1)).sigmoid()
            update = F.linear((attended * gate).transpose(2, 3).flatten(-2), w_o, b_o)
        yield update  # outside of the block above, which would else be the caller's too
