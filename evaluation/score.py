"""One prediction against one truth: every number that is reported of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_prep.structure.record import ProteinRecord
from evaluation.chains import ChainMatch, match_chains
from evaluation.lddt_scores import AllAtomResult, LddtResult, lddt_all, lddt_ca
from evaluation.match import MIN_IDENTITY, Correspondence, MatchError
from evaluation.residue_table import ResidueTable, Trace, plddt_of, residue_table
from evaluation.statistics import NOTHING_TO_COMPARE, Calibration, calibrate
from evaluation.superposition import SuperpositionScores, superposition_scores

DEFINITIONS: Mapping[str, str] = {
    "lddt_ca": "pooled over all pairs of the truth; a pair that the prediction lacks counts as not preserved",
    "lddt_ca_common": "the same over the pairs of which the prediction has both residues",
    "lddt_ca_mean_per_residue": "mean over the truth's residues of their own pooled scores (not lddt_ca)",
    "lddt_ca_intra": "lddt_ca over pairs within chains only",
    "lddt_ca_strict": "lddt_ca with AlphaFold's strict comparisons: errors < the thresholds, distances < 15 A",
    "lddt_all": "lDDT over pairs of heavy atoms of different residues, names of symmetric side-chain atoms resolved "
    "(OpenStructure 2.10, without the stereochemistry checks that its own command does by default); an atom that the "
    "prediction lacks loses its pairs; residues with an alpha carbon; with --all-atom",
    "tm_score": "TM-score of the given residue correspondence, all chains as one body, normalised by the truth's "
    "residues (not TM-align, which looks for a correspondence of its own); with --superposition",
    "gdt_ts": "mean share of the truth's residues within 1, 2, 4 and 8 A after superposition; with --superposition",
    "gdt_ha": "mean share of the truth's residues within 0.5, 1, 2 and 4 A after superposition; with --superposition",
    "rmsd_common": "root mean square distance in angstrom of the alpha carbons in common, after the best fit of all of "
    "them; with --superposition",
    "coverage": "share of the truth's residues with an alpha carbon that the prediction has",
    "mean_plddt": "mean of the prediction's own confidence over the scored residues, 0 to 100",
    "plddt_pearson": "Pearson correlation over residues between pLDDT and the residue's own lddt_ca",
    "plddt_spearman": "the same of their ranks",
    "plddt_ece": "expected calibration error: mean distance between pLDDT / 100 and lddt_ca over ten bins of pLDDT, "
    "weighted by their residues",
    "nearest_train": "where the truth is a dataset: its training chain of highest sequence identity, blank where none "
    "aligns",
    "nearest_train_identity": "identical pairs of the best local alignment with that chain / length of the shorter one",
    "lddt_ca_helix": "lddt_ca of one straight alpha helix, where the truth is a dataset",
    "lddt_ca_copy": "lddt_ca of the alpha carbons of that training chain, aligned by BLOSUM62 and copied; residues "
    "without a counterpart are missing",
    "lddt_ca_copy_common": "the same over the pairs that the copy has",
    "plddt_scale": "scale of the confidence in the prediction's file, 0-1 or 0-100; blank: its B-factors are no pLDDT",
}
"""Column of scores.csv -> what it is, for the summary."""


@dataclass(frozen=True)
class PairScore:
    """Scores of a prediction. Numbers are None where they are undefined."""

    lddt_ca: float
    lddt_ca_common: float | None
    lddt_ca_mean_per_residue: float
    lddt_ca_intra: float | None
    lddt_ca_strict: float | None
    residues: ResidueTable = field(repr=False)
    trace: Trace = field(repr=False)
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
    plddt_pearson: float | None = None
    """pLDDT against the residues' lddt_ca; None without pLDDT and where it is undefined."""
    plddt_spearman: float | None = None
    plddt_ece: float | None = None
    lddt_all: float | None = None
    """None, as the four after it, unless asked for."""
    tm_score: float | None = None
    gdt_ts: float | None = None
    gdt_ha: float | None = None
    rmsd_common: float | None = None
    """angstrom."""
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
    *,
    all_atom: bool = False,
    superposition: bool = False,
) -> PairScore:
    """Scores the chains of one prediction against those of its truth; arguments as for ``match_chains``.

    With ``all_atom`` also ``lddt_all``, which needs whole records; with ``superposition`` also TM-score, GDT and RMSD.

    Raises:
        MatchError: no alpha carbon on one side, chains that do not belong together, or a truth too small to score.
    """
    warnings = (*_warnings(truth, "truth"), *_warnings(prediction, "prediction"))
    truth, true_notes = _with_alpha_carbons(truth, "truth")
    prediction, pred_notes = _with_alpha_carbons(prediction, "prediction")
    chains = match_chains(truth, prediction, mode, min_identity, chain_map)

    positions, mask = _in_the_truths_places(truth, prediction, chains)
    chain_index = np.repeat(np.arange(len(truth)), [len(chain) for chain in truth])
    true_positions = np.concatenate([chain.ca_positions for chain in truth])
    true_mask = np.concatenate([chain.ca_mask for chain in truth])
    whole = lddt_ca(positions, true_positions, mask, true_mask, chain_index if len(truth) > 1 else None)
    if not whole.pairs:
        raise TruthError(
            f"lDDT is undefined: the truth has {whole.residues} alpha carbon(s) and no two of them within 15 A"
        )
    atoms = _all_atoms(truth, prediction, chains, chain_index) if all_atom else None
    both = mask & true_mask
    compared = both.nonzero()[0]  # rows by their number are taken faster than rows by a mask
    found_positions = positions.take(compared, axis=0)
    fit = None
    if superposition:
        fit = _superposed(found_positions, true_positions.take(compared, axis=0), whole.residues)
    rows = [chain_index == t for t in range(len(truth))]
    single = (
        [whole] if len(truth) == 1 else [lddt_ca(positions[r], true_positions[r], mask[r], true_mask[r]) for r in rows]
    )

    found = [c for c in chains.correspondences if c is not None]
    mismatches = sum(c.mismatches for c in found)
    assigned = [prediction[p] for p in chains.assignment if p is not None]
    plddt, scale = plddt_of(prediction)
    per_residue_all = None if atoms is None else atoms.per_residue
    residues = residue_table(truth, prediction, chains, whole.per_residue, per_residue_all, plddt)
    calibration = residue_calibration([residues]) if plddt else NOTHING_TO_COMPARE
    return PairScore(
        lddt_ca=whole.score,
        lddt_ca_common=_defined(whole.score_common),
        lddt_ca_mean_per_residue=whole.mean_per_residue,
        lddt_ca_intra=_pooled(single),
        lddt_ca_strict=_defined(whole.score_strict),
        residues=residues,
        trace=Trace(true_positions.take(true_mask.nonzero()[0], axis=0), found_positions, both[true_mask]),
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
        mean_plddt=_mean_plddt(residues),
        plddt_scale=scale,
        plddt_pearson=calibration.pearson,
        plddt_spearman=calibration.spearman,
        plddt_ece=calibration.ece,
        lddt_all=None if atoms is None else _defined(atoms.score),
        tm_score=None if fit is None else fit.tm_score,
        gdt_ts=None if fit is None else fit.gdt_ts,
        gdt_ha=None if fit is None else fit.gdt_ha,
        rmsd_common=None if fit is None else fit.rmsd,
        notes=(*true_notes, *pred_notes, *_pairing_notes(truth, prediction, chains, mode, mismatches)),
        warnings=warnings,
    )


