"""lDDT-Calpha of the model on whole chains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.dataset.store import StructureDataset
from data_prep.structure.record import ProteinRecord
from evaluation.baselines import Baseline, score_baselines, write_baselines
from evaluation.lddt_scores import lddt_ca
from pipeline.folding.model import FoldingModel
from pipeline.losses.plddt import predicted_plddt
from pipeline.training.data import Crop, TrainingChains, collate
from pipeline.training.objective import CA_IN_ATOM14
from pipeline.training.processes import Processes


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
def validate(
    model: FoldingModel,
    records: Sequence[ProteinRecord],
    device: torch.device,
    processes: Processes | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[TargetScore] | None:
    """Fold each record from its sequence alone and score it against its coordinates.

    Chains are folded one by one at their full length with the largest number of recycles; the model's train/eval mode
    is put back. With several processes each folds its share (all of them, in step, where the model is sharded over
    them) and all get all scores; None for all if ``stop``, which is asked before each chain, said so on any.
    """
    sharded = processes is not None and processes.sharded
    count, rank = (1, 0) if processes is None or sharded else (processes.count, processes.rank)
    was_training, stopped = model.training, False
    model.eval()
    scores = torch.zeros(len(records), 2, dtype=torch.float64)
    for number in range(rank, len(records), count):
        stopped = processes.any(stop()) if sharded else stop()  # type: ignore[union-attr]
        if stopped:
            break
        record = records[number]
        batch = collate([Crop(record)]).to(device)
        output = model(batch.aatype, batch.mask, batch.residue_index, model.config.data.max_recycles)
        ca = output.structure.positions[-1, 0, :, CA_IN_ATOM14].float().cpu().numpy()
        scores[number, 0] = lddt_ca(ca, record.ca_positions, None, record.ca_mask).score
        scores[number, 1] = predicted_plddt(output.plddt_logits[0].float()).mean()
    model.train(was_training)
    if count > 1:
        scores = processes.sum(scores.to(processes.device)).cpu()  # type: ignore[union-attr]
        stopped = processes.any(stopped)  # type: ignore[union-attr]
    if stopped:
        return None
    return [
        TargetScore(record.id, len(record), score, plddt)
        for record, (score, plddt) in zip(records, scores.tolist(), strict=True)
    ]


def save_baselines(
    path: Path, dataset: StructureDataset, records: Sequence[ProteinRecord], chains: TrainingChains
) -> list[Baseline]:
    """Write ``baselines.csv`` of a run: scores of a helix and of a copy of the nearest one of ``chains``, by record.

    Raises OSError, DatasetError.
    """
    training = [(source.dataset, source.ids) for source in chains.sources]
    rows = score_baselines(dataset, [record.id for record in records], training)
    write_baselines(path, rows)
    return rows


def sample_in_words(rows: Sequence[Baseline], held_out: int, *, overfit: bool) -> str:
    """Say which chains are validated on, of ``held_out`` in the dataset: ``20 of 132 validation chains, ...``."""
    count, clusters = len(rows), len({row.cluster for row in rows})
    if overfit:
        return f"{count} of the training chains"
    of_clusters = f"{clusters} cluster{'s' * (clusters > 1)}"
    if count == held_out == 1:
        return "the only validation chain"
    if count >= held_out:
        return f"all {count} validation chains, of {of_clusters}"
    spread = "one from each of" if clusters == count else "spread over"
    return f"{count} of {held_out} validation chains, {spread} {of_clusters}"
