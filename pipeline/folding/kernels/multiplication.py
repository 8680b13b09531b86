"""Triangle multiplicative update (Jumper et al. 2021, Algorithms 11 and 12) with its gradient.

The projections a and b are laid out channels first, [h, N, N], so that the sum over the third residue is one matrix
product per channel without any transposition.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.folding.kernels.common import (
    LayerNorm,
    Norms,
    Saved,
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

    Needs its input and the sum over k for the backward pass. Arguments: ``z`` [B, N, N, c]; pair ``mask`` [B, N, N] or
    None where all is real; ``keep``, the dropout mask, of a shape that broadcasts to z, or None; weight and bias of the
    first layer norm [c]; ``w_in`` [4h, c] and ``b_in`` [4h], the projections a, b and the gates of a, b; weight and
    bias of the second layer norm [h]; ``w_z`` [c, h], ``b_z`` [c]; ``w_g`` [c, c], ``b_g`` [c]; eps of the layer norms;
    ``outgoing``: sum_k a_ik b_jk, else sum_k a_ki b_kj; a ``Plan``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        mask: Tensor | None,
        keep: Tensor | None,
        *arguments: Any,
    ) -> Tensor:
        """See the class."""
        *parameters, ctx.eps, ctx.outgoing, ctx.plan = arguments
        ctx.product_dtype = dtype = product_dtype(z)
        saved = Saved.for_forward(ctx, z, ctx.plan)
        norm, (w_in, b_in), out_norm, output, gate = _pairs(parameters, dtype)
        batch, n, _, channels = z.shape
        hidden = len(w_in) // 4
        group = hidden if n < LONG else -(-hidden // 4)
        w_in, b_in = w_in.view(4, hidden, channels), b_in.view(4, hidden)
        product = z.new_empty((batch, hidden, n, n), dtype=dtype)
        keep = None if keep is None else keep.expand(z.shape)
        out = z if ctx.plan.overwrite else torch.empty_like(z, memory_format=torch.contiguous_format)
        with no_autocast(z):
            for b in range(batch):
                pair_mask = None if mask is None else mask[b]
                for c in range(0, hidden, group):
                    part = slice(c, c + group)
                    weight, bias = w_in[:, part].flatten(0, 1), b_in[:, part].flatten()
                    rows = ctx.plan.rows_for(z, n * len(weight))
                    norms = Norms(z[b], norm, ctx.eps, dtype, rows, saved, b)
                    saves = saved.saves and group == hidden
                    gates_ab = z.new_empty((2 if saves else 1, len(weight) // 2, n, n), dtype=dtype)
                    gates, ab = gates_ab[0] if saves else None, gates_ab[-1]
                    for i in range(0, n, rows):
                        _gated(ab, gates, i, rows, norms.at(i).out, pair_mask, weight, bias)
                    if saves:
                        saved.keep(("gates", b), gates_ab)
                    left, right = ab.chunk(2)
                    if ctx.outgoing:
                        torch.bmm(left, right.transpose(1, 2), out=product[b, part])
                    else:
                        torch.bmm(left.transpose(1, 2), right, out=product[b, part])
                    del gates_ab, gates, ab, left, right
                norms = Norms(z[b], norm, ctx.eps, dtype, ctx.plan.rows_for(z, n * w_in[:, :, 0].numel()), saved, b)
                for i in range(0, n, norms.rows):
                    here = slice(i, i + norms.rows)
                    z_b = z[b, here]
                    _, value, opened = _output(norms, i, product[b], (*out_norm, *output, *gate))
                    kept = None if keep is None else keep[b, here]
                    write(out[b, here], (value * opened).view(z_b.shape), kept, z_b if ctx.plan.add else None)
        saved.store(ctx, z, mask, keep, product, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments, but of masks."""
        saved, (z, mask, keep, product, *parameters) = Saved.for_backward(ctx)
        dtype = ctx.product_dtype
        norm, (w_in, b_in), out_norm, output, gate = _pairs(parameters, dtype)
        (w_z, _), (w_g, _) = output, gate
        sums = sums_like(*parameters)
        grad_norm, (grad_w_in, grad_b_in), grad_out_norm, (grad_w_z, grad_b_z), (grad_w_g, grad_b_g) = _pairs(sums)
        batch, n = z.shape[:2]
        hidden = len(w_in) // 4
        rows = ctx.plan.rows_for(z, n * len(w_in))
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        with no_autocast(z):
            for b in range(batch):
                norms = Norms(z[b], norm, ctx.eps, dtype, rows, saved, b)
                grad_product = torch.empty_like(product[b])
                again = ("gates", b) not in saved
                if again:
                    gates_ab = product.new_empty((2, 2 * hidden, n, n))
                else:
                    (gates_ab,) = saved[("gates", b)]
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b, grad_b = z[b, here], grad[b, here]
                    x = norms.at(i)
                    y, value, opened = _output(norms, i, product[b], (*out_norm, *output, *gate))
                    grad_update = (grad_b if keep is None else grad_b * keep[b, here]).flatten(0, 1).to(dtype)
                    grad_y = grad_update * opened
                    grad_logit = (value * grad_y).mul_(1 - opened)  # sigmoid' = gate (1 - gate)
                    grad_b_z += grad_y.sum(dim=0)
                    add_product(grad_w_z, grad_y.t(), y.out)
                    grad_b_g += grad_logit.sum(dim=0)
                    add_product(grad_w_g, grad_logit.t(), x.out)
                    grad_product[:, here].view(hidden, -1).copy_(y.backward(grad_y @ w_z, *grad_out_norm).t())
                    grad_x = x.backward(grad_logit @ w_g, *grad_norm).view(z_b.shape)
                    write(grad_z[b, here], grad_x, None, grad_b if ctx.plan.add else None)
                    if again:
                        _gated(gates_ab[1], gates_ab[0], i, rows, x.out, None if mask is None else mask[b], w_in, b_in)
                # What was saved stays as it is; what was computed again makes room for its gradients.
                gradients = gates_ab if again else torch.empty_like(gates_ab)
                for c in range(0, hidden, CHANNELS):
                    _product_gradients(gates_ab, grad_product, slice(c, c + CHANNELS), ctx.outgoing, gradients)
                del grad_product, gates_ab
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    x = norms.at(i)
                    grad_h = gradients.flatten(0, 1)[:, here].reshape(len(w_in), -1)
                    grad_b_in += grad_h.sum(dim=1)
                    add_product(grad_w_in, grad_h, x.out)
                    grad_z[b, here] += x.backward(grad_h.t() @ w_in, *grad_norm).view(z[b, here].shape)
                del gradients
        return grad_z, None, None, *as_gradients(sums, tuple(parameters)), None, None, None


