"""The structure module: invariant point attention and backbone updates (Jumper et al. 2021, Algorithms 20, 22, 23).

Parameters are named as in OpenFold. Lengths inside are in units of ``trans_scale`` (10) angstrom; everything that
leaves the module is in angstrom.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.schema import StructureModuleConfig
from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import frames_to_atom14, torsions_to_frames
from pipeline.folding.kernels.common import no_autocast
from pipeline.folding.linear import linear

MASK_BIAS = 1e5
EPS = 1e-8


@dataclass(frozen=True)
class StructureOutput:
    """Everything the losses need, stacked over the K iterations of the structure module."""

    frames: Rigid
    """Backbone frames [K, B, N], angstrom."""
    sidechain_frames: Rigid
    """All eight rigid groups [K, B, N, 8], angstrom."""
    unnormalized_angles: torch.Tensor
    """[K, B, N, 7, 2] before normalisation."""
    angles: torch.Tensor
    """[K, B, N, 7, 2] sine and cosine of omega, phi, psi, chi1-4."""
    positions: torch.Tensor
    """atom14 positions [K, B, N, 14, 3], angstrom."""
    states: torch.Tensor
    """Single representations [K, B, N, c_s] after each iteration."""


class PointProjection(nn.Module):
    """Linear projection to 3D points, laid out coordinate by coordinate as in OpenFold."""

    def __init__(self, c_in: int, num_points: int) -> None:
        super().__init__()
        self.linear = linear(c_in, 3 * num_points)

    def forward(self, s: torch.Tensor, rigids: Rigid, num_heads: int) -> torch.Tensor:
        """Points in the global frame, [B, N, H, P, 3]."""
        points = torch.stack(self.linear(s).chunk(3, dim=-1), dim=-1)  # [B, N, H*P, 3]
        return rigids.unsqueeze(-1).apply(points).unflatten(-2, (num_heads, -1))


class InvariantPointAttention(nn.Module):
    """Invariant point attention (Algorithm 22)."""

    def __init__(self, c_s: int, c_z: int, c_hidden: int, heads: int, qk_points: int, v_points: int) -> None:
        super().__init__()
        self.c_hidden, self.heads, self.qk_points, self.v_points = c_hidden, heads, qk_points, v_points
        self.linear_q = linear(c_s, heads * c_hidden, init="glorot")
        self.linear_kv = linear(c_s, 2 * heads * c_hidden, init="glorot")
        self.linear_q_points = PointProjection(c_s, heads * qk_points)
        self.linear_kv_points = PointProjection(c_s, heads * (qk_points + v_points))
        self.linear_b = linear(c_z, heads)
        self.head_weights = nn.Parameter(torch.full((heads,), math.log(math.e - 1)))  # softplus of it is 1
        self.linear_out = linear(heads * (c_hidden + c_z + 4 * v_points), c_s, init="zero")

    def forward(self, s: torch.Tensor, z: torch.Tensor, rigids: Rigid, mask: torch.Tensor) -> torch.Tensor:
        """Update of ``s`` [B, N, c_s] from ``z`` [B, N, N, c_z], frames [B, N] and residue mask [B, N]."""
        q = self.linear_q(s).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, c]
        kv = self.linear_kv(s).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, 2c]
        k, v = kv.chunk(2, dim=-1)
        q_points = self.linear_q_points(s, rigids, self.heads).transpose(1, 2)  # [B, H, N, P, 3]
        kv_points = self.linear_kv_points(s, rigids, self.heads).transpose(1, 2)
        k_points, v_points = kv_points.split([self.qk_points, self.v_points], dim=-2)

        # 9/2 is the variance of the squared distance of two unit normal points (Algorithm 22, line 7)
        point_weight = F.softplus(self.head_weights) * math.sqrt(1.0 / (3 * (self.qk_points * 9.0 / 2)))
        # -|q - k|^2 / 2 = q k - |q|^2 / 2 - |k|^2 / 2: the product joins that of the scalars in one matrix product, and
        # |q|^2 is the same for every key, so that the softmax does not see it. Distances from the centroid keep the
        # numbers small.
        center = (k_points * mask[:, None, :, None, None]).sum(dim=(2, 3), keepdim=True)
        center = center / (self.qk_points * mask.sum(dim=-1).clamp(min=1))[:, None, None, None, None]
        q_flat, k_flat = (q_points - center).flatten(-2), (k_points - center).flatten(-2)  # [B, H, N, 3P]
        scaled_k = torch.cat([math.sqrt(1.0 / (3 * self.c_hidden)) * k, point_weight[:, None, None] * k_flat], dim=-1)
        key_term = -0.5 * point_weight[:, None] * k_flat.square().sum(dim=-1)  # [B, H, N]
        logits = torch.cat([q, q_flat], dim=-1) @ scaled_k.transpose(-1, -2) + key_term[:, :, None]
        logits = logits + math.sqrt(1.0 / 3) * self.linear_b(z).permute(0, 3, 1, 2)
        pair_mask = mask[:, None, :, None] * mask[:, None, None, :]
        attention = torch.softmax(logits + MASK_BIAS * (pair_mask - 1), dim=-1)  # [B, H, N, N]

        out = (attention @ v).transpose(1, 2).flatten(-2)  # [B, N, H*c]
        out_points = (attention @ v_points.flatten(-2)).unflatten(-1, (-1, 3))  # [B, H, N, P, 3]
        out_points = rigids.unsqueeze(-1).invert_apply(out_points.transpose(1, 2).flatten(-3, -2))  # [B, N, H*P, 3]
        norms = (out_points.square().sum(dim=-1) + EPS).sqrt()
        out_pair = torch.matmul(attention.transpose(1, 2), z).flatten(-2)  # [B, N, H*c_z]
        features = torch.cat([out, *out_points.unbind(dim=-1), norms, out_pair], dim=-1)
        return self.linear_out(features)


class Transition(nn.Module):
    """Three-layer perceptron with a residual connection (Algorithm 20, line 9)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = linear(channels, channels, init="relu")
        self.linear_2 = linear(channels, channels, init="relu")
        self.linear_3 = linear(channels, channels, init="zero")

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """Same shape as ``s``."""
        return s + self.linear_3(torch.relu(self.linear_2(torch.relu(self.linear_1(s)))))


