"""Triangle updates of the pair representation, and the two ways from the single to the pair representation.

Jumper et al. 2021, suppl. 1.6.4-1.6.6 (Algorithms 10-14), parameters named as in OpenFold. Shapes: B batch, N residues,
c channels, H heads.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.folding.initialization import linear

MASK_BIAS = 1e9
"""Subtracted from attention logits where the key is masked."""


class TriangleMultiplication(nn.Module):
    """Triangle multiplicative update (Algorithm 11 outgoing edges, Algorithm 12 incoming edges).

    The two projections and their gates are one matrix product that writes channels first, so that the sum over the
    third residue is a plain batched matrix product without copies.
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

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Update of ``z`` [B, N, N, c_z] with pair mask [B, N, N]; same shape, to be added by the caller."""
        batch, n, _, c_z = z.shape
        x = self.layer_norm_in(z)
        parts = (self.linear_a_p, self.linear_b_p, self.linear_a_g, self.linear_b_g)
        weight = torch.cat([part.weight for part in parts])  # [4c, c_z]
        bias = torch.cat([part.bias for part in parts])
        h = torch.matmul(weight, x.view(batch, n * n, c_z).transpose(1, 2)) + bias[:, None]  # [B, 4c, N*N]
        values, gates = h.chunk(2, dim=1)
        ab = values * torch.sigmoid(gates) * mask.reshape(batch, 1, n * n)
        a, b = ab.view(batch, -1, n, n).chunk(2, dim=1)  # [B, c, N, N] each
        # outgoing: sum_k a_ik b_jk; incoming: sum_k a_ki b_kj
        product = a @ b.transpose(-1, -2) if self.outgoing else a.transpose(-1, -2) @ b
        update = self.linear_z(self.layer_norm_out(product.permute(0, 2, 3, 1)))
        return update * torch.sigmoid(self.linear_g(x))


class GatedAttention(nn.Module):
    """Gated multi-head attention with an additive bias, as used inside the triangle attention."""

    def __init__(self, c_in: int, c_hidden: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = c_hidden * num_heads
        self.linear_q = linear(c_in, width, bias=False, init="glorot")
        self.linear_k = linear(c_in, width, bias=False, init="glorot")
        self.linear_v = linear(c_in, width, bias=False, init="glorot")
        self.linear_g = linear(c_in, width, init="gate")
        self.linear_o = linear(width, c_in, init="zero")

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attention over the second to last axis of ``x`` [..., N, c_in]; ``bias`` broadcasts to [..., H, N, N]."""
        weight = torch.cat([self.linear_q.weight, self.linear_k.weight, self.linear_v.weight])
        qkv = F.linear(x, weight).unflatten(-1, (3, self.num_heads, -1))  # [..., N, 3, H, c]
        q, k, v = qkv.movedim(-3, 0).transpose(-2, -3).unbind(0)  # [..., H, N, c]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(-2, -3).flatten(-2)  # [..., N, H*c]
        return self.linear_o(out * torch.sigmoid(self.linear_g(x)))


class TriangleAttention(nn.Module):
    """Triangle self-attention (Algorithm 13 around the starting node, Algorithm 14 around the ending node)."""

    def __init__(self, c_z: int, c_hidden: int, num_heads: int, *, starting: bool) -> None:
        super().__init__()
        self.starting = starting
        self.layer_norm = nn.LayerNorm(c_z)
        self.linear = linear(c_z, num_heads, bias=False)
        self.mha = GatedAttention(c_z, c_hidden, num_heads)

    def forward(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Update of ``z`` [B, N, N, c_z] with pair mask [B, N, N]; same shape, to be added by the caller."""
        if not self.starting:
            z, mask = z.transpose(1, 2), mask.transpose(1, 2)
        x = self.layer_norm(z)
        pair_bias = self.linear(x).permute(0, 3, 1, 2)[:, None]  # [B, 1, H, N, N]
        key_bias = MASK_BIAS * (mask.to(x.dtype) - 1)[:, :, None, None, :]  # [B, N, 1, 1, N]
        update = self.mha(x, pair_bias + key_bias)
        return update if self.starting else update.transpose(1, 2)


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

    def forward(self, s: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pair update [B, N, N, c_z] from ``s`` [B, N, c_s] and residue mask [B, N]."""
        mask = mask.to(s.dtype)
        x = self.layer_norm(s)
        a = self.linear_1(x) * mask[..., None]
        b = self.linear_2(x) * mask[..., None]
        weight = self.linear_out.weight.view(-1, self.c_hidden, self.c_hidden)  # [c_z, c, d]
        t = torch.einsum("zcd,bic->bidz", weight, a)
        out = torch.matmul(b[:, None], t) + self.linear_out.bias  # [B, 1, N, d] @ [B, N, d, c_z]
        return out / (mask[:, :, None, None] * mask[:, None, :, None] + self.eps)


class ProductDifference(nn.Module):
    """ESMFold's sequence-to-pair update: products and differences of two projections (Lin et al. 2023, suppl. A.3)."""

    def __init__(self, c_s: int, c_hidden: int, c_z: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(c_s)
        self.proj = linear(c_s, 2 * c_hidden)
        self.o_proj = linear(2 * c_hidden, c_z, init="zero")

    def forward(self, s: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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
        return product + q_part[:, None] - k_part[:, :, None]
