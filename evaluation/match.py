"""Which residue of a prediction is which residue of the truth, for one chain of each.

Four ways, of which a person can ask for one and of which ``auto`` takes the best:

- ``number``: the author's residue number and insertion code are equal.
- ``label``: the position along the sequence is equal (mmCIF's label_seq_id). Where a prediction is numbered 1..L and
  the truth is not, the prediction's number is its position.
- ``align``: the sequences are aligned. Gaps are free where the truth's chain is broken. Where the alignment says that
  one numbering is the other shifted by a constant, the shifted numbers decide: next to a gap they know more than
  the letters.

``auto`` takes ``number`` unless another way brings more residues of the same name together.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np

from data_prep.record import ProteinRecord

MODES: tuple[str, ...] = ("auto", "number", "label", "align")
"""What ``--match`` takes."""

MIN_IDENTITY: float = 0.5
"""Two chains of which fewer residues than this share their name are not the same protein: unrelated sequences align at
0.2 to 0.3, constructs with tags and mutations at more than 0.9."""


class MatchError(ValueError):
    """A prediction and a truth that do not belong together. One line: what was found, what was expected."""


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Residues of one chain of the truth and one of the prediction that are the same. M pairs."""

    mode: str
    """number, label or align."""
    true_index: np.ndarray
    """int64 [M], increasing: residues of the truth's record, all with an alpha carbon."""
    pred_index: np.ndarray
    """int64 [M]: the same residues in the prediction's record, all with an alpha carbon."""
    identical: int
    """Pairs that agree in their one-letter name."""
    mismatches: int
    """Pairs whose names differ. A pair with an unknown residue (X) is neither."""
    shift: int | None = None
    """Of ``align``: the prediction's number less the truth's, where that is one number for all pairs."""

    @property
    def identity(self) -> float:
        """Share of pairs with equal names among those where both names are known. 1 where none is known but residues
        were paired, since nothing contradicts the pairing; 0 without pairs."""
        known = self.identical + self.mismatches
        return self.identical / known if known else float(len(self.true_index) > 0)


def match_residues(truth: ProteinRecord, prediction: ProteinRecord, mode: str = "auto") -> Correspondence:
    """The residues that correspond, by one of ``MODES``. Only residues with an alpha carbon are paired.

    It does not judge whether the pairing makes sense: look at ``identity``.
    """
    if mode == "number":
        return _by_number(truth, prediction)
    if mode == "label":
        return _by_label(truth, prediction)
    if mode == "align":
        return _by_alignment(truth, prediction)
    if mode != "auto":
        raise ValueError(f"match mode {mode!r}: expected one of {', '.join(MODES)}")
    number = _by_number(truth, prediction)
    shorter = min(np.count_nonzero(truth.ca_mask), np.count_nonzero(prediction.ca_mask))
    if number.identical == shorter:  # nothing can bring more residues together
        return number
    # max() keeps the first of equals, so the order here is the order of preference.
    candidates = (number, _by_alignment(truth, prediction), _by_label(truth, prediction))
    return max(candidates, key=lambda candidate: candidate.identical)


