"""Triangle self-attention (Jumper et al. 2021, Algorithms 13 and 14) with its gradient.

PyTorch's fused attention takes a slow path on a CPU when its bias needs a gradient, and would keep tensors of all
N^3 logits. Here a few rows at a time are attended over and forgotten.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.folding.kernels.common import (
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

MASK_BIAS = 1e9
"""Subtracted from attention logits where the key is masked."""


class TriangleSelfAttention(torch.autograd.Function):
    """``keep * (Wo (sigmoid(Wg x + bg) * attention(Wq x, Wk x, Wv x, bias Wb x)) + bo)`` with x = LN(z).

    Needs its input and the attended values for the backward pass. Arguments: ``z`` [B, N, N, c]; pair ``mask``
    [B, N, N] or None where all is real; ``keep``, the dropout mask, of a shape that broadcasts to z, or None; weight
    and bias of the layer norm [c]; ``w_b`` [H, c]; ``w`` [4 H d, c], projections q (with the scale 1/sqrt(d) in it), k,
    v and gate, each head by head; ``b_g`` [H d]; ``w_o`` [c, H d], ``b_o`` [c]; eps of the layer norm; ``starting``:
    along rows, else along columns; a ``Plan``.
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
        *parameters, ctx.eps, ctx.starting, ctx.plan = arguments
        ctx.product_dtype = dtype = product_dtype(z)
        saved = Saved.for_forward(ctx, z, ctx.plan)
        norm = parameters[:2]
        w_b, w, b_g, w_o, b_o = (p.to(dtype) for p in parameters[2:])
        batch, n = z.shape[:2]
        width, heads = len(b_g), len(w_b)
        out = z if ctx.plan.overwrite else torch.empty_like(z, memory_format=torch.contiguous_format)
        attended = None if ctx.plan.overwrite else z.new_empty((batch, n, n, width), dtype=dtype)
        keep = None if keep is None else keep.expand(z.shape)
        tensors: tuple[Any, ...] = (z, mask, keep, out)
        z_t, mask_t, keep_t, out_t = (t if ctx.starting else _transposed(t) for t in tensors)
        rows = ctx.plan.rows_for(z, n * max(n, 4 * width))
        with no_autocast(z):
            for b in range(batch):
                norms = Norms(z_t[b], norm, ctx.eps, dtype, rows, saved, b)
                bias = _pair_bias(norms, w_b)
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b = z_t[b, here]
                    q, k, v, logit = _projections(norms, i, w).unbind(2)  # [rows, N, H d] each
                    key_bias = None if mask is None else MASK_BIAS * (mask_t[b, here].to(bias.dtype) - 1)
                    values = torch.empty_like(v, memory_format=torch.contiguous_format)
                    split = [_heads(t, heads) for t in (q, k, v, values)]
                    for h, (q_h, k_h, v_h, out_h) in enumerate(zip(*split, strict=True)):
                        out_h.copy_(torch.bmm(_attention(q_h, k_h, bias[h], key_bias).to(dtype), v_h))
                    if attended is not None:
                        attended[b, here] = values
                    update = affine((values * (logit + b_g).sigmoid_()).flatten(0, 1), w_o, b_o).view(z_b.shape)
                    kept = None if keep is None else keep_t[b, here]
                    write(out_t[b, here], update, kept, z_b if ctx.plan.add else None)
        saved.store(ctx, z, mask, keep, attended, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments, but of masks."""
        saved, (z, mask, keep, attended, *parameters) = Saved.for_backward(ctx)
        dtype = ctx.product_dtype
        norm = parameters[:2]
        w_b, w, b_g, w_o, _ = (p.to(dtype) for p in parameters[2:])
        sums = sums_like(*parameters)
        grad_norm, (grad_w_b, grad_w, grad_b_g, grad_w_o, grad_b_o) = sums[:2], sums[2:]
        batch, n = z.shape[:2]
        width, heads = len(b_g), len(w_b)
        grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
        tensors: tuple[Any, ...] = (z, mask, keep, grad, grad_z)
        z_t, mask_t, keep_t, grad_t, grad_z_t = (t if ctx.starting else _transposed(t) for t in tensors)
        rows = ctx.plan.rows_for(z, n * max(n, 4 * width))
        with no_autocast(z):
            for b in range(batch):
                norms = Norms(z_t[b], norm, ctx.eps, dtype, rows, saved, b)
                bias = _pair_bias(norms, w_b)
                grad_bias = torch.zeros_like(bias)
                for i in range(0, n, rows):
                    here = slice(i, i + rows)
                    z_b, grad_b = z_t[b, here], grad_t[b, here]
                    x, qkvg = norms.at(i), _projections(norms, i, w)
                    q, k, v, logit = qkvg.unbind(2)
                    gate = (logit + b_g).sigmoid_()
                    values = attended[b, here]
                    grad_update = (grad_b if keep is None else grad_b * keep_t[b, here]).flatten(0, 1).to(dtype)
                    gated = values * gate
                    grad_b_o += grad_update.sum(dim=0)
                    add_product(grad_w_o, grad_update.t(), gated.flatten(0, 1))
                    grad_gated = (grad_update @ w_o).view(gate.shape)
                    grad_qkvg = torch.empty_like(qkvg)
                    grad_q, grad_k, grad_v, grad_logit = grad_qkvg.unbind(2)
                    torch.mul(grad_gated, gated.mul_(1 - gate), out=grad_logit)  # sigmoid' = gate (1 - gate)
                    grad_values = grad_gated.mul_(gate)
                    key_bias = None if mask is None else MASK_BIAS * (mask_t[b, here].to(bias.dtype) - 1)
                    split = [_heads(t, heads) for t in (q, k, v, grad_values, grad_q, grad_k, grad_v)]
                    for h, (q_h, k_h, v_h, g_h, grad_q_h, grad_k_h, grad_v_h) in enumerate(zip(*split, strict=True)):
                        p = _attention(q_h, k_h, bias[h], key_bias)
                        grad_v_h.copy_(torch.bmm(p.to(dtype).transpose(1, 2), g_h))
                        grad_s = torch.bmm(g_h, v_h.transpose(1, 2)).to(p.dtype)
                        torch._softmax_backward_data(grad_s, p, -1, p.dtype, grad_input=grad_s)
                        grad_bias[h] += grad_s.sum(dim=0)
                        grad_s = grad_s.to(dtype)
                        grad_q_h.copy_(torch.bmm(grad_s, k_h))
                        grad_k_h.copy_(torch.bmm(grad_s.transpose(1, 2), q_h))
                    grad_qkvg = grad_qkvg.view(-1, 4 * width)
                    grad_b_g += grad_qkvg[:, 3 * width :].sum(dim=0)
                    add_product(grad_w, grad_qkvg.t(), x.out)
                    grad_x = x.backward(grad_qkvg @ w, *grad_norm).view(z_b.shape)
                    write(grad_z_t[b, here], grad_x, None, grad_b if ctx.plan.add else None)
                _add_bias_gradients(grad_bias, norms, w_b, grad_z_t[b], grad_w_b, grad_norm)
        return grad_z, None, None, *as_gradients(sums, tuple(parameters)), None, None, None


class PairBias(torch.autograd.Function):
    """``W LN(z)``, channels first: [B, H, N, N] from ``z`` [B, N, N, c]; needs its input for the backward pass.

    Arguments: ``z``; weight and bias of the layer norm [c]; ``w`` [H, c]; eps of the layer norm; a ``Plan``.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, *arguments: Any) -> Tensor:
        """See the class."""
        *parameters, ctx.eps, ctx.plan = arguments
        ctx.product_dtype = dtype = product_dtype(z)
        saved = Saved.for_forward(ctx, z, ctx.plan)
        *norm, w = parameters
        rows = ctx.plan.rows_for(z, z.shape[2] * z.shape[3])
        with no_autocast(z):
            norms = (Norms(z_b, norm, ctx.eps, dtype, rows, saved, b) for b, z_b in enumerate(z))
            out = torch.stack([_pair_bias(of_sample, w.to(dtype)) for of_sample in norms])
        saved.store(ctx, z, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors among the arguments."""
        saved, (z, *parameters) = Saved.for_backward(ctx)
        *norm, w = parameters
        sums = sums_like(*parameters)
        *grad_norm, grad_w = sums
        grad_z = torch.zeros_like(z, memory_format=torch.contiguous_format)
        rows = ctx.plan.rows_for(z, z.shape[2] * z.shape[3])
        dtype = ctx.product_dtype
        with no_autocast(z):
            for b, (z_b, grad_b, grad_z_b) in enumerate(zip(z, grad, grad_z, strict=True)):
                norms = Norms(z_b, norm, ctx.eps, dtype, rows, saved, b)
                _add_bias_gradients(grad_b, norms, w.to(dtype), grad_z_b, grad_w, grad_norm)
        return grad_z, *as_gradients(sums, tuple(parameters)), None, None


def _transposed(t: Any) -> Any:
    return None if t is None else t.transpose(1, 2)


def _heads(t: Tensor, heads: int) -> list[Tensor]:
    """Views [rows, N, d] of [rows, N, H d]."""
    return list(t.unflatten(-1, (heads, -1)).unbind(2))


def _pair_bias(norms: Norms, w_b: Tensor) -> Tensor:
    """[H, N, N] in the format of the softmax, at least float32, from the normalised z [N, N, c]."""

    def compute() -> tuple[Tensor]:
        n = len(norms.z)
        bias = norms.z.new_empty((len(w_b), n, n), dtype=torch.promote_types(w_b.dtype, torch.float32))
        for i in range(0, n, norms.rows):
            bias[:, i : i + norms.rows] = (w_b @ norms.at(i).out.t()).view(len(w_b), -1, n)
        return (bias,)

    return norms.saved.of(("bias", norms.sample), compute)[0]


def _projections(norms: Norms, first: int, w: Tensor) -> Tensor:
    """q, k, v and the gate's logit of a block of rows: [rows, N, 4, H d]."""
    key = ("projections", norms.sample, first)
    (out,) = norms.saved.of(key, lambda: (norms.at(first).out @ w.t(),))
    return out.view(-1, norms.z.shape[1], 4, len(w) // 4)


def _add_bias_gradients(
    grad_bias: Tensor, norms: Norms, w_b: Tensor, grad_z: Tensor, grad_w_b: Tensor, grad_norm: list[Tensor]
) -> None:
    """Add to ``grad_z`` [N, N, c], ``grad_w_b`` and ``grad_norm`` what ``grad_bias`` [H, N, N] gives them."""
    for i in range(0, len(norms.z), norms.rows):
        here = slice(i, i + norms.rows)
        x = norms.at(i)
        grad = grad_bias[:, here].reshape(len(w_b), -1).to(w_b.dtype)
        add_product(grad_w_b, grad, x.out)
        grad_z[here] += x.backward(grad.t() @ w_b, *grad_norm).view(grad_z[here].shape)


def _attention(q: Tensor, k: Tensor, bias: Tensor, key_bias: Tensor | None) -> Tensor:
    """Attention weights [rows, N, N] of one head from q, k [rows, N, d], bias [N, N] and key bias [rows, N]."""
    if q.dtype == bias.dtype:
        logits = torch.baddbmm(bias.expand(len(q), -1, -1), q, k.transpose(1, 2))
    else:
        logits = torch.bmm(q, k.transpose(1, 2)).to(bias.dtype).add_(bias)
    if key_bias is not None:
        logits += key_bias[:, None]
    return torch.softmax(logits, dim=-1, out=logits)
