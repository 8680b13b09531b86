"""A batch of queries through the model: coordinates, confidence and checks of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_prep.files.errors import RunError
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPE_ATOM14_MASK
from pipeline.folding.geometry import atom14_to_atom37
from pipeline.folding.model import FoldingModel
from pipeline.losses.plddt import predicted_plddt
from pipeline.prediction.checks import (
    AlignedError,
    GeometryCounts,
    contact_probability,
    contacts_kept,
    find_violations,
    read_aligned_error,
)
from pipeline.prediction.sequences import Query, link

CHAIN_IDS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
"""In the order in which the chains of a complex get them; a PDB file has room for one character."""


class PredictionError(RunError):
    """A prediction that failed; the message is one line."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one query. N residues of all chains, linkers left out."""

    query: Query
    aatype: np.ndarray
    """int64 [N]."""
    residue_index: np.ndarray
    """int64 [N], as the model saw it: with a jump between chains."""
    chain: np.ndarray
    """int64 [N]."""
    atom14: np.ndarray
    """float32 [N, 14, 3], angstrom."""
    plddt: np.ndarray
    """float32 [N], 0 to 100."""
    error: AlignedError | None
    """PAE, pTM and ipTM; None where the model has no head for them."""
    contacts_kept: float | None
    """See ``checks.contacts_kept``."""
    geometry: GeometryCounts
    relaxed_by: str = ""
    """Program that moved the atoms after the model (``relaxation.relax``); empty: the model's own coordinates."""

    @property
    def mean_plddt(self) -> float:
        """Mean over residues that have coordinates, 0 to 100."""
        return float(self.plddt[self.known].mean())

    @property
    def known(self) -> np.ndarray:
        """bool [N]: residues that are one of the 20, so that atoms are built."""
        return RESTYPE_ATOM14_MASK[self.aatype].any(-1)

    @property
    def records(self) -> list[ProteinRecord]:
        """One record per chain: all heavy atoms, pLDDT as B-factors, numbered from 1 as each chain's index."""
        aatype = torch.from_numpy(self.aatype)
        atom37, mask = (t.numpy() for t in atom14_to_atom37(aatype, torch.from_numpy(self.atom14)))
        mask = mask.astype(bool)
        records = []
        for number, (sequence, index) in enumerate(zip(self.query.chains, self.query.residue_index, strict=True)):
            own = self.chain == number
            there = mask[own]
            records.append(
                ProteinRecord(
                    id=self.query.name,
                    chain_id=chain_id(number),
                    sequence=sequence,
                    residue_index=index.astype(np.int32),
                    atom37_positions=atom37[own] * there[..., None],
                    atom37_mask=there,
                    b_factors=np.where(there, self.plddt[own][:, None], 0.0).astype(np.float32),
                    auth_seq_id=index.astype(np.int32) + 1,
                    insertion_code=np.full(len(sequence), "", dtype="<U1"),
                )
            )
        return records


def chain_id(number: int) -> str:
    """A, B, ..., then two characters and more, which only mmCIF can hold."""
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, len(CHAIN_IDS))
        name = CHAIN_IDS[digit] + name
    return name


@torch.inference_mode()
def fold_batch(
    model: FoldingModel, queries: Sequence[Query], device: torch.device, num_recycles: int
) -> list[Prediction]:
    """Fold queries together, padded to the longest, with ``model`` on ``device``.

    Raises:
        PredictionError: coordinates or confidence that are not finite.
        MemoryError, RuntimeError: memory ended (``device.is_out_of_memory``).
    """
    linked = [link(query) for query in queries]
    longest = max(map(len, linked))
    aatype = torch.zeros(len(queries), longest, dtype=torch.long)
    index, mask = torch.zeros_like(aatype), torch.zeros(aatype.shape)
    for row, one in enumerate(linked):
        aatype[row, : len(one)] = torch.from_numpy(one.aatype)
        index[row, : len(one)] = torch.from_numpy(one.residue_index)
        mask[row, : len(one)] = 1
    output = model(aatype.to(device), mask.to(device), index.to(device), num_recycles)
    atom14 = output.structure.positions[-1].float().cpu().numpy()
    plddt = predicted_plddt(output.plddt_logits.float()).cpu().numpy()
    distogram, aligned = output.distogram_logits, output.pae_logits
    del output
    predictions = []
    for row, (query, one) in enumerate(zip(queries, linked, strict=True)):
        real = np.flatnonzero(one.chain >= 0)
        keep = torch.from_numpy(real).to(device)
        contacts = contact_probability(_pairs(distogram[row], keep)).numpy()
        kept_aatype, kept_index = one.aatype[real], one.residue_index[real]
        chain = one.chain[real]
        points, confidence = atom14[row, real], plddt[row, real]
        if not (np.isfinite(points).all() and np.isfinite(confidence).all()):
            raise PredictionError(f"{query.name}: the model gave numbers that are not finite")
        predictions.append(
            Prediction(
                query=query,
                aatype=kept_aatype,
                residue_index=kept_index,
                chain=chain,
                atom14=points * RESTYPE_ATOM14_MASK[kept_aatype][..., None],
                plddt=confidence,
                error=None if aligned is None else read_aligned_error(_pairs(aligned[row], keep), chain),
                contacts_kept=contacts_kept(contacts, points, kept_aatype, kept_index),
                geometry=find_violations(points, kept_aatype, kept_index, chain)[0],
            )
        )
    return predictions


def _pairs(logits: Tensor, keep: Tensor) -> Tensor:
    """[N, N, bins] of the residues ``keep`` [N]; a view where these are the first N, as without linkers."""
    n = len(keep)
    if n == 0 or int(keep[-1]) == n - 1:
        return logits[:n, :n]
    return logits[keep][:, keep]
