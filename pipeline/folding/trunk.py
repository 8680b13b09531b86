"""The folding trunk: blocks over single and pair representations, recycled (Lin et al. 2023, suppl. A.3).

Parameters are named as in fair-esm's ``esm.esmfold.v1.trunk``, so that its state dict loads as it is.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.config.schema import TrunkConfig
from pipeline.folding.kernels.attention import PairBias
from pipeline.folding.kernels.common import (
    ADDED,
    BLOCK_NUMBERS,
    BLOCK_NUMBERS_ELSEWHERE,
    UPDATE,
    Plan,
    automatic_rows,
    eagerly,
)
from pipeline.folding.kernels.multiplication import LONG
from pipeline.folding.kernels.transition import Transition
from pipeline.folding.linear import bias_of, linear, weight_of
from pipeline.folding.structure_module import StructureModule, StructureOutput
from pipeline.folding.triangle import OuterProductMean, ProductDifference, TriangleAttention, TriangleMultiplication

ROWS = 64
"""Rows of the recycled pair representation to normalise at a time."""
RECYCLE_BINS = 15
RECYCLE_MIN_DISTANCE = 3.375
RECYCLE_MAX_DISTANCE = 21.375
"""angstrom; ESMFold's bins of the C-beta distances that are recycled."""
KEPT = {False: {False: 6, True: 10}, True: {False: 28, True: 42}}
"""Tensors of the size of z that the kernels of a block keep for the backward pass: by whether they save more than they
need (``Plan.saves``), and by whether there is triangle attention."""


class RelativePosition(nn.Module):
    """Embedding of the clipped difference of residue indices (Algorithm 4); index 0 is for masked pairs."""

    def __init__(self, bins: int, c_z: int) -> None:
        super().__init__()
        self.bins = bins
        self.embedding = nn.Embedding(2 * bins + 2, c_z)

    def forward(self, residue_index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, N, N, c_z] from ``residue_index`` int64 [B, N] and residue mask [B, N]."""
        offset = residue_index[:, None, :] - residue_index[:, :, None]
        offset = offset.clamp(-self.bins, self.bins) + self.bins + 1
        pair_mask = mask.bool()[:, None, :] & mask.bool()[:, :, None]
        return self.embedding(offset.masked_fill(~pair_mask, 0))


class SequenceAttention(nn.Module):
    """Gated self-attention of the single representation, biased by the pair representation.

    The rows of ``proj`` are laid out head by head: q, k, v of head 0, then of head 1, and so on.
    """

    def __init__(self, c_s: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.proj = linear(c_s, 3 * c_s, bias=False, init="glorot")
        self.g_proj = linear(c_s, c_s, init="gate")
        self.o_proj = linear(c_s, c_s, init="zero")

    def forward(self, s: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
        """Update of ``s`` [B, N, c_s]; ``bias`` [B, H, N, N]; residue mask [B, N], None: no padding."""
        qkv = self.proj(s).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, N, 3c]
        q, k, v = qkv.chunk(3, dim=-1)
        bias = bias.to(q.dtype)
        if mask is not None:
            bias = bias.masked_fill(~mask.bool()[:, None, None, :], torch.finfo(q.dtype).min)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).flatten(-2)  # [B, N, c_s]
        return self.o_proj(out * torch.sigmoid(self.g_proj(s)))


class PairToSequence(nn.Module):
    """The bias that the pair representation gives to the sequence attention."""

    def __init__(self, c_z: int, num_heads: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(c_z)
        self.linear = linear(c_z, num_heads, bias=False, init="zero")

    @eagerly
    def forward(self, z: torch.Tensor, plan: Plan = UPDATE) -> torch.Tensor:
        """[B, H, N, N] from ``z`` [B, N, N, c_z]."""
        norm = self.layernorm
        return PairBias.apply(z, norm.weight, norm.bias, self.linear.weight, norm.eps, plan)


class ResidueMLP(nn.Module):
    """Transition with its residual connection."""

    def __init__(self, channels: int, dropout: float, expansion: int = 4) -> None:
        super().__init__()
        self.dropout = dropout
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            linear(channels, expansion * channels, init="relu"),
            nn.ReLU(),
            linear(expansion * channels, channels, init="zero"),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape as ``x``."""
        return x + self.mlp(x)


