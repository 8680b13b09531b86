"""Residues of a scored target: the table behind per_residue.csv, their confidence, their alpha carbons for drawings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX, RESNAMES, RESTYPES_WITH_X
from evaluation.chains import ChainMatch
from evaluation.superposition import superpose

LOWEST_MEDIAN: float = 15.0
"""On the scale 0-100 no predictor is as unsure of half of its residues; expected errors hardly reach 15 A."""

_CA = ATOM37_INDEX["CA"]
_DRAWN = 100  # hundredths of an angstrom are finer than any drawing
_KEPT = 1000  # thousandths are what the files state


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
        arrays: dict[str, np.ndarray] = {}
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


def plddt_of(prediction: Sequence[ProteinRecord]) -> tuple[list[np.ndarray] | None, str]:
    """The confidence that a prediction keeps in its B-factors: that of the alpha carbons.

    B-factors are pLDDT where the file says so (``ProteinRecord.states_plddt``). Else they are taken for it when the
    file names no experiment, every atom of a residue has the same value (and most residues have several atoms), and the
    values differ between residues. All must lie within 0-1 or 0-100. Values above 1 whose median is below
    ``LOWEST_MEDIAN`` are not: CASP predictions keep an expected error in angstrom there.

    Returns:
        float64 [N] per chain on the scale 0-100, and the scale of the file, ``0-1`` or ``0-100``; None and '' where
        the B-factors are something else.
    """
    stated = all(chain.states_plddt for chain in prediction)
    if not stated:
        if any(chain.method not in (None, "", "THEORETICAL MODEL") for chain in prediction):
            return None, ""
        for chain in prediction:
            if (chain.atom37_mask[chain.ca_mask].sum(axis=1) > 1).mean() < 0.5:
                return None, ""
            uneven = np.abs(chain.b_factors - chain.b_factors[:, _CA, None]) > 0.005
            if (uneven & chain.atom37_mask)[chain.ca_mask].any():
                return None, ""
    values = np.concatenate([chain.b_factors[chain.ca_mask, _CA] for chain in prediction])
    if not len(values) or values.min() < 0 or values.max() > 100 or (values.min() == values.max() and not stated):
        return None, ""
    if values.max() > 1 and np.median(values) < LOWEST_MEDIAN and not stated:
        return None, ""
    factor, scale = (100.0, "0-1") if values.max() <= 1 else (1.0, "0-100")
    return [chain.b_factors[:, _CA].astype(np.float64) * factor for chain in prediction], scale


@dataclass(frozen=True, eq=False)
class Trace:
    """Positions in angstrom, as the files have them."""

    true: np.ndarray
    """float32 [R, 3]: the residues of the truth with an alpha carbon, in its order."""
    pred: np.ndarray
    """float32 [M, 3]: those of them that the prediction has."""
    in_pred: np.ndarray
    """bool [R]: which these are."""

    def superposed(self) -> tuple[list[int], list[int]]:
        """Hundredths of an angstrom, x, y and z of one residue after the other: the truth, its middle at the origin,
        and the prediction after its best fit."""
        true, pred = self.true.astype(np.float64), self.pred.astype(np.float64)
        if len(pred):
            rotation, translation = superpose(pred, true[self.in_pred])
            pred = pred @ rotation.T + translation
        middle = true.mean(axis=0)
        return _whole(true - middle, _DRAWN), _whole(pred - middle, _DRAWN)

    def columns(self) -> dict[str, list]:
        """Whole numbers, as JSON can hold them."""
        return {
            "true": _whole(self.true, _KEPT),
            "pred": _whole(self.pred, _KEPT),
            "in_pred": self.in_pred.astype(int).tolist(),
        }

    @classmethod
    def of_columns(cls, columns: Mapping[str, list]) -> Self:
        """The inverse of ``columns``."""
        true, pred = (np.array(columns[name], dtype=np.float64).reshape(-1, 3) / _KEPT for name in ("true", "pred"))
        return cls(true.astype(np.float32), pred.astype(np.float32), np.array(columns["in_pred"], dtype=bool))


def _whole(positions: np.ndarray, per_angstrom: int) -> list[int]:
    return np.rint(positions.astype(np.float64) * per_angstrom).astype(np.int64).ravel().tolist()
