"""lDDT over alpha carbons of a padded batch, in torch: the numbers of ``evaluation.lddt``, on any device.

For validation during training, where positions are on an accelerator and proteins of different lengths lie in one
tensor. No gradient: it counts. As in the NumPy form, distances are compared in thousandths of an angstrom, exactly so
where coordinates have three decimals. Import it by name; nothing else in this package needs torch.
"""

from dataclasses import dataclass

import torch

from evaluation.lddt import INCLUSION_RADIUS, THRESHOLDS

_PER_ANGSTROM = 1000.0
_ROWS = 256  # residues against all others at once: memory grows with B * N and not with B * N^2


@dataclass(frozen=True, eq=False)
class BatchLddt:
    """Scores of B proteins of up to N residues; nan where a score is undefined."""

    score: torch.Tensor
    """float64 [B]: pooled over the pairs of each truth."""
    per_residue: torch.Tensor
    """float64 [B, N]: pooled over the pairs of one residue; nan too for padding."""
    pairs: torch.Tensor
    """int64 [B]: pairs of each truth."""


@torch.no_grad()
def lddt_ca_batch(
    pred_positions: torch.Tensor,
    true_positions: torch.Tensor,
    pred_mask: torch.Tensor,
    true_mask: torch.Tensor,
) -> BatchLddt:
    """lDDT over alpha carbons of single chains that correspond residue by residue.

    Args:
        pred_positions: float [B, N, 3], angstrom. A position that is not finite is missing whatever the mask says.
        true_positions: the same of the truth.
        pred_mask: bool [B, N], residues that the prediction has.
        true_mask: bool [B, N], residues that the truth has; False for padding.

    Raises:
        ValueError: shapes that do not agree.
    """
    shape = true_positions.shape
    if len(shape) != 3 or shape[2] != 3 or pred_positions.shape != shape:
        raise ValueError(
            f"pred_positions {tuple(pred_positions.shape)}, true_positions {tuple(shape)}: expected B, N, 3"
        )
    if pred_mask.shape != shape[:2] or true_mask.shape != shape[:2]:
        raise ValueError(f"masks {tuple(pred_mask.shape)}, {tuple(true_mask.shape)}: expected {tuple(shape[:2])}")
    pred_mask = pred_mask.bool() & pred_positions.isfinite().all(dim=-1)
    true_mask = true_mask.bool() & true_positions.isfinite().all(dim=-1)
    pred, true = _thousandths(pred_positions, pred_mask), _thousandths(true_positions, true_mask)

    batch, length = shape[:2]
    of_residue = torch.zeros(batch, length, dtype=torch.float64, device=true.device)
    kept_of_residue = torch.zeros_like(of_residue)
    place = torch.arange(length, device=true.device)
    for start in range(0, length, _ROWS):
        rows = slice(start, start + _ROWS)
        true_square, pred_square = _squared_distances(true, rows), _squared_distances(pred, rows)  # [B, R, N]
        pairs = true_mask[:, rows, None] & true_mask[:, None] & (place[rows, None] != place)
        pairs &= true_square < (INCLUSION_RADIUS * _PER_ANGSTROM) ** 2
        both = pairs & pred_mask[:, rows, None] & pred_mask[:, None]
        error = (true_square.sqrt() - pred_square.sqrt()).abs()
        kept = sum(((error <= threshold * _PER_ANGSTROM) & both).sum(dim=-1) for threshold in THRESHOLDS)
        of_residue[:, rows], kept_of_residue[:, rows] = pairs.sum(dim=-1).double(), kept.double()
    worth = len(THRESHOLDS) * of_residue  # 0 / 0 is nan: undefined
    return BatchLddt(
        score=kept_of_residue.sum(dim=1) / worth.sum(dim=1),
        per_residue=kept_of_residue / worth,
        pairs=of_residue.sum(dim=1).long() // 2,
    )


def _thousandths(positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float64 [B, N, 3]: whole numbers where a position has three decimals or fewer (see ``evaluation.lddt``), moved
    near the origin by a whole number; 0 where masked."""
    scaled = positions.double() * _PER_ANGSTROM
    whole = scaled.round()
    units = torch.where((whole / _PER_ANGSTROM).to(positions.dtype) == positions, whole, scaled)
    units = torch.where(mask[..., None], units, torch.nan)
    middle = units.nanmedian(dim=1, keepdim=True).values.round()
    return torch.where(mask[..., None], units - middle, 0.0)


def _squared_distances(units: torch.Tensor, rows: slice) -> torch.Tensor:
    """float64 [B, R, N], exact for whole numbers."""
    square = (units**2).sum(dim=-1)
    product = units[:, rows] @ units.transpose(1, 2)
    return (square[:, rows, None] + square[:, None] - 2.0 * product).clamp(min=0.0)
