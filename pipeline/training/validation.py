"""lDDT-Calpha of the model on whole chains."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data_prep.record import ProteinRecord
from evaluation.lddt import lddt_ca
from pipeline.folding.model import FoldingModel
from pipeline.losses.plddt import predicted_plddt
from pipeline.training.data import Crop, collate
from pipeline.training.objective import CA_IN_ATOM14


@dataclass(frozen=True)
class TargetScore:
    """One validation chain."""

    target: str
    length: int
    lddt_ca: float
    """nan where no two alpha carbons of the truth are within 15 angstrom."""
    mean_plddt: float
    """0-100."""


@torch.no_grad()
def validate(model: FoldingModel, records: Sequence[ProteinRecord], device: torch.device) -> list[TargetScore]:
    """Fold each record from its sequence alone and score it against its coordinates.

    Chains are folded one by one at their full length with the largest number of recycles; the model's train/eval mode
    is put back.
    """
    was_training = model.training
    model.eval()
    scores = []
    for record in records:
        batch = collate([Crop(record)]).to(device)
        output = model(batch.aatype, batch.mask, batch.residue_index, model.config.data.max_recycles)
        ca = output.structure.positions[-1, 0, :, CA_IN_ATOM14].float().cpu().numpy()
        score = lddt_ca(ca, record.ca_positions, None, record.ca_mask)
        plddt = predicted_plddt(output.plddt_logits[0].float())
        scores.append(TargetScore(record.id, len(record), score.score, float(plddt.mean())))
    model.train(was_training)
    return scores
