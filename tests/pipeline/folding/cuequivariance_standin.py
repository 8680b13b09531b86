"""A stand-in for ``cuequivariance_torch`` where there is no GPU: its signatures, the formulas written out in float64.

Independent of the project's kernels: Jumper et al. 2021, Algorithms 11 to 14 line by line, on tensors laid out and
checked as cuEquivariance 0.13 documents them. ``calls`` counts, so that a test sees whether anything came here.
"""

import sys
from collections import Counter
from types import ModuleType

import torch
from torch import Tensor

calls: Counter[str] = Counter()

__version__ = "0.0 (stand-in)"


def triangle_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    return_aux: bool = False,
    *,
    kv_lengths: Tensor | None = None,
) -> Tensor:
    calls["attention"] += 1
    batch, n, heads, queries, d = q.shape
    assert k.shape == v.shape == (batch, n, heads, k.shape[3], d)
    assert bias.shape == (batch, 1, heads, queries, k.shape[3]) and bias.dtype is torch.float32
    assert q.dtype is k.dtype is v.dtype and q.dtype in (torch.float32, torch.bfloat16)
    assert not return_aux and kv_lengths is None
    assert not torch.is_autocast_enabled(q.device.type), "it would choose another number format"
    logits = (d**-0.5 if scale is None else scale) * torch.einsum("bihqd,bihkd->bihqk", q.double(), k.double())
    logits = logits + bias.double()
    if mask is not None:
        assert mask.shape == (batch, n, 1, 1, k.shape[3]) and mask.dtype is torch.bool
        logits = torch.where(mask, logits, -1e9)
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bihqk,bihkd->bihqd", weights, v.double()).to(q.dtype)


def triangle_multiplicative_update(
    x: Tensor,
    direction: str = "outgoing",
    mask: Tensor | None = None,
    norm_in_weight: Tensor | None = None,
    norm_in_bias: Tensor | None = None,
    p_in_weight: Tensor | None = None,
    p_in_bias: Tensor | None = None,
    g_in_weight: Tensor | None = None,
    g_in_bias: Tensor | None = None,
    norm_out_weight: Tensor | None = None,
    norm_out_bias: Tensor | None = None,
    p_out_weight: Tensor | None = None,
    p_out_bias: Tensor | None = None,
    g_out_weight: Tensor | None = None,
    g_out_bias: Tensor | None = None,
    eps: float = 1e-5,
    precision: int | None = None,
) -> Tensor:
    calls["multiplication"] += 1
    batch, n, m, channels = x.shape
    hidden = len(p_in_weight) // 2
    assert n == m and channels % 32 == 0 and hidden % 32 == 0
    assert p_in_weight.shape == g_in_weight.shape == (2 * hidden, channels)
    assert p_in_bias.shape == g_in_bias.shape == (2 * hidden,)
    assert p_out_weight.shape == (channels, hidden) and g_out_weight.shape == (channels, channels)
    assert mask is None or mask.shape == (batch, n, n)
    assert precision is None
    # Under autocast layer norms read the float32 input, matrix products the shorter format, as 0.13 does.
    short = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype

    def rounded(t: Tensor) -> Tensor:
        return t.to(short).double()

    def norm(t: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double() + bias.double()

    def project(t: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.einsum("bijc,dc->bijd", t, rounded(weight)) + rounded(bias)

    with torch.autocast(x.device.type, enabled=False):
        normal = rounded(norm(x.double(), norm_in_weight, norm_in_bias))
        factors = []
        for rows in (slice(None, hidden), slice(hidden, None)):  # a, b
            gate = 1 / (1 + torch.exp(-project(normal, g_in_weight[rows], g_in_bias[rows])))
            factors.append(gate * project(normal, p_in_weight[rows], p_in_bias[rows]))
        a, b = factors if mask is None else (t * mask.double()[..., None] for t in factors)
        formula = {"outgoing": "bikc,bjkc->bijc", "incoming": "bkic,bkjc->bijc"}[direction]
        update = torch.einsum(formula, rounded(a), rounded(b))
        update = project(rounded(norm(update, norm_out_weight, norm_out_bias)), p_out_weight, p_out_bias)
        gate = 1 / (1 + torch.exp(-project(normal, g_out_weight, g_out_bias)))
        return (gate * update).to(short)


def install(monkeypatch, **replaced: object) -> ModuleType:
    """Let ``import cuequivariance_torch`` find this until the test ends, with ``replaced`` functions."""
    module = ModuleType("cuequivariance_torch")
    functions = (triangle_attention, triangle_multiplicative_update)
    vars(module).update({f.__name__: f for f in functions} | {"__version__": __version__} | replaced)
    monkeypatch.setitem(sys.modules, "cuequivariance_torch", module)
    monkeypatch.setitem(sys.modules, "cuequivariance_ops_torch", ModuleType("cuequivariance_ops_torch"))
    calls.clear()
    return module
