"""Frame aligned point error (Jumper et al. 2021, suppl. 1.9.2, Alg. 28) and the renaming that it needs (Alg. 26).

Lengths are in angstrom. Deviation: the clamp is mixed per sample, not per batch (OpenFold PR #223 asks for the same).
A perfect prediction scores ``sqrt(eps) / length_scale`` = 1e-3, not 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.folding.frames import Rigid
from pipeline.losses.point_error import point_error_sum

_RENAMING_EPS = 1e-10


def fape(
    pred_frames: Rigid,
    target_frames: Rigid,
    frames_mask: Tensor,
    pred_points: Tensor,
    target_points: Tensor,
    points_mask: Tensor,
    clamp_weight: float | Tensor = 1.0,
    clamp_distance: float = 10.0,
    length_scale: float = 10.0,
    eps: float = 1e-4,
) -> Tensor:
    """Frame aligned point error of S predictions of one structure: [S].

    Predicted frames [S, F] and points [S, A, 3], true ones [F] and [A, 3], masks (0 or 1) [F] and [A].
    ``clamp_weight`` w mixes ``w * clamped + (1 - w) * unclamped``; a clamped pair has no gradient. The true structure
    gets no gradient. Frames and points under the mask are dropped before pairs are formed.
    """
    frames, points = frames_mask.bool(), points_mask.bool()
    dtype = torch.promote_types(pred_points.dtype, torch.float32)
    total = point_error_sum(
        pred_frames[:, frames].to(dtype),
        target_frames[frames].to(dtype),
        pred_points[:, points].to(dtype),
        target_points[points].to(dtype),
        torch.as_tensor(clamp_weight, dtype=dtype, device=pred_points.device),
        clamp_distance,
        eps,
    )
    return total / length_scale / (eps + frames.sum(dtype=dtype)) / (eps + points.sum(dtype=dtype))


def _of_sample(clamp_weight: float | Tensor, sample: int) -> float | Tensor:
    return clamp_weight[sample] if isinstance(clamp_weight, Tensor) and clamp_weight.dim() else clamp_weight


def backbone_fape(
    trajectory: Rigid,
    target: Rigid,
    mask: Tensor,
    clamp_weight: float | Tensor = 1.0,
    clamp_distance: float = 10.0,
    length_scale: float = 10.0,
    eps: float = 1e-4,
) -> Tensor:
    """Backbone FAPE, mean over the layers of the structure module: [B].

    ``trajectory`` [layers, B, N], ``target`` [B, N], ``mask`` [B, N]; the points are the origins of the frames, the
    alpha carbons. ``clamp_weight`` is a number or one per sample [B]: AlphaFold clamps 90% of its batches.
    """
    losses = []
    for b in range(len(mask)):
        pred, true, weight = trajectory[:, b], target[b], _of_sample(clamp_weight, b)
        per_layer = fape(
            pred, true, mask[b], pred.trans, true.trans, mask[b], weight, clamp_distance, length_scale, eps
        )
        losses.append(per_layer.mean())
    return torch.stack(losses)


@dataclass(frozen=True, eq=False)
class RenamedAtoms:
    """The true structure under whichever naming of interchangeable atoms is closer to the prediction."""

    alt_is_better: Tensor
    """[B, N], 1.0 where the names are swapped."""
    positions: Tensor
    """[B, N, 14, 3]."""
    exists: Tensor
    """[B, N, 14]."""


@torch.no_grad()
def rename_ambiguous(
    pred_positions: Tensor,
    positions: Tensor,
    alt_positions: Tensor,
    exists: Tensor,
    alt_exists: Tensor,
    is_ambiguous: Tensor,
) -> RenamedAtoms:
    """Choose between the two namings of ASP, GLU, PHE and TYR side chains, residue by residue (Alg. 26).

    Positions [B, N, 14, 3], the rest [B, N, 14]. The better naming has the smaller sum, over pairs of an ambiguous and
    an unambiguous known atom, of the absolute difference between true and predicted distance. Only those pairs are
    formed, some 5% of the [14 N, 14 N] that the algorithm's text suggests.
    """
    alt_is_better = torch.zeros(exists.shape[:-1], dtype=positions.dtype, device=positions.device)
    for b in range(len(positions)):
        known, ambiguous = exists[b].flatten().bool(), is_ambiguous[b].flatten().bool()  # [14 N]
        moving, fixed = (known & ambiguous).nonzero().squeeze(-1), (known & ~ambiguous).nonzero().squeeze(-1)

        def distances(points: Tensor, others: Tensor, moving: Tensor = moving, fixed: Tensor = fixed) -> Tensor:
            difference = points.flatten(0, 1)[moving, None] - others.flatten(0, 1)[fixed]
            return (difference.square().sum(-1) + _RENAMING_EPS).sqrt()  # [moving, fixed]

        pred = distances(pred_positions[b], pred_positions[b])
        errors = [
            ((pred - distances(x, x)).square() + _RENAMING_EPS).sqrt().sum(-1) for x in (positions[b], alt_positions[b])
        ]
        per_residue = positions.new_zeros(2, exists.shape[1])
        per_residue.index_add_(1, moving // exists.shape[2], torch.stack(errors))
        alt_is_better[b] = per_residue[1] < per_residue[0]
    swap = alt_is_better.bool()[..., None]
    return RenamedAtoms(
        alt_is_better,
        torch.where(swap[..., None], alt_positions, positions),
        torch.where(swap, alt_exists, exists),
    )


def sidechain_fape(
    pred_frames: Rigid,
    pred_positions: Tensor,
    frames: Rigid,
    alt_frames: Rigid,
    frames_exist: Tensor,
    renamed: RenamedAtoms,
    clamp_weight: float | Tensor = 1.0,
    clamp_distance: float = 10.0,
    length_scale: float = 10.0,
    eps: float = 1e-4,
) -> Tensor:
    """FAPE of all atoms in all rigid groups, of the last layer: [B].

    Frames [B, N, 8], ``pred_positions`` [B, N, 14, 3], ``frames_exist`` [B, N, 8]. Frames and atoms that do not exist
    are dropped before pairs are formed; of 8 N x 14 N pairs about a quarter remain.
    """
    swap = renamed.alt_is_better.bool()[..., None]
    target = Rigid(
        torch.where(swap[..., None, None], alt_frames.rot, frames.rot),
        torch.where(swap[..., None], alt_frames.trans, frames.trans),
    )
    losses = []
    for b in range(len(pred_positions)):
        loss = fape(
            pred_frames[b].map(lambda part: part.flatten(0, 1)[None]),  # [1, 8 N]
            target[b].map(lambda part: part.flatten(0, 1)),
            frames_exist[b].flatten(),
            pred_positions[b].flatten(0, 1)[None],  # [1, 14 N, 3]
            renamed.positions[b].flatten(0, 1),
            renamed.exists[b].flatten(),
            _of_sample(clamp_weight, b),
            clamp_distance,
            length_scale,
            eps,
        )
        losses.append(loss[0])
    return torch.stack(losses)
