"""The training objective: weighted loss terms of one batch, each sample for itself."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from data_prep.structure.residues import ATOM37_INDEX, RESTYPE_ATOM14_MASK
from pipeline.config.schema import LossConfig
from pipeline.folding.geometry import (
    atom37_to_atom14,
    atom37_to_rigid_groups,
    atom37_to_torsions,
    pseudo_beta,
)
from pipeline.folding.model import FoldOutput
from pipeline.losses.ca_distance import ca_distance_loss
from pipeline.losses.chi import supervised_chi
from pipeline.losses.distogram import distogram_loss
from pipeline.losses.fape import backbone_fape, rename_ambiguous, sidechain_fape
from pipeline.losses.masked_lm import masked_lm_loss
from pipeline.losses.pae import pae_loss
from pipeline.losses.plddt import plddt_loss
from pipeline.losses.smooth_lddt import smooth_lddt_loss
from pipeline.losses.violation import bond_loss, structural_violations, violation_loss
from pipeline.training.data import Batch

CA_IN_ATOM14 = 1
CA_IN_ATOM37 = ATOM37_INDEX["CA"]

CONFIDENCE_DEFAULT_RESOLUTION = 1.0
"""angstrom. The losses of pLDDT and PAE leave out structures of a stated resolution worse than 3 angstrom. OpenFold
leaves out those without one too; here they count, since people's own files and NMR entries state none."""


DETAILS = ("smooth_lddt", "bonds", "violation")
"""Terms that count from ``loss.refine_from``."""


@dataclass(frozen=True, eq=False)
class Objective:
    """Loss of a batch of B samples."""

    loss: torch.Tensor
    """Scalar: mean over samples of the weighted sum of terms, scaled by length if so configured."""
    terms: dict[str, torch.Tensor]
    """Unweighted terms by name, [B] each, detached."""


def fold_objective(
    output: FoldOutput, batch: Batch, clamp: Sequence[bool], config: LossConfig, progress: float = 1.0
) -> Objective:
    """The loss terms (Jumper et al. 2021, suppl. 1.9).

    Those of the fine-tuning, the violations and the aligned error, are computed where they have a weight.

    Args:
        output: of the model on ``batch``.
        batch: with observed atoms.
        clamp: whether to clamp the backbone FAPE, per sample.
        config: weights.
        progress: share of the steps that are done; some terms count from ``config.refine_from``.
    """
    aatype, positions, atom_mask = batch.aatype, batch.atom37_positions, batch.atom37_mask
    true_ca, ca_mask = positions[..., CA_IN_ATOM37, :], atom_mask[..., CA_IN_ATOM37]
    structure = output.structure
    groups = atom37_to_rigid_groups(aatype, positions, atom_mask)
    torsions = atom37_to_torsions(aatype, positions, atom_mask)
    atom14 = atom37_to_atom14(aatype, positions, atom_mask)
    beta, beta_mask = pseudo_beta(aatype, positions, atom_mask)
    predicted = structure.positions[-1]
    renamed = rename_ambiguous(
        predicted.detach(),
        atom14.positions,
        atom14.alt_positions,
        atom14.exists,
        atom14.alt_exists,
        atom14.is_ambiguous,
    )
    clamp_weight = torch.tensor(clamp, dtype=predicted.dtype, device=predicted.device)
    resolution = torch.where(batch.resolution.isnan(), CONFIDENCE_DEFAULT_RESOLUTION, batch.resolution)
    terms = {
        "backbone_fape": backbone_fape(structure.frames, groups.backbone, groups.backbone_mask, clamp_weight),
        "sidechain_fape": sidechain_fape(
            structure.sidechain_frames[-1], predicted, groups.frames, groups.alt_frames, groups.exists, renamed
        ),
        "supervised_chi": supervised_chi(
            structure.angles,
            structure.unnormalized_angles,
            aatype,
            torsions.sin_cos[..., 3:, :],
            torsions.mask[..., 3:],
            batch.mask,
        ).total,
        "distogram": distogram_loss(output.distogram_logits, beta, beta_mask),
        "plddt": plddt_loss(
            output.plddt_logits,
            predicted[..., CA_IN_ATOM14, :].detach(),
            true_ca,
            ca_mask,
            resolution,
        ),
    }
    if config.pae:
        alignment = structure.frames[-1], groups.backbone, groups.backbone_mask, resolution
        terms["pae"] = pae_loss(output.pae_logits, *alignment)  # type: ignore[arg-type]
    if config.ca_distance:
        terms["ca_distance"] = ca_distance_loss(structure.positions[..., CA_IN_ATOM14, :], true_ca, ca_mask)
    details = [name for name in DETAILS if getattr(config, name)]
    if details and progress < config.refine_from:
        terms |= {name: torch.zeros_like(terms["plddt"]) for name in details}
    elif details:
        terms |= _details(predicted, batch, details)
    if config.masked_lm and output.masked_lm_logits is not None:
        terms["masked_lm"] = masked_lm_loss(output.masked_lm_logits, aatype, output.masked, batch.mask)  # type: ignore[arg-type]
    total = sum(getattr(config, name) * term for name, term in terms.items())
    if config.scale_by_length:
        total = total * batch.mask.sum(dim=1).sqrt()
    return Objective(total.mean(), {name: term.detach() for name, term in terms.items()})


def _details(predicted: torch.Tensor, batch: Batch, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Return those of the terms ``DETAILS`` that are asked for, [B] each; ``predicted`` is atom14 [B, N, 14, 3]."""
    aatype = batch.aatype
    exists = torch.as_tensor(RESTYPE_ATOM14_MASK, device=aatype.device)[aatype] * batch.mask[..., None]
    terms = {}
    if "smooth_lddt" in names:
        ca, ca_mask = batch.atom37_positions[..., CA_IN_ATOM37, :], batch.atom37_mask[..., CA_IN_ATOM37]
        terms["smooth_lddt"] = smooth_lddt_loss(predicted[..., CA_IN_ATOM14, :], ca, ca_mask)
    if "bonds" in names:
        terms["bonds"] = bond_loss(predicted, exists, aatype, batch.residue_index)
    if "violation" in names:
        terms["violation"] = violation_loss(structural_violations(predicted, exists, aatype, batch.residue_index))
    return terms