class PairMLP(ResidueMLP):
    """Transition of the pair representation."""

    @eagerly
    def forward(self, x: torch.Tensor, plan: Plan = ADDED) -> torch.Tensor:
        """Same shape as ``x`` [B, N, N, c]; ``plan`` says whether the update is added to ``x``."""
        norm, first, _, second, _ = self.mlp
        keep = dropout_mask(x, self.dropout, None) if self.training else None
        parameters = norm.weight, norm.bias, weight_of(first), bias_of(first), weight_of(second), bias_of(second)
        return Transition.apply(x, keep, *parameters, norm.eps, plan)


def dropout_mask(x: torch.Tensor, rate: float, shared_axis: int | None) -> torch.Tensor | None:
    """What dropout multiplies the update of ``x`` [B, N, N, c] with; None where the rate is 0.

    One mask is shared along ``shared_axis``: 1 row-wise, 2 column-wise (suppl. 1.11.6), None: not shared.
    """
    if rate == 0.0:
        return None
    shape = [1 if axis == shared_axis else size for axis, size in enumerate(x.shape)]
    return F.dropout(x.new_ones(shape), rate)


class TrunkBlock(nn.Module):
    """One block: sequence attention and transition, sequence to pair, triangle updates, pair transition."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        c_s, c_z = config.c_s, config.c_z
        heads = c_s // config.sequence_head_width
        self.dropout = config.dropout
        self.layernorm_1 = nn.LayerNorm(c_s)
        self.pair_to_sequence = PairToSequence(c_z, heads)
        self.seq_attention = SequenceAttention(c_s, heads)
        self.mlp_seq = ResidueMLP(c_s, config.dropout)
        if config.pair_update == "outer_product_mean":
            self.sequence_to_pair: nn.Module = OuterProductMean(c_s, c_z, config.c_outer_product)
        else:
            self.sequence_to_pair = ProductDifference(c_s, c_z // 2, c_z)
        self.tri_mul_out = TriangleMultiplication(c_z, c_z, outgoing=True)
        self.tri_mul_in = TriangleMultiplication(c_z, c_z, outgoing=False)
        self.triangle_attention = config.triangle_attention
        if config.triangle_attention:
            width = config.pair_head_width
            self.tri_att_start = TriangleAttention(c_z, width, c_z // width, starting=True)
            self.tri_att_end = TriangleAttention(c_z, width, c_z // width, starting=False)
        self.mlp_pair = PairMLP(c_z, config.dropout)

    def forward(
        self,
        s: torch.Tensor,
        z: torch.Tensor,
        mask: torch.Tensor | None,
        plan: Plan = UPDATE,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Update both representations.

        Args:
            s: [B, N, c_s].
            z: [B, N, N, c_z].
            mask: [B, N] of residues; None: no padding, which saves the masking.
            plan: how to go over ``z``; ``overwrite`` says here that the caller does not need it any more, so that it
                is updated in place without gradients. ``add`` means nothing.

        Returns:
            ``s`` and ``z``, updated.
        """
        plan = replace(plan, overwrite=False) if torch.is_grad_enabled() else replace(plan, waiting=0)
        attended = self.seq_attention(self.layernorm_1(s), mask, self.pair_to_sequence(z, plan))
        s = s + F.dropout(attended, self.dropout, self.training)
        s = self.mlp_seq(s)
        update = self.sequence_to_pair(s, mask)
        if plan.overwrite:
            z = z.add_(update)
        elif update.dtype is z.dtype:
            z = update.add_(z)
        else:  # under autocast: a sum of all updates has no room in bfloat16
            z = z + update
        del update
        pair_mask = None if mask is None else (mask[:, :, None] * mask[:, None, :]).to(z.dtype)
        rate = 2 * self.dropout if self.training else 0.0  # fair-esm drops whole rows and columns at twice the rate
        # From here on ``z`` is our own. What kernels do in place torch 2.13's compiler gets wrong without saying so:
        # they are left out of it (``eagerly``), and should one not be, the result is right all the same.
        own = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        plan = replace(plan, add=True, overwrite=own)
        z = self.tri_mul_out(z, pair_mask, dropout_mask(z, rate, 1), plan)
        z = self.tri_mul_in(z, pair_mask, dropout_mask(z, rate, 2), plan)
        if self.triangle_attention:
            z = self.tri_att_start(z, pair_mask, dropout_mask(z, rate, 1), plan)
            z = self.tri_att_end(z, pair_mask, dropout_mask(z, rate, 2), plan)
        return s, self.mlp_pair(z, plan)