class TransitionStack(nn.Module):
    """Transitions, dropout and layer norm."""

    def __init__(self, channels: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Transition(channels) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """Same shape as ``s``."""
        for layer in self.layers:
            s = layer(s)
        return self.layer_norm(self.dropout(s))


class BackboneUpdate(nn.Module):
    """Six numbers per residue: rotation and translation of the backbone frame (Algorithm 23)."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear = linear(c_s, 6, init="zero")

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """[..., 6]."""
        return self.linear(s)


class AngleBlock(nn.Module):
    """Residual block of the torsion head (Algorithm 20, lines 12-13)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = linear(channels, channels, init="relu")
        self.linear_2 = linear(channels, channels, init="zero")

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Same shape as ``a``."""
        return a + self.linear_2(torch.relu(self.linear_1(torch.relu(a))))


class AngleResnet(nn.Module):
    """Torsion angles as points on the unit circle (Algorithm 20, lines 11-14)."""

    def __init__(self, c_in: int, c_hidden: int, num_blocks: int, num_angles: int) -> None:
        super().__init__()
        self.linear_in = linear(c_in, c_hidden)
        self.linear_initial = linear(c_in, c_hidden)
        self.layers = nn.ModuleList(AngleBlock(c_hidden) for _ in range(num_blocks))
        self.linear_out = linear(c_hidden, 2 * num_angles)

    def forward(self, s: torch.Tensor, s_initial: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unnormalised and normalised (sin, cos), [B, N, 7, 2] each."""
        a = self.linear_initial(torch.relu(s_initial)) + self.linear_in(torch.relu(s))
        for layer in self.layers:
            a = layer(a)
        angles = self.linear_out(torch.relu(a)).unflatten(-1, (-1, 2))
        norm = angles.square().sum(dim=-1, keepdim=True).clamp(min=EPS).sqrt()
        return angles, angles / norm


class StructureModule(nn.Module):
    """Structure module (Algorithm 20): iterations with shared weights from all frames at the origin."""

    def __init__(self, config: StructureModuleConfig) -> None:
        super().__init__()
        self.config = config
        c_s, c_z = config.c_s, config.c_z
        self.layer_norm_s = nn.LayerNorm(c_s)
        self.layer_norm_z = nn.LayerNorm(c_z)
        self.linear_in = linear(c_s, c_s)
        self.ipa = InvariantPointAttention(c_s, c_z, config.c_ipa, config.heads, config.qk_points, config.v_points)
        self.ipa_dropout = nn.Dropout(config.dropout)
        self.layer_norm_ipa = nn.LayerNorm(c_s)
        self.transition = TransitionStack(c_s, config.transition_layers, config.dropout)
        self.bb_update = BackboneUpdate(c_s)
        self.angle_resnet = AngleResnet(c_s, config.c_resnet, config.resnet_blocks, num_angles=7)

    def forward(
        self, single: torch.Tensor, pair: torch.Tensor, aatype: torch.Tensor, mask: torch.Tensor
    ) -> StructureOutput:
        """Fold, in float32 at least: bfloat16 is too coarse for coordinates, and ``torch.autocast`` ends here.

        Args:
            single: [B, N, c_s].
            pair: [B, N, N, c_z].
            aatype: int64 [B, N].
            mask: [B, N].
        """
        with no_autocast(single):
            return self._fold(single.to(self.linear_in.weight.dtype), pair, aatype, mask)

    def _fold(
        self, single: torch.Tensor, pair: torch.Tensor, aatype: torch.Tensor, mask: torch.Tensor
    ) -> StructureOutput:
        mask, pair = mask.to(single.dtype), pair.to(single.dtype)
        s_initial = self.layer_norm_s(single)
        z = self.layer_norm_z(pair)
        s = self.linear_in(s_initial)
        rigids = Rigid.identity(s.shape[:-1], dtype=s.dtype, device=s.device)
        backbones, unnormalized, normalized, states = [], [], [], []
        for _ in range(self.config.blocks):
            s = s + self.ipa(s, z, rigids, mask)
            s = self.transition(self.layer_norm_ipa(self.ipa_dropout(s)))
            rigids = rigids.compose_q_update(self.bb_update(s))
            raw_angles, angles = self.angle_resnet(s, s_initial)
            backbones.append(rigids.scale_translation(self.config.trans_scale))
            unnormalized.append(raw_angles)
            normalized.append(angles)
            states.append(s)
            rigids = rigids.stop_rotation_gradient()
        # The side chains of all iterations at once: nothing in the loop depends on them.
        frames, angles = Rigid.stack(backbones), torch.stack(normalized)
        aatype = aatype.expand(angles.shape[:3])  # [K, B, N]
        all_frames = torsions_to_frames(aatype, frames, angles)
        return StructureOutput(
            frames=frames,
            sidechain_frames=all_frames,
            unnormalized_angles=torch.stack(unnormalized),
            angles=angles,
            positions=frames_to_atom14(aatype, all_frames),
            states=torch.stack(states),
        )
