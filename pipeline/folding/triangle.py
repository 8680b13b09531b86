"""Triangle updates of the pair representation, and the two ways from the single to the pair representation.

Jumper et al. 2021, suppl. 1.6.4-1.6.6 (Algorithms 10-14), parameters named as in OpenFold. Shapes: B batch, N residues,
c channels, H heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.folding.kernels.attention import TriangleSelfAttention
from pipeline.folding.kernels.common import UPDATE, Plan, eagerly
from pipeline.folding.kernels.multiplication import TriangleProduct
from pipeline.folding.linear import bias_of, linear, weight_of


class TriangleMultiplication(nn.Module):
    """Triangle multiplicative update (Algorithm 11 outgoing edges, Algorithm 12 incoming edges).

    The two projections and their gates are one matrix product. ``kernels/multiplication.py`` computes.
    """

    def __init__(self, c_z: int, c_hidden: int, *, outgoing: bool) -> None:
        super().__init__()
        self.outgoing = outgoing
        self.layer_norm_in = nn.LayerNorm(c_z)
        self.layer_norm_out = nn.LayerNorm(c_hidden)
        self.linear_a_p = linear(c_z, c_hidden)
        self.linear_a_g = linear(c_z, c_hidden, init="gate")
        self.linear_b_p = linear(c_z, c_hidden)
        self.linear_b_g = linear(c_z, c_hidden, init="gate")
        self.linear_g = linear(c_z, c_z, init="gate")
        self.linear_z = linear(c_hidden, c_z, init="zero")

    @eagerly
    def forward(
        self, z: torch.Tensor, mask: torch.Tensor | None, keep: torch.Tensor | None = None, plan: Plan = UPDATE
    ) -> torch.Tensor:
        """Update of ``z`` [B, N, N, c_z] with pair mask [B, N, N] (None: no padding), same shape.

        ``keep`` is a dropout mask that broadcasts to ``z``; ``plan`` says whether the update is added to ``z``.
        """
        inputs = (self.linear_a_p, self.linear_b_p, self.linear_a_g, self.linear_b_g)
        return TriangleProduct.apply(
            z,
            mask,
            keep,
            self.layer_norm_in.weight,
            self.layer_norm_in.bias,
            torch.cat([part.weight for part in inputs]),  # [4c, c_z]
            torch.cat([part.bias for part in inputs]),
            self.layer_norm_out.weight,
            self.layer_norm_out.bias,
            self.linear_z.weight,
            self.linear_z.bias,
            self.linear_g.weight,
            self.linear_g.bias,
            self.layer_norm_in.eps,
            self.outgoing,
            plan,
        )


class GatedAttention(nn.Module):
    """Parameters of the gated multi-head attention inside the triangle attention, which computes with them."""

    def __init__(self, c_in: int, c_hidden: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = c_hidden * num_heads
        self.linear_q = linear(c_in, width, bias=False, init="glorot")
        self.linear_k = linear(c_in, width, bias=False, init="glorot")
        self.linear_v = linear(c_in, width, bias=False, init="glorot")
        self.linear_g = linear(c_in, width, init="gate")
        self.linear_o = linear(width, c_in, init="zero")

    def weights(self) -> tuple[torch.Tensor, ...]:
        """[4 H d, c_in] of queries (scaled by 1/sqrt(d)), keys, values, gates; the gates' bias; output's of both."""
        q, k, v, g, o = map(weight_of, (self.linear_q, self.linear_k, self.linear_v, self.linear_g, self.linear_o))
        scale = math.sqrt(self.num_heads / len(q))
        return torch.cat([scale * q, k, v, g]), bias_of(self.linear_g), o, bias_of(self.linear_o)


class TriangleAttention(nn.Module):
    """Triangle self-attention (Algorithm 13 around the starting node, Algorithm 14 around the ending node)."""

    def __init__(self, c_z: int, c_hidden: int, num_heads: int, *, starting: bool) -> None:
        super().__init__()
        self.starting = starting
        self.layer_norm = nn.LayerNorm(c_z)
        self.linear = linear(c_z, num_heads, bias=False)
        self.mha = GatedAttention(c_z, c_hidden, num_heads)

    @eagerly
    def forward(
        self, z: torch.Tensor, mask: torch.Tensor | None, keep: torch.Tensor | None = None, plan: Plan = UPDATE
    ) -> torch.Tensor:
        """As ``TriangleMultiplication.forward``."""
        norm, weights = self.layer_norm, self.mha.weights()
        return TriangleSelfAttention.apply(
            z,
            mask,
            keep,
            norm.weight,
            norm.bias,
            self.linear.weight,
            *weights,
            norm.eps,
            self.starting,
            plan,
        )


class OuterProductMean(nn.Module):
    """AlphaFold2's outer product mean (Algorithm 10) for one sequence, the choice of the LoRTA paper (appendix D.4).

    With one sequence the outer product of a_i and b_j never has to be formed: the output layer is contracted with a_i
    first, T_i = W a_i, and the update of the pair (i, j) is T_i b_j, one batched matrix product.
    """

    def __init__(self, c_s: int, c_z: int, c_hidden: int = 32, eps: float = 1e-3) -> None:
        super().__init__()
        self.c_hidden = c_hidden
        self.eps = eps
        self.layer_norm = nn.LayerNorm(c_s)
        self.linear_1 = linear(c_s, c_hidden)
        self.linear_2 = linear(c_s, c_hidden)
        self.linear_out = linear(c_hidden * c_hidden, c_z, init="zero")

    def forward(self, s: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Pair update [B, N, N, c_z] from ``s`` [B, N, c_s] and residue mask [B, N], None: no padding."""
        x = self.layer_norm(s)
        a, b = self.linear_1(x), self.linear_2(x)
        if mask is not None:
            mask = mask.to(s.dtype)
            a, b = a * mask[..., None], b * mask[..., None]
        weight = self.linear_out.weight.view(-1, self.c_hidden, self.c_hidden)  # [c_z, c, d]
        t = torch.einsum("zcd,bic->bidz", weight, a)
        out = torch.matmul(b[:, None], t).add_(self.linear_out.bias)  # [B, 1, N, d] @ [B, N, d, c_z]
        return out.div_(self.eps + (1 if mask is None else mask[:, :, None, None] * mask[:, None, :, None]))


class ProductDifference(nn.Module):
    """ESMFold's sequence-to-pair update: products and differences of two projections (Lin et al. 2023, suppl. A.3)."""

    def __init__(self, c_s: int, c_hidden: int, c_z: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(c_s)
        self.proj = linear(c_s, 2 * c_hidden)
        self.o_proj = linear(2 * c_hidden, c_z, init="zero")

    def forward(self, s: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Pair update [B, N, N, c_z] from ``s`` [B, N, c_s]; masked pairs are not cleared, as in ESMFold.

        The output layer is applied to products and differences before they are spread over pairs.
        """
        del mask  # same call as OuterProductMean; ESMFold masks later, in the triangle updates
        q, k = self.proj(self.layernorm(s)).chunk(2, dim=-1)  # [B, N, c] each
        weight_product, weight_difference = self.o_proj.weight.chunk(2, dim=-1)  # [c_z, c] each
        t = torch.einsum("zc,bic->bicz", weight_product, k)
        product = torch.matmul(q[:, None], t)  # [B, N, N, c_z]: sum_c q_jc k_ic W_zc
        q_part = F.linear(q, weight_difference, self.o_proj.bias)
        k_part = F.linear(k, weight_difference)
        return product.add_(q_part[:, None]).sub_(k_part[:, :, None])
