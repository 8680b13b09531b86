"""Transition: layer norm, wider layer, ReLU, back (Jumper et al. 2021, Algorithm 15), with its gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.folding.kernels.common import (
    LayerNorm,
    Plan,
    Saved,
    add_product,
    affine,
    as_gradients,
    blocks,
    no_autocast,
    product_dtype,
    sums_like,
    write,
)


class Transition(torch.autograd.Function):
    """``keep * (W2 relu(W1 LN(z) + b1) + b2)``; needs its input alone for the backward pass.

    Arguments: ``z`` [B, N, N, c]; ``keep``, the dropout mask, of a shape that broadcasts to it, or None; weight and
    bias of the layer norm [c], of the first layer [m, c] and [m], of the second [c, m] and [c]; eps of the layer norm;
    a ``Plan``.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, keep: Tensor | None, *arguments: Any) -> Tensor:
        """See the class."""
        *parameters, ctx.eps, ctx.plan = arguments
        ctx.product_dtype = dtype = product_dtype(z)
        saved = Saved.for_forward(ctx, z, ctx.plan)
        inner, (w2, b2) = _inner(parameters, dtype), (p.to(dtype) for p in parameters[4:])
        out = z if ctx.plan.overwrite else torch.empty_like(z, memory_format=torch.contiguous_format)
        expanded = None if keep is None else keep.expand(z.shape)
        with no_autocast(z):
            for i, (z_b, out_b, keep_b) in enumerate(blocks(_rows(ctx.plan, z, parameters), z, out, expanded)):
                _, hidden = _hidden(saved, i, z_b, inner, ctx.eps, dtype)
                write(out_b, affine(hidden, w2, b2).view(z_b.shape), keep_b, z_b if ctx.plan.add else None)
        saved.store(ctx, z, keep, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments, but of masks."""
        saved, (z, keep, *parameters) = Saved.for_backward(ctx)
        dtype = ctx.product_dtype
        inner, w2 = _inner(parameters, dtype), parameters[4].to(dtype)
        sums = sums_like(*parameters)
        grad_norm, (grad_w1, grad_b1, grad_w2, grad_b2) = sums[:2], sums[2:]
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        keep = None if keep is None else keep.expand(z.shape)
        with no_autocast(z):
            for i, block in enumerate(blocks(_rows(ctx.plan, z, parameters), z, grad_z, keep, grad)):
                z_b, grad_z_b, keep_b, grad_b = block
                norm, hidden = _hidden(saved, i, z_b, inner, ctx.eps, dtype)
                grad_update = (grad_b if keep_b is None else grad_b * keep_b).flatten(0, 1).to(dtype)
                grad_b2 += grad_update.sum(dim=0)
                add_product(grad_w2, grad_update.t(), hidden)
                grad_hidden = grad_update @ w2
                torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
                grad_b1 += grad_hidden.sum(dim=0)
                add_product(grad_w1, grad_hidden.t(), norm.out)
                grad_x = norm.backward(grad_hidden @ inner[2], *grad_norm).view(z_b.shape)
                write(grad_z_b, grad_x, None, grad_b if ctx.plan.add else None)
        return grad_z, None, *as_gradients(sums, tuple(parameters)), None, None


def _rows(plan: Plan, z: Tensor, parameters: list[Tensor]) -> int:
    return plan.rows_for(z, z.shape[2] * len(parameters[2]))


def _inner(parameters: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those of the layer norm and of the first layer, this one in the format of the products."""
    norm_weight, norm_bias, w1, b1 = parameters[:4]
    return norm_weight, norm_bias, w1.to(dtype), b1.to(dtype)


def _hidden(
    saved: Saved, index: int, z_b: Tensor, inner: tuple[Tensor, ...], eps: float, dtype: torch.dtype
) -> tuple[LayerNorm, Tensor]:
    """Of one block of rows: the layer norm, and the activations [M, m] after the first layer."""
    norm_weight, norm_bias, w1, b1 = inner
    norm = LayerNorm(z_b.flatten(0, 1), norm_weight, norm_bias, eps, dtype, saved, ("norm", index))
    (hidden,) = saved.of(("hidden", index), lambda: (affine(norm.out, w1, b1).relu_(),))
    return norm, hidden
