"""Triangle multiplicative update (Jumper et al. 2021, Algorithms 11 and 12) with its gradient.

The projections a and b are laid out channels first, [h, N, N], so that the sum over the third residue is one matrix
product per channel without any transposition.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from pipeline.folding.kernels.common import (
    LayerNorm,
    Plan,
    add_product,
    affine,
    as_gradients,
    no_autocast,
    product_dtype,
    sums_like,
    write,
)

LONG = 512
"""From this length on the forward pass computes a and b for a quarter of the channels at a time: they are as large as
the pair representation itself, and the layer norm, which is then repeated, is little beside the products."""

CHANNELS = 8
"""Channels of the gradients of a and b at a time."""


class TriangleProduct(torch.autograd.Function):
    """``keep * sigmoid(Wg x + bg) * (Wz LN(sum_k a b) + bz)`` with x = LN(z), a and b gated projections of x.

    Keeps its input and the sum over k for the backward pass. Arguments: ``z`` [B, N, N, c]; pair ``mask`` [B, N, N] or
    None where all is real; ``keep``, the dropout mask, of a shape that broadcasts to z, or None; weight and bias of the
    first layer norm [c]; ``w_in`` [4h, c] and ``b_in`` [4h], the projections a, b and the gates of a, b; weight and
    bias of the second layer norm [h]; ``w_z`` [c, h], ``b_z`` [c]; ``w_g`` [c, c], ``b_g`` [c]; eps of the layer norms;
    ``outgoing``: sum_k a_ik b_jk, else sum_k a_ki b_kj; a ``Plan``.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        z: Tensor,
        mask: Tensor | None,
        keep: Tensor | None,
        *arguments: Tensor | float | bool | Plan,
    ) -> Tensor:
        """See the class."""
        *parameters, ctx.eps, ctx.outgoing, ctx.plan = arguments
        ctx.product_dtype = dtype = product_dtype(z)
        norm, (w_in, b_in), out_norm, (w_z, b_z), (w_g, b_g) = _pairs(parameters, dtype)
        batch, n, _, channels = z.shape
        hidden = len(w_in) // 4
        group = hidden if n < LONG else -(-hidden // 4)
        w_in, b_in = w_in.view(4, hidden, channels), b_in.view(4, hidden)
        product = z.new_empty((batch, hidden, n, n), dtype=dtype)
        keep = None if keep is None else keep.expand(z.shape)
        out = z if ctx.plan.overwrite else torch.empty_like(z, memory_format=torch.contiguous_format)
        with no_autocast(z):
            for b in range(batch):
                for c in range(0, hidden, group):
                    part = slice(c, c + group)
                    weight, bias = w_in[:, part].flatten(0, 1), b_in[:, part].flatten()
                    ab = z.new_empty((len(weight) // 2, n, n), dtype=dtype)
                    rows = ctx.plan.rows_for(z, n * len(weight))
                    for i in range(0, n, rows):
                        x = LayerNorm(z[b, i : i + rows].flatten(0, 1), *norm, ctx.eps, dtype).out
                        _gated(ab, None, i, rows, x, mask if mask is None else mask[b], weight, bias)
                    left, right = ab.chunk(2)
                    if ctx.outgoing:
                        torch.bmm(left, right.transpose(1, 2), out=product[b, part])
                    else:
                        torch.bmm(left.transpose(1, 2), right, out=product[b, part])
                    del ab, left, right
                rows = ctx.plan.rows_for(z, 4 * n * channels)
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b = z[b, here]
                    x = LayerNorm(z_b.flatten(0, 1), *norm, ctx.eps, dtype).out
                    y = LayerNorm(product[b, :, here].view(hidden, -1).t(), *out_norm, ctx.eps, dtype).out
                    update = affine(y, w_z, b_z).mul_(affine(x, w_g, b_g).sigmoid_()).view(z_b.shape)
                    write(out[b, here], update, keep if keep is None else keep[b, here], z_b if ctx.plan.add else None)
        ctx.save_for_backward(z, mask, keep, product, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments, but of masks."""
        z, mask, keep, product, *parameters = ctx.saved_tensors
        dtype = ctx.product_dtype
        norm, (w_in, b_in), out_norm, (w_z, b_z), (w_g, b_g) = _pairs(parameters, dtype)
        sums = sums_like(*parameters)
        grad_norm, (grad_w_in, grad_b_in), grad_out_norm, (grad_w_z, grad_b_z), (grad_w_g, grad_b_g) = _pairs(sums)
        batch, n = z.shape[:2]
        hidden = len(w_in) // 4
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        with no_autocast(z):
            for b in range(batch):
                grad_product = torch.empty_like(product[b])
                # Gates, then the gradients of the values; a and b, then the gradients of the gates' logits.
                gates_ab = product.new_empty((2, 2 * hidden, n, n))
                gates, ab = gates_ab
                rows = ctx.plan.rows_for(z, n * len(w_in))
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b, grad_b = z[b, here], grad[b, here]
                    x = LayerNorm(z_b.flatten(0, 1), *norm, ctx.eps, dtype)
                    y = LayerNorm(product[b, :, here].view(hidden, -1).t(), *out_norm, ctx.eps, dtype)
                    grad_update = (grad_b if keep is None else grad_b * keep[b, here]).flatten(0, 1).to(dtype)
                    gate = affine(x.out, w_g, b_g).sigmoid_()
                    grad_y = grad_update * gate
                    # gradient of the gate's logit: that of the gated value times value (1 - gate) gate
                    grad_logit = affine(y.out, w_z, b_z).mul_(grad_y).mul_(gate.neg_().add_(1))
                    grad_b_z += grad_y.sum(dim=0)
                    add_product(grad_w_z, grad_y.t(), y.out)
                    grad_b_g += grad_logit.sum(dim=0)
                    add_product(grad_w_g, grad_logit.t(), x.out)
                    grad_product[:, here].view(hidden, -1).copy_(y.backward(grad_y @ w_z, *grad_out_norm).t())
                    grad_x = x.backward(grad_logit @ w_g, *grad_norm).view(z_b.shape)
                    write(grad_z[b, here], grad_x, None, grad_b if ctx.plan.add else None)
                    _gated(ab, gates, i, rows, x.out, mask if mask is None else mask[b], w_in, b_in)
                for c in range(0, hidden, CHANNELS):
                    _product_gradients(gates_ab, grad_product, slice(c, c + CHANNELS), ctx.outgoing)
                del grad_product
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b = z[b, here]
                    x = LayerNorm(z_b.flatten(0, 1), *norm, ctx.eps, dtype)
                    grad_h = gates_ab.flatten(0, 1)[:, here].reshape(len(w_in), -1)
                    grad_b_in += grad_h.sum(dim=1)
                    add_product(grad_w_in, grad_h, x.out)
                    grad_z[b, here] += x.backward(grad_h.t() @ w_in, *grad_norm).view(z_b.shape)
                del gates_ab, gates, ab
        return grad_z, None, None, *as_gradients(sums, tuple(parameters)), None, None, None


def _pairs(parameters: list[Tensor], dtype: torch.dtype | None = None) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of first norm, inputs, second norm, output, gate; all but the norms in ``dtype``."""
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    return [p if dtype is None or i in (0, 2) else (p[0].to(dtype), p[1].to(dtype)) for i, p in enumerate(pairs)]


def _gated(
    ab: Tensor,
    gates: Tensor | None,
    first: int,
    rows: int,
    x: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor,
) -> None:
    """Fill ``rows`` rows of ``ab`` [2h, N, N], and of ``gates`` with the masked gates, from x [rows * N, c]."""
    here = slice(first, first + rows)
    values, logits = torch.addmm(bias[:, None], weight, x.t()).chunk(2)  # [2h, rows * N] each
    gate = logits.sigmoid_()
    if mask is not None:
        gate *= mask[here].flatten()
    target = ab[:, here]
    torch.mul(values.view(target.shape), gate.view(target.shape), out=target)
    if gates is not None:
        gates[:, here].copy_(gate.view(target.shape))


def _product_gradients(gates_ab: Tensor, grad_product: Tensor, part: slice, outgoing: bool) -> None:
    """Replace gates by the gradients of values, and a and b by those of the gates' logits, for some channels."""
    gates, ab = (pair.chunk(2) for pair in gates_ab)  # a and b, [h, N, N] each
    grad_p, a, b = grad_product[part], ab[0][part], ab[1][part]
    transposed = grad_p.transpose(1, 2)
    gradients = (grad_p @ b, transposed @ a) if outgoing else (b @ transposed, a @ grad_p)
    for grad, gate, value in zip(gradients, (gates[0][part], gates[1][part]), (a, b), strict=True):
        value *= grad
        value.addcmul_(value, gate, value=-1)  # value = v mask g, its derivative by g's logit is value (1 - g)
        gate *= grad
