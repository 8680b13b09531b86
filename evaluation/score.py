"""One prediction against one truth: every number that is reported of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_prep.record import ProteinRecord
from data_prep.residues import RESNAMES
from evaluation.chains import ChainMatch, match_chains
from evaluation.lddt import LddtResult, lddt_ca
from evaluation.match import MIN_IDENTITY, MatchError
from evaluation.plddt import plddt_of

DEFINITIONS: Mapping[str, str] = {
    "lddt_ca": "pooled over all pairs of the truth; a pair that the prediction lacks counts as not preserved",
    "lddt_ca_common": "the same over the pairs of which the prediction has both residues",
    "lddt_ca_mean_per_residue": "mean over the truth's residues of their own pooled scores (not lddt_ca)",
    "lddt_ca_intra": "lddt_ca over pairs within chains only",
    "coverage": "share of the truth's residues with an alpha carbon that the prediction has",
    "mean_plddt": "mean of the prediction's own confidence over the scored residues, 0 to 100",
}
"""Column of scores.csv -> what it is, for the summary."""


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
    pred_chain: list[str | None]
    """None, as in the columns after it, where the prediction lacks the residue."""
    pred_number: list[int | None]
    pred_insertion_code: list[str | None]
    pred_name: list[str | None]
    plddt: list[float | None]
    """0 to 100; None too where the prediction's B-factors are not pLDDT."""


RESIDUE_COLUMNS: tuple[str, ...] = tuple(ResidueTable.__dataclass_fields__)
"""Columns of per_residue.csv after target."""


@dataclass(frozen=True)
class PairScore:
    """Scores of a prediction. Numbers are None where they are undefined."""

    lddt_ca: float
    lddt_ca_common: float | None
    lddt_ca_mean_per_residue: float
    lddt_ca_intra: float | None
    residues: ResidueTable = field(repr=False)
    n_truth: int
    """Residues of the truth with an alpha carbon."""
    n_matched: int
    """Of them, those that the prediction has."""
    n_extra: int
    """Residues of the assigned chains of the prediction that the truth has not."""
    n_name_mismatch: int
    identity: float
    """``Correspondence.identity``, the lowest of the chains."""
    match: str
    """How residues were paired: number, label, align; several where chains differ."""
    chain_map: str
    """``A=B;C=``: chain A of the truth is the prediction's B, C has no counterpart."""
    chain_scores: str
    """``A=1.000000``: lddt_ca of each chain of the truth for itself; blank after = where undefined."""
    mean_plddt: float | None
    plddt_scale: str
    """0-1 or 0-100, blank where the B-factors are not pLDDT."""
    notes: tuple[str, ...] = ()
    """What a reader of the number should know: how residues and chains were paired, what was left out."""
    warnings: tuple[str, ...] = ()
    """What the reader repaired, mapped or dropped in the two files."""

    @property
    def coverage(self) -> float:
        """Share of the truth's residues that the prediction has."""
        return self.n_matched / self.n_truth


def score_pair(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    mode: str = "auto",
    min_identity: float = MIN_IDENTITY,
    chain_map: Mapping[str, str] | None = None,
) -> PairScore:
    """Scores the chains of one prediction against those of its truth; arguments as for ``match_chains``.

    Raises:
        MatchError: no alpha carbon on one side, chains that do not belong together, or a truth too small to score.
    """
    warnings = (*_warnings(truth, "truth"), *_warnings(prediction, "prediction"))
    truth, true_notes = _with_alpha_carbons(truth, "truth")
    prediction, pred_notes = _with_alpha_carbons(prediction, "prediction")
    chains = match_chains(truth, prediction, mode, min_identity, chain_map)

    positions, mask = _in_the_truths_places(truth, prediction, chains)
    chain_index = np.repeat(np.arange(len(truth)), [len(record) for record in truth])
    true_positions = np.concatenate([record.ca_positions for record in truth])
    true_mask = np.concatenate([record.ca_mask for record in truth])
    whole = lddt_ca(positions, true_positions, mask, true_mask, chain_index)
    if not whole.pairs:
        raise TruthError(
            f"lDDT is undefined: the truth has {whole.residues} alpha carbon(s) and no two of them within 15 A"
        )
    rows = [chain_index == t for t in range(len(truth))]
    single = (
        [whole] if len(truth) == 1 else [lddt_ca(positions[r], true_positions[r], mask[r], true_mask[r]) for r in rows]
    )

    found = [c for c in chains.correspondences if c is not None]
    mismatches = sum(c.mismatches for c in found)
    assigned = [prediction[p] for p in chains.assignment if p is not None]
    plddt, scale = plddt_of(prediction)
    residues = _residue_table(truth, prediction, chains, whole, plddt)
    confidences = [value for value in residues.plddt if value is not None]
    return PairScore(
        lddt_ca=whole.score,
        lddt_ca_common=_defined(whole.score_common),
        lddt_ca_mean_per_residue=whole.mean_per_residue,
        lddt_ca_intra=_pooled(single),
        residues=residues,
        n_truth=whole.residues,
        n_matched=whole.residues_common,
        n_extra=sum(int(np.count_nonzero(record.ca_mask)) for record in assigned) - whole.residues_common,
        n_name_mismatch=mismatches,
        identity=min(c.identity for c in found),
        match="+".join(sorted({c.mode for c in found})),
        chain_map=";".join(
            f"{record.chain_id}={'' if p is None else prediction[p].chain_id}"
            for record, p in zip(truth, chains.assignment, strict=True)
        ),
        chain_scores=";".join(
            f"{record.chain_id}={'' if np.isnan(result.score) else f'{result.score:.6f}'}"
            for record, result in zip(truth, single, strict=True)
        ),
        mean_plddt=float(np.mean(confidences)) if confidences else None,
        plddt_scale=scale,
        notes=(*true_notes, *pred_notes, *_pairing_notes(truth, prediction, chains, mode, mismatches)),
        warnings=warnings,
    )