def residue_calibration(tables: Sequence[ResidueTable]) -> Calibration:
    """pLDDT against lddt_ca over all residues that have both."""
    nothing = np.zeros(0)
    plddt, score = (
        np.concatenate([nothing, *(getattr(table, name) for table in tables)]) for name in ("plddt", "lddt_ca")
    )
    both = np.isfinite(plddt) & np.isfinite(score)
    return calibrate(plddt[both], score[both])


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
        if p is not None and correspondence is not None:
            rows = start + correspondence.true_index
            positions[rows] = prediction[p].ca_positions[correspondence.pred_index]
            mask[rows] = True
        start += len(record)
    return positions, mask


def _mean_plddt(residues: ResidueTable) -> float | None:
    values = residues.plddt[np.isfinite(residues.plddt)]
    return float(values.mean()) if len(values) else None


def _all_atoms(
    truth: Sequence[ProteinRecord], prediction: Sequence[ProteinRecord], chains: ChainMatch, chain_index: np.ndarray
) -> AllAtomResult:
    """The all-atom score, the prediction's atoms in the places of the truth's residues."""
    true_positions = np.concatenate([record.atom37_positions for record in truth])
    positions, mask = np.zeros_like(true_positions), np.zeros(true_positions.shape[:2], dtype=bool)
    start = 0
    for record, p, correspondence in zip(truth, chains.assignment, chains.correspondences, strict=True):
        if p is not None and correspondence is not None:
            rows = start + correspondence.true_index
            positions[rows] = prediction[p].atom37_positions[correspondence.pred_index]
            mask[rows] = prediction[p].atom37_mask[correspondence.pred_index]
        start += len(record)
    # Residues are paired by their alpha carbons: without one nothing of a residue could find its counterpart.
    true_mask = np.concatenate([record.atom37_mask & record.ca_mask[:, None] for record in truth])
    aatype = np.concatenate([record.aatype for record in truth])
    return lddt_all(positions, true_positions, mask, true_mask, aatype, chain_index)


def _superposed(positions: np.ndarray, true_positions: np.ndarray, n_truth: int) -> SuperpositionScores | None:
    return superposition_scores(positions, true_positions, n_truth) if len(positions) else None


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
            notes.append(f"chain {record.chain_id!r}: residue numbers do not match, {_how(correspondence)}")
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


def _how(correspondence: Correspondence) -> str:
    """How residues were paired otherwise than by number, in words."""
    if correspondence.mode == "label":
        return "paired by sequence position"
    shift = f"are the truth's {correspondence.shift:+d}" if correspondence.shift else "are equal"
    words = f"the sequences were aligned (most numbers of the prediction {shift})"
    if correspondence.off_shift:
        words += f"; {correspondence.off_shift} residue(s) could as well stand where that shift puts them: letters tie"
    return words


def _pooled(results: Sequence[LddtResult]) -> float | None:
    pairs = sum(result.pairs for result in results)
    return sum(result.preserved for result in results) / (4 * pairs) if pairs else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