class FoldingTrunk(nn.Module):
    """Blocks and structure module, run once and then ``num_recycles`` times more on their own output."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        c_s, c_z, sm = config.c_s, config.c_z, config.structure_module
        self.pairwise_positional_embedding = RelativePosition(config.position_bins, c_z)
        self.blocks = nn.ModuleList(TrunkBlock(config) for _ in range(config.blocks))
        self.recycle_s_norm = nn.LayerNorm(c_s)
        self.recycle_z_norm = nn.LayerNorm(c_z)
        self.recycle_disto = nn.Embedding(RECYCLE_BINS, c_z)
        with torch.no_grad():
            self.recycle_disto.weight[0] = 0
        self.trunk2sm_s = linear(c_s, sm.c_s)
        self.trunk2sm_z = linear(c_z, sm.c_z)
        self.structure_module = StructureModule(sm)
        self.chunk_size = config.chunk_size

    def set_chunk_size(self, size: int | None) -> None:
        """Rows of the pair representation to work on at a time from now on; None or 0: automatic."""
        if size is not None and size < 0:
            raise ValueError(f"chunk size {size}: expected a number of rows, or 0 for an automatic one")
        self.chunk_size = size or 0

    def chunk_size_for(self, length: int) -> int:
        """Rows that the largest kernel works on at a time for chains of ``length``."""
        c_z = self.config.c_z
        widest = max(length, 4 * c_z) if self.config.triangle_attention else 4 * c_z
        device = self.recycle_z_norm.weight.device.type
        return min(length, self.chunk_size or automatic_rows(device, length, length * widest))

    def forward(
        self,
        single: torch.Tensor,
        pair: torch.Tensor,
        aatype: torch.Tensor,
        residue_index: torch.Tensor,
        mask: torch.Tensor,
        num_recycles: int,
    ) -> tuple[torch.Tensor, torch.Tensor, StructureOutput]:
        """Fold.

        Args:
            single: [B, N, c_s] from the stem.
            pair: [B, N, N, c_z], zeros in ESMFold.
            aatype: int64 [B, N].
            residue_index: int64 [B, N].
            mask: [B, N], 1 for residues, 0 for padding.
            num_recycles: passes after the first; only the last pass carries gradients (Algorithm 31).

        Returns:
            single [B, N, c_s], pair [B, N, N, c_z] and the structure of the last pass.
        """
        plan = Plan(
            rows=self.chunk_size,
            overwrite=True,
            waiting=waiting_blocks(self.config),
        )
        padding = None if bool(mask.all()) else mask  # found out once: it takes a wait for the device
        # What the first pass recycles: zeros, of one pair instead of all.
        recycled_s, recycled_z = torch.zeros_like(single), pair.new_zeros(1, 1, 1, pair.shape[-1])
        bins = torch.zeros((1, 1, 1), dtype=torch.int64, device=pair.device)
        for recycle in range(num_recycles + 1):
            last = recycle == num_recycles
            with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                s = single + self.recycle_s_norm(recycled_s)
                z = self.pairwise_positional_embedding(residue_index, mask).add_(pair)
                self._add_recycled(z, recycled_z, bins)
                recycled_z = None  # type: ignore[assignment]  # its memory is for the blocks
                for block in self.blocks:
                    if self.config.checkpoint_blocks and torch.is_grad_enabled():
                        s, z = checkpoint(block, s, z, padding, plan, use_reentrant=False)
                    else:
                        s, z = block(s, z, padding, plan)
                structure = self.structure_module(self.trunk2sm_s(s), self.trunk2sm_z(z), aatype, mask)
            if not last:
                recycled_s = s.detach()
                recycled_z = z.detach()
                bins = recycle_distogram(structure.positions[-1, :, :, :3].detach())
        return s, z, structure

    def _add_recycled(self, z: torch.Tensor, recycled_z: torch.Tensor, bins: torch.Tensor) -> None:
        """Add what the last pass left to ``z``, in place; without gradients some rows at a time, for less memory."""
        rows = z.shape[1] if torch.is_grad_enabled() or recycled_z.shape[1] == 1 else ROWS
        for i in range(0, z.shape[1], rows):
            here = slice(i, i + rows) if recycled_z.shape[1] > 1 else slice(None)
            update = self.recycle_z_norm(recycled_z[:, here]) + self.recycle_disto(bins[:, here])
            (z if rows == z.shape[1] else z[:, here]).add_(update)


def recycle_distogram(
    backbone: torch.Tensor,
    min_distance: float = RECYCLE_MIN_DISTANCE,
    max_distance: float = RECYCLE_MAX_DISTANCE,
    num_bins: int = RECYCLE_BINS,
) -> torch.Tensor:
    """Bins of the distances between ideal C-beta atoms, int64 [B, N, N].

    Args:
        backbone: N, CA, C positions [B, N, 3, 3] in angstrom.
        min_distance: lowest bin edge in angstrom.
        max_distance: highest bin edge in angstrom.
        num_bins: number of bins; bin 0 holds everything below the lowest edge.
    """
    n, ca, c = backbone.unbind(dim=-2)
    u, v = ca - n, c - ca
    # The tetrahedral position of C-beta as fair-esm writes it: coefficients of an ideal backbone.
    cb = -0.58273431 * torch.cross(u, v, dim=-1) + 0.56802827 * u - 0.54067466 * v + ca
    squared = (cb[..., None, :, :] - cb[..., :, None, :]).square().sum(dim=-1)
    edges = torch.linspace(min_distance, max_distance, num_bins - 1, device=backbone.device, dtype=backbone.dtype)
    return (squared[..., None] > edges.square()).sum(dim=-1)


def waiting_blocks(config: TrunkConfig) -> int:
    """Blocks of a trunk whose kernels wait for their backward pass at one time."""
    return 1 if config.checkpoint_blocks else config.blocks


def peak_bytes(
    config: TrunkConfig,
    batch: int,
    length: int,
    *,
    chunk_size: int = 0,
    training: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> int:
    """Peak of the tensors of one forward pass, or with ``training`` of a forward and a backward pass.

    An estimate in units of the pair representation [B, N, N, c_z], z, which everything else is small beside; tests hold
    it to what is measured within 30%. Without gradients: z, the sum of a triangle multiplication, and its projections
    a and b, of a quarter of the channels for long chains; or z and its two copies in the structure module. With
    gradients: what the kernels of each block keep, and the temporaries of the largest backward pass.

    Args:
        config: shape of the trunk.
        batch: samples.
        length: residues, padding included.
        chunk_size: rows of the pair representation at a time; 0: automatic.
        training: with gradients.
        dtype: of the representations.
        device: ``cpu`` or the kind of accelerator.
    """
    sm, c_z = config.structure_module, config.c_z
    pairs = batch * length * length
    widest = max(length, 4 * c_z) if config.triangle_attention else 4 * c_z
    block = BLOCK_NUMBERS.get(device, BLOCK_NUMBERS_ELSEWHERE)
    buffers = 4 * (min(chunk_size, length) * length * widest if chunk_size else max(block, length * widest))
    heads = config.c_s // config.sequence_head_width
    pair = pairs * c_z
    structure = pairs * (2 * sm.c_z + 6 * sm.heads)
    attention = 3 * pairs * heads
    if not training:
        projections = 2 * length**2 * (c_z if length < LONG else -(-c_z // 4))
        numbers = pair + max(pair + projections, attention, structure)
    else:
        plan = Plan(waiting=waiting_blocks(config))
        kept = KEPT[plan.saves(pair)][config.triangle_attention]
        each = kept * pair + attention
        passes = config.blocks * pair + each if config.checkpoint_blocks else config.blocks * each
        # The backward pass of a block holds three more; while it runs, those of later blocks are gone.
        numbers = pair + passes + max(3 * pair, pairs * (3 * sm.blocks * sm.heads + 3 * sm.c_z))
    single = 20 * batch * length * config.c_s * (1 + (config.blocks if training else 0))
    return (numbers + single + buffers) * dtype.itemsize
