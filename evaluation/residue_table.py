"""The table behind per_residue.csv: every residue of the truth, its score and its counterpart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESNAMES, RESTYPES_WITH_X
from evaluation.chains import ChainMatch


@dataclass(frozen=True, eq=False)
class ResidueTable:
    """The residues of the truth that have an alpha carbon, in its order: one column per field, R entries each."""

    chain: np.ndarray
    """str."""
    number: np.ndarray
    """int32."""
    insertion_code: np.ndarray
    """str."""
    name: np.ndarray
    """str, three letters."""
    in_pred: np.ndarray
    """bool."""
    lddt_ca: np.ndarray
    """float64, nan where undefined: no other residue within 15 A."""
    lddt_all: np.ndarray
    """float64, over all heavy atoms; nan too where it was not asked for."""
    pred_chain: np.ndarray
    """str; this column and those after it mean nothing where the prediction lacks the residue."""
    pred_number: np.ndarray
    """int32."""
    pred_insertion_code: np.ndarray
    """str."""
    pred_name: np.ndarray
    """str, three letters."""
    plddt: np.ndarray
    """float64, 0 to 100; nan where the prediction's B-factors are not pLDDT or it lacks the residue."""

    def columns(self) -> dict[str, list]:
        """The columns as Python's values; None for what is undefined or lacking."""
        columns = {}
        for name, values in vars(self).items():
            if values.dtype.kind == "f":
                columns[name] = [None if value != value else value for value in values.tolist()]  # nan is not itself
            elif name.startswith("pred_") and not self.in_pred.all():
                columns[name] = [
                    value if there else None for value, there in zip(values.tolist(), self.in_pred, strict=True)
                ]
            else:
                columns[name] = values.tolist()
        return columns

    @classmethod
    def of_columns(cls, columns: Mapping[str, list]) -> Self:
        """The inverse of ``columns``."""
        arrays = {}
        for name, values in columns.items():
            kind = _KINDS.get(name, str)
            lacking = {float: np.nan, str: "", int: 0}.get(kind)
            arrays[name] = np.array([lacking if value is None else value for value in values], dtype=kind)
        return cls(**arrays)


_KINDS = {"number": int, "pred_number": int, "in_pred": bool, "lddt_ca": float, "lddt_all": float, "plddt": float}

RESIDUE_COLUMNS: tuple[str, ...] = tuple(ResidueTable.__dataclass_fields__)
"""Columns of per_residue.csv after target."""

_NAME_OF_LETTER = np.zeros(128, dtype="<U3")
_NAME_OF_LETTER[[ord(letter) for letter in RESTYPES_WITH_X]] = RESNAMES


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
    parts, start = [], 0
    for chain, p, correspondence in zip(truth, chains.assignment, chains.correspondences, strict=True):
        partner = np.full(len(chain), -1)
        if correspondence is not None:
            partner[correspondence.true_index] = correspondence.pred_index
        residues = np.flatnonzero(chain.ca_mask)
        partner = partner[residues]
        own = start + residues
        counterpart = None if p is None else prediction[p]
        confidence = None if p is None or plddt is None else plddt[p]
        parts.append(
            {
                "chain": np.full(len(residues), chain.chain_id),
                "number": chain.auth_seq_id[residues],
                "insertion_code": chain.insertion_code[residues],
                "name": _names(chain)[residues],
                "in_pred": partner >= 0,
                "lddt_ca": lddt_ca[own],
                "lddt_all": np.full(len(residues), np.nan) if lddt_all is None else lddt_all[own],
                **_counterparts(counterpart, partner, confidence),
            }
        )
        start += len(chain)
    if len(parts) == 1:
        return ResidueTable(**parts[0])
    return ResidueTable(**{name: np.concatenate([part[name] for part in parts]) for name in RESIDUE_COLUMNS})


def _counterparts(chain: ProteinRecord | None, partner: np.ndarray, plddt: np.ndarray | None) -> dict[str, np.ndarray]:
    """The columns on a chain of the prediction, for residues whose counterparts it has at ``partner`` (-1: none)."""
    n = len(partner)
    if chain is None:
        texts = {name: np.zeros(n, dtype="<U1") for name in ("pred_chain", "pred_insertion_code", "pred_name")}
        return texts | {"pred_number": np.zeros(n, dtype=np.int32), "plddt": np.full(n, np.nan)}
    return {
        "pred_chain": np.full(n, chain.chain_id),
        "pred_number": chain.auth_seq_id[partner],
        "pred_insertion_code": chain.insertion_code[partner],
        "pred_name": _names(chain)[partner],
        "plddt": np.full(n, np.nan) if plddt is None else np.where(partner >= 0, plddt[partner], np.nan),
    }


def _names(chain: ProteinRecord) -> np.ndarray:
    """<U3 [N]."""
    return _NAME_OF_LETTER[np.frombuffer(chain.sequence.encode("ascii"), dtype=np.uint8)]