def _pairs(parameters: list[Tensor], dtype: torch.dtype | None = None) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of first norm, inputs, second norm, output, gate; all but the norms in ``dtype``."""
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    return [p if dtype is None or i in (0, 2) else (p[0].to(dtype), p[1].to(dtype)) for i, p in enumerate(pairs)]


def _output(
    norms: Norms, first: int, product: Tensor, parameters: tuple[Tensor, ...]
) -> tuple[LayerNorm, Tensor, Tensor]:
    """Of a block of rows: the layer norm of the sum over k, its projection, and the gate of that, [M, c] each."""
    out_weight, out_bias, w_z, b_z, w_g, b_g = parameters
    saved, key = norms.saved, (norms.sample, first)
    summed = product[:, first : first + norms.rows].view(len(product), -1).t()
    y = LayerNorm(summed, out_weight, out_bias, norms.eps, norms.dtype, saved, ("out norm", *key))

    def compute() -> tuple[Tensor, Tensor]:
        return affine(y.out, w_z, b_z), affine(norms.at(first).out, w_g, b_g).sigmoid_()

    projected, gate = saved.of(("output", *key), compute)
    return y, projected, gate


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


def _product_gradients(gates_ab: Tensor, grad_product: Tensor, part: slice, outgoing: bool, gradients: Tensor) -> None:
    """Write the gradients of values and of their gates' logits, for some channels, to ``gradients`` [2, 2h, N, N].

    It may be ``gates_ab``, [2, 2h, N, N] too: gates, and a and b.
    """
    gates, ab = (pair.chunk(2) for pair in gates_ab)  # a and b, [h, N, N] each
    grad_values, grad_logits = (pair.chunk(2) for pair in gradients)
    grad_p, a, b = grad_product[part], ab[0][part], ab[1][part]
    transposed = grad_p.transpose(1, 2)
    incoming = (grad_p @ b, transposed @ a) if outgoing else (b @ transposed, a @ grad_p)
    for k, (grad, value) in enumerate(zip(incoming, (a, b), strict=True)):
        gate, grad_logit = gates[k][part], grad_logits[k][part]
        torch.mul(value, grad, out=grad_logit)
        grad_logit.addcmul_(
            grad_logit, gate, value=-1
        )  # value = v mask g, its derivative by g's logit is value (1 - g)
        torch.mul(gate, grad, out=grad_values[k][part])
