"""The table behind per_residue.csv: every residue of the truth, its score and its counterpart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.record import ProteinRecord
from data_prep.residues import RESNAMES
from evaluation.chains import ChainMatch


@dataclass(frozen=True, eq=False)
class ResidueTable:
    """The residues of the truth that have an alpha carbon, in its order: one column per field, R entries each."""

    chain: list[str]
    number: list[int]
    insertion_code: list[str]
    name: list[str]
    """Three letters."""
    in_pred: list[bool]
    lddt_ca: list[float | None]
    """None: undefined, no other residue within 15 A."""
    lddt_all: list[float | None]
    """Over all heavy atoms; None too where it was not asked for."""
    pred_chain: list[str | None]
    """None, as in the columns after it, where the prediction lacks the residue."""
    pred_number: list[int | None]
    pred_insertion_code: list[str | None]
    pred_name: list[str | None]
    plddt: list[float | None]
    """0 to 100; None too where the prediction's B-factors are not pLDDT."""


RESIDUE_COLUMNS: tuple[str, ...] = tuple(ResidueTable.__dataclass_fields__)
"""Columns of per_residue.csv after target."""


def residue_table(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    chains: ChainMatch,
    lddt_ca: np.ndarray,
    lddt_all: np.ndarray | None,
    plddt: list[np.ndarray] | None,
) -> ResidueTable:
    """Every residue of the truth with an alpha carbon, and its counterpart.

    Args:
        truth: the chains of the truth.
        prediction: the chains of the prediction.
        chains: which of them and of their residues correspond.
        lddt_ca: float64 [R] over the R residues of all chains of the truth, nan where undefined.
        lddt_all: the same over all atoms, or None.
        plddt: float64 [N], 0 to 100, per chain of the prediction, or None.
    """
    columns: dict[str, list] = {name: [] for name in RESIDUE_COLUMNS}
    start = 0
    for record, p, correspondence in zip(truth, chains.assignment, chains.correspondences, strict=True):
        residues = np.flatnonzero(record.ca_mask)
        partner = np.full(len(record), -1)
        if correspondence is not None:
            partner[correspondence.true_index] = correspondence.pred_index
        partner = partner[residues]
        there = partner >= 0
        columns["chain"] += [record.chain_id] * len(residues)
        columns["number"] += record.auth_seq_id[residues].tolist()
        columns["insertion_code"] += record.insertion_code[residues].tolist()
        columns["name"] += [RESNAMES[aatype] for aatype in record.aatype[residues].tolist()]
        columns["in_pred"] += there.tolist()
        columns["lddt_ca"] += _defined(lddt_ca[start + residues])
        columns["lddt_all"] += [None] * len(residues) if lddt_all is None else _defined(lddt_all[start + residues])
        for name, values in _counterparts(prediction, p, partner[there], plddt).items():
            column = np.full(len(residues), None, dtype=object)
            column[there] = values
            columns[name] += column.tolist()
        start += len(record)
    return ResidueTable(**columns)


def _counterparts(
    prediction: Sequence[ProteinRecord], p: int | None, residues: np.ndarray, plddt: list[np.ndarray] | None
) -> dict[str, list]:
    """The columns on the prediction, for ``residues`` of its chain ``p``; empty ones without a chain."""
    if p is None:
        return {name: [] for name in RESIDUE_COLUMNS if name.startswith("pred_") or name == "plddt"}
    record = prediction[p]
    return {
        "pred_chain": [record.chain_id] * len(residues),
        "pred_number": record.auth_seq_id[residues].tolist(),
        "pred_insertion_code": record.insertion_code[residues].tolist(),
        "pred_name": [RESNAMES[aatype] for aatype in record.aatype[residues].tolist()],
        "plddt": [None] * len(residues) if plddt is None else plddt[p][residues].tolist(),
    }


def _defined(values: np.ndarray) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]  # nan is not itself