class TruthError(MatchError):
    """A truth that no prediction could be scored against."""


def _with_alpha_carbons(records: Sequence[ProteinRecord], whose: str) -> tuple[list[ProteinRecord], list[str]]:
    """The chains that can be scored, and notes on the others."""
    usable = [record for record in records if record.ca_mask.any()]
    if not usable:
        chains = f" in {len(records)} protein chain(s)" if records else ", nor any protein chain"
        kind = TruthError if whose == "truth" else MatchError
        raise kind(f"the {whose} has 0 CA atoms{chains}: nothing to score")
    left_out = [record.chain_id for record in records if not record.ca_mask.any()]
    return usable, [f"{whose} chain {chain!r} has 0 CA atoms and is left out" for chain in left_out]


def _warnings(records: Sequence[ProteinRecord], whose: str) -> list[str]:
    """The reader's warnings, each once, in order."""
    return [f"{whose}: {warning}" for warning in dict.fromkeys(w for record in records for w in record.warnings)]


def _in_the_truths_places(
    truth: Sequence[ProteinRecord], prediction: Sequence[ProteinRecord], chains: ChainMatch
) -> tuple[np.ndarray, np.ndarray]:
    """float32 [R, 3] and bool [R]: the prediction's alpha carbons for the R residues of all chains of the truth."""
    positions = np.zeros((sum(len(record) for record in truth), 3), dtype=np.float32)
    mask = np.zeros(len(positions), dtype=bool)
    start = 0
    for record, p, correspondence in zip(truth, chains.assignment, chains.correspondences, strict=True):
        if correspondence is not None:
            rows = start + correspondence.true_index
            positions[rows] = prediction[p].ca_positions[correspondence.pred_index]
            mask[rows] = True
        start += len(record)
    return positions, mask


def _residue_table(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    chains: ChainMatch,
    result: LddtResult,
    plddt: list[np.ndarray] | None,
) -> ResidueTable:
    """Every residue of the truth with an alpha carbon, and its counterpart."""
    columns: dict[str, list] = {name: [] for name in RESIDUE_COLUMNS}
    start = 0
    for record, p, correspondence in zip(truth, chains.assignment, chains.correspondences, strict=True):
        residues = np.flatnonzero(record.ca_mask)
        partner = np.full(len(record), -1)
        if correspondence is not None:
            partner[correspondence.true_index] = correspondence.pred_index
        partner = partner[residues]
        there = partner >= 0
        scores = result.per_residue[start + residues].tolist()
        columns["chain"] += [record.chain_id] * len(residues)
        columns["number"] += record.auth_seq_id[residues].tolist()
        columns["insertion_code"] += record.insertion_code[residues].tolist()
        columns["name"] += [RESNAMES[aatype] for aatype in record.aatype[residues].tolist()]
        columns["in_pred"] += there.tolist()
        columns["lddt_ca"] += [None if score != score else score for score in scores]  # nan is not itself
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


def _pairing_notes(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    chains: ChainMatch,
    mode: str,
    mismatches: int,
) -> list[str]:
    """How the pairing came about, where it is not the plain one by number."""
    notes = []
    for record, correspondence in zip(truth, chains.correspondences, strict=True):
        if correspondence is None:
            notes.append(f"truth chain {record.chain_id!r} has no counterpart in the prediction: counted as missing")
        elif mode == "auto" and correspondence.mode != "number":
            shift = "" if correspondence.shift is None else f" (prediction = truth {correspondence.shift:+d})"
            how = "the sequences were aligned" if correspondence.mode == "align" else "paired by sequence position"
            notes.append(f"chain {record.chain_id!r}: residue numbers do not match, {how}{shift}")
    unused = [record.chain_id for p, record in enumerate(prediction) if p not in chains.assignment]
    if unused:
        how = "named" if chains.named else "best"
        notes.append(
            f"prediction has {len(prediction)} chains, truth {len(truth)}: {how} chain(s) scored, "
            f"{', '.join(map(repr, unused))} left out"
        )
    if mismatches:
        notes.append(f"{mismatches} residue name(s) differ: scored all the same")
    return notes


def _pooled(results: Sequence[LddtResult]) -> float | None:
    pairs = sum(result.pairs for result in results)
    return sum(result.preserved for result in results) / (4 * pairs) if pairs else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
