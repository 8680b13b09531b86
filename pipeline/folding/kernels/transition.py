"""Transition: layer norm, wider layer, ReLU, back (Jumper et al. 2021, Algorithm 15), with its gradient."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from pipeline.folding.kernels.common import (
    LayerNorm,
    Plan,
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
    """``keep * (W2 relu(W1 LN(z) + b1) + b2)``; keeps its input alone for the backward pass.

    Arguments: ``z`` [B, N, N, c]; ``keep``, the dropout mask, of a shape that broadcasts to it, or None; weight and
    bias of the layer norm [c], of the first layer [m, c] and [m], of the second [c, m] and [c]; a ``Plan``.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, keep: Tensor | None, *arguments: Tensor | float | Plan) -> Tensor:
        """See the class."""
        *parameters, eps, plan = arguments
        ctx.eps, ctx.plan, ctx.product_dtype = eps, plan, product_dtype(z)
        ctx.save_for_backward(z, keep, *parameters)
        norm_weight, norm_bias = parameters[:2]
        w1, b1, w2, b2 = (p.to(ctx.product_dtype) for p in parameters[2:])
        out = z if plan.overwrite else torch.empty_like(z, memory_format=torch.contiguous_format)
        keep = None if keep is None else keep.expand(z.shape)
        rows = plan.rows_for(z, z.shape[2] * len(w1))
        with no_autocast(z):
            for z_b, out_b, keep_b in blocks(rows, z, out, keep):
                x = LayerNorm(z_b.flatten(0, 1), norm_weight, norm_bias, eps, ctx.product_dtype).out
                update = affine(affine(x, w1, b1).relu_(), w2, b2).view(z_b.shape)
                write(out_b, update, keep_b, z_b if plan.add else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments, but of masks."""
        z, keep, *parameters = ctx.saved_tensors
        norm_weight, norm_bias = parameters[:2]
        w1, b1, w2, _ = (p.to(ctx.product_dtype) for p in parameters[2:])
        sums = sums_like(*parameters)
        grad_norm_weight, grad_norm_bias, grad_w1, grad_b1, grad_w2, grad_b2 = sums
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        keep = None if keep is None else keep.expand(z.shape)
        rows = ctx.plan.rows_for(z, z.shape[2] * len(w1))
        with no_autocast(z):
            for z_b, grad_z_b, keep_b, grad_b in blocks(rows, z, grad_z, keep, grad):
                norm = LayerNorm(z_b.flatten(0, 1), norm_weight, norm_bias, ctx.eps, ctx.product_dtype)
                hidden = affine(norm.out, w1, b1).relu_()
                grad_update = (grad_b if keep_b is None else grad_b * keep_b).flatten(0, 1).to(ctx.product_dtype)
                grad_b2 += grad_update.sum(dim=0)
                add_product(grad_w2, grad_update.t(), hidden)
                grad_hidden = grad_update @ w2
                torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
                grad_b1 += grad_hidden.sum(dim=0)
                add_product(grad_w1, grad_hidden.t(), norm.out)
                grad_x = norm.backward(grad_hidden @ w1, grad_norm_weight, grad_norm_bias).view(z_b.shape)
                write(grad_z_b, grad_x, None, grad_b if ctx.plan.add else None)
        return grad_z, None, *as_gradients(sums, tuple(parameters)), None, None