def _by_number(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    return _by_keys("number", truth, _numbers(truth), prediction, _numbers(prediction))


def _by_label(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    true_keys = truth.residue_index.tolist()
    by_position = _by_keys("label", truth, true_keys, prediction, prediction.residue_index.tolist())
    by_number = _by_keys("label", truth, true_keys, prediction, (prediction.auth_seq_id - 1).tolist())
    return max((by_position, by_number), key=lambda candidate: candidate.identical)


def _by_alignment(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    true_index, pred_index = align_sequences(truth.sequence, prediction.sequence, _breaks(truth), _breaks(prediction))
    both = truth.ca_mask[true_index] & prediction.ca_mask[pred_index]
    aligned = _correspondence("align", truth, true_index[both], prediction, pred_index[both])
    if not aligned.identical:
        return aligned
    shifts = prediction.auth_seq_id[aligned.pred_index] - truth.auth_seq_id[aligned.true_index]
    shift = Counter(shifts.tolist()).most_common(1)[0][0]
    moved = [(number + shift, code, nth) for number, code, nth in _numbers(truth)]
    shifted = _by_keys("align", truth, moved, prediction, _numbers(prediction), shift=shift)
    return shifted if shifted.identical >= aligned.identical else aligned


def align_sequences(
    target: str, query: str, target_breaks: np.ndarray | None = None, query_breaks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Global alignment of two sequences with affine gaps (Gotoh, as gemmi has it).

    Args:
        target: T letters.
        query: Q letters.
        target_breaks: bool [T + 1], True where residues of the target may be missing before its i-th letter (the
            last entry: after the end), so that a gap opens there for free. Gaps at the ends are always free to open.
        query_breaks: bool [Q + 1], the same for the query. Only the sequence with more breaks gets its free gaps.

    Returns:
        int64 [M] and int64 [M]: aligned positions of the target and of the query, both increasing.
    """
    if query_breaks is not None and (target_breaks is None or query_breaks.sum() > target_breaks.sum()):
        query_index, target_index = align_sequences(query, target, query_breaks)
        return target_index, query_index
    scoring = gemmi.AlignmentScoring()
    scoring.match, scoring.mismatch, scoring.gapo, scoring.gape = 2, -1, -4, -1
    opening = np.full(len(target) + 1, scoring.gapo)
    opening[[0, -1]] = 0
    if target_breaks is not None:
        opening[target_breaks] = 0
    result = gemmi.align_string_sequences(list(query), list(target), opening.tolist(), scoring)
    return _aligned_positions(result.cigar_str())


def _aligned_positions(cigar: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the target and in the query of the M runs of a CIGAR string (I: query only, D: target only)."""
    target_runs, query_runs, target, query, digits = [], [], 0, 0, ""
    for character in cigar:
        if character.isdigit():
            digits += character
            continue
        length, digits = int(digits), ""
        if character == "M":
            target_runs.append(np.arange(target, target + length))
            query_runs.append(np.arange(query, query + length))
        target += length if character in "MD" else 0
        query += length if character in "MI" else 0
    empty = [np.zeros(0, dtype=np.int64)]
    return np.concatenate(target_runs or empty), np.concatenate(query_runs or empty)


def _breaks(record: ProteinRecord) -> np.ndarray:
    """bool [N + 1]: places where the record's own positions say that residues are missing from its sequence."""
    jumps = np.diff(record.residue_index) > 1
    return np.concatenate([[False], jumps, [False]])


def _numbers(record: ProteinRecord) -> list[tuple[int, str, int]]:
    """One key per residue: author's number, insertion code, and how many residues before it had the same two. A file
    that uses a number twice still has two residues there; they are paired in their order."""
    seen: Counter[tuple[int, str]] = Counter()
    keys = []
    for number, code, present in zip(
        record.auth_seq_id.tolist(), record.insertion_code.tolist(), record.ca_mask.tolist(), strict=True
    ):
        keys.append((number, code, seen[number, code]))
        seen[number, code] += present  # unobserved residues have no number to speak of
    return keys


def _by_keys(
    mode: str,
    truth: ProteinRecord,
    true_keys: Sequence[Hashable],
    prediction: ProteinRecord,
    pred_keys: Sequence[Hashable],
    shift: int | None = None,
) -> Correspondence:
    """Pairs the residues whose keys are equal, among those with an alpha carbon."""
    where = {pred_keys[i]: i for i in np.flatnonzero(prediction.ca_mask).tolist()}
    pairs = [(i, where[true_keys[i]]) for i in np.flatnonzero(truth.ca_mask).tolist() if true_keys[i] in where]
    index = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return _correspondence(mode, truth, index[:, 0], prediction, index[:, 1], shift)


def _correspondence(
    mode: str,
    truth: ProteinRecord,
    true_index: np.ndarray,
    prediction: ProteinRecord,
    pred_index: np.ndarray,
    shift: int | None = None,
) -> Correspondence:
    true_names = np.array(list(truth.sequence), dtype="<U1")[true_index]
    pred_names = np.array(list(prediction.sequence), dtype="<U1")[pred_index]
    known = (true_names != "X") & (pred_names != "X")
    identical = int(np.count_nonzero(known & (true_names == pred_names)))
    return Correspondence(mode, true_index, pred_index, identical, int(np.count_nonzero(known)) - identical, shift)
