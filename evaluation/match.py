"""Which residue of a prediction is which residue of the truth, for one chain of each.

Three ways, of which a person can ask for one:

- ``number``: the author's residue number and insertion code are equal.
- ``label``: the position along the sequence is equal (mmCIF's label_seq_id). Where a prediction is numbered 1..L and
  the truth is not, the prediction's number is its position.
- ``align``: the sequences are aligned, by their letters alone: with gaps wherever that pairs more equal letters, as of
  a chain with missing loops, or by BLOSUM62 where that pairs more residues, as of a homologue. Where several alignments
  are equally good, as when the residue before a missing loop is also the last one of the loop, gaps come as early as
  they can.

``auto`` is a choice between these three and nothing of its own: ``number`` where it agrees well with the sequences and
an alignment pairs no more residues, else the way that brings most residues of the same name together, the share of
``Correspondence.identity``. Of equals ``number`` comes first, then ``align``.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import gemmi
import numpy as np

from data_prep.files.errors import UserError
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPES_WITH_X

if TYPE_CHECKING:
    from Bio.Align import PairwiseAligner

MODES: tuple[str, ...] = ("auto", "number", "label", "align")
"""What ``--match`` takes."""

MIN_IDENTITY: float = 0.4
"""Two chains whose ``Correspondence.identity`` is lower are not the same protein. Of 1,000 pairs of unrelated real
chains, 999 are below 0.25 by it; constructs that differ in tags, loops and mutations are above 0.7."""

AGREEING_NUMBERS: float = 0.9
"""Identity from which on the author's numbers are believed where no alignment pairs more residues."""

_CHEAP_GAP, _COSTLY_GAP = -9, -60  # a gap costs as much as a mismatch, or as six
_UNKNOWN = ord("X")
_CODE_BITS = 21  # that hold any character
_UNBROKEN = 6  # letters of a run that an alignment with costly gaps keeps too: what it saves on a gap it loses on them


class MatchError(UserError):
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
    identity: float
    """How sure it is that the chains are the same protein: the share of the shorter chain, unknown residues left out,
    that has a counterpart of the same name. 1 when one chain is all unknown, since nothing contradicts; 0 without
    pairs. Of ``align`` it is that of an alignment with costly gaps: cheap gaps find some likeness everywhere."""
    shift: int | None = None
    """Of ``align``: the prediction's number less the truth's for most pairs."""
    off_shift: int = 0
    """Of ``align``: pairs whose numbers differ by something else, where numbers that differ by ``shift`` throughout
    would bring as many residues of the same name together. These pairs are a tie between letters."""


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
    aligned = _by_alignment(truth, prediction)
    if number.identity >= AGREEING_NUMBERS and len(number.true_index) >= len(aligned.true_index):
        return number
    # max() keeps the first of equals, so the order here is the order of preference.
    candidates = [number, aligned]
    if candidates[1].identity < 1:
        candidates.append(_by_label(truth, prediction))
    return max(candidates, key=lambda candidate: candidate.identity)


def _by_number(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    return _by_keys("number", truth, *_number_keys(truth, prediction, 0), prediction)


def _by_label(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    by_position = _by_keys("label", truth, truth.residue_index, prediction.residue_index, prediction)
    by_number = _by_keys("label", truth, truth.residue_index, prediction.auth_seq_id - 1, prediction)
    return max((by_position, by_number), key=lambda candidate: candidate.identical)


def _by_alignment(truth: ProteinRecord, prediction: ProteinRecord) -> Correspondence:
    found = _aligned(truth, prediction, align_sequences(truth.sequence, prediction.sequence, _CHEAP_GAP))
    shorter = min(np.count_nonzero(truth.ca_mask), np.count_nonzero(prediction.ca_mask))
    if found.identical < shorter:
        # Of a homologue cheap gaps find a few letters more in fewer residues; of missing loops they are the truth.
        substituted = _aligned(truth, prediction, align_homologues(truth.sequence, prediction.sequence))
        more = len(substituted.true_index) - len(found.true_index)
        if more > 0 and 3 * more >= found.identical - substituted.identical:
            found = substituted
    if not found.identical:
        return found
    if found.mismatches or _shortest_run(found) < _UNBROKEN:
        found = replace(found, identity=_costly_identity(truth, prediction))
    shifts = prediction.auth_seq_id[found.pred_index] - truth.auth_seq_id[found.true_index]
    if (shifts == shifts[0]).all():
        return replace(found, shift=int(shifts[0]))
    shift, agreeing = Counter(shifts.tolist()).most_common(1)[0]
    shifted = _by_keys("align", truth, *_number_keys(truth, prediction, shift), prediction)
    off_shift = len(shifts) - agreeing if shifted.identical >= found.identical else 0
    return replace(found, shift=shift, off_shift=off_shift)


def _costly_identity(truth: ProteinRecord, prediction: ProteinRecord) -> float:
    return _aligned(truth, prediction, align_sequences(truth.sequence, prediction.sequence, _COSTLY_GAP)).identity


def _aligned(
    truth: ProteinRecord, prediction: ProteinRecord, alignment: tuple[np.ndarray, np.ndarray]
) -> Correspondence:
    true_index, pred_index = alignment
    both = truth.ca_mask[true_index] & prediction.ca_mask[pred_index]
    return _correspondence("align", truth, true_index[both], prediction, pred_index[both])


def _shortest_run(found: Correspondence) -> int:
    """Pairs of the shortest run without a gap on either side."""
    steps = len(found.true_index) - 1
    if all(index[-1] - index[0] == steps for index in (found.true_index, found.pred_index)):
        return steps + 1
    breaks = np.flatnonzero((np.diff(found.true_index) != 1) | (np.diff(found.pred_index) != 1)) + 1
    return int(np.diff(np.concatenate([[0], breaks, [len(found.true_index)]])).min())


def align_sequences(target: str, query: str, gap_open: int) -> tuple[np.ndarray, np.ndarray]:
    """Global alignment of two sequences with affine gaps (Gotoh 1982, as gemmi has it).

    A match is worth 10, a mismatch -10, a gap of n letters ``gap_open`` - n; at the ends -n. Of equally good alignments
    the one whose gaps come first is taken.

    Args:
        target: T letters.
        query: Q letters.
        gap_open: what it costs to open a gap, a negative number.

    Returns:
        int64 [M] and int64 [M]: aligned positions of the target and of the query, both increasing.
    """
    start = _only_place(target, query)
    if start is not None:
        return np.arange(len(target)), np.arange(start, start + len(target))
    start = _only_place(query, target)
    if start is not None:
        return np.arange(start, start + len(query)), np.arange(len(query))
    scoring = gemmi.AlignmentScoring()
    scoring.match, scoring.mismatch, scoring.gapo, scoring.gape = 10, -10, gap_open, -1
    opening = [gap_open] * (len(target) + 1)
    opening[0] = opening[-1] = 0
    # gemmi puts gaps as late as they can be; aligned from the end, they come as early as they can.
    result = gemmi.align_string_sequences(list(query[::-1]), list(target[::-1]), opening, scoring)
    target_index, query_index = _aligned_positions(result.cigar_str())
    return len(target) - 1 - target_index[::-1], len(query) - 1 - query_index[::-1]


def align_homologues(target: str, query: str) -> tuple[np.ndarray, np.ndarray]:
    """Alignment of two sequences in which a substitution is a substitution: BLOSUM62, a gap of k residues costs 10 + k,
    at the ends nothing. Arguments and result as of ``align_sequences``."""
    if not target or not query:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    aligned = _aligner().align(target, query)[0].aligned
    runs = [[np.arange(start, stop) for start, stop in side] for side in aligned]
    none = [np.zeros(0, dtype=np.int64)]
    return np.concatenate(none + runs[0]), np.concatenate(none + runs[1])


@cache
def _aligner() -> "PairwiseAligner":
    from Bio.Align import PairwiseAligner, substitution_matrices  # 0.1 s that most runs do without

    table, letters = substitution_matrices.load("BLOSUM62"), RESTYPES_WITH_X
    scores = np.array([[0.0 if "X" in a + b else table[a, b] for b in letters] for a in letters])
    aligner = PairwiseAligner(mode="global", open_gap_score=-11, extend_gap_score=-1, end_gap_score=0)
    aligner.substitution_matrix = substitution_matrices.Array(letters, dims=2, data=scores)
    return aligner


def _only_place(piece: str, whole: str) -> int | None:
    """Where ``piece`` stands in ``whole``, if it does so once: no alignment is as good as that."""
    start = whole.find(piece) if piece else -1
    return start if start >= 0 and whole.find(piece, start + 1) < 0 else None


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


def _number_keys(truth: ProteinRecord, prediction: ProteinRecord, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [T] and [P]: equal where author's number (the truth's plus ``shift``), insertion code and how many residues
    before had the same two are equal. A file that uses a number twice still has two residues there; they are paired in
    their order. Residues without an alpha carbon have no number to speak of."""
    keys = [
        (record.auth_seq_id.astype(np.int64) + added << _CODE_BITS) + record.insertion_code.view(np.uint32)
        for record, added in ((truth, shift), (prediction, 0))
    ]
    masks = truth.ca_mask, prediction.ca_mask
    present = [key[mask] for key, mask in zip(keys, masks, strict=True)]
    if all((one[1:] > one[:-1]).all() or len(np.unique(one)) == len(one) for one in present):
        return keys[0], keys[1]
    _, name = np.unique(np.concatenate(keys), return_inverse=True)
    keys = np.split(name * (len(name) + 1), [len(truth)])
    for key, mask in zip(keys, masks, strict=True):
        key[mask] += _occurrence(key[mask])
    return keys[0], keys[1]


def _occurrence(keys: np.ndarray) -> np.ndarray:
    """int64 [N]: how many equal keys stand before each."""
    order = np.argsort(keys, kind="stable")
    _, start, count = np.unique(keys[order], return_index=True, return_counts=True)
    nth = np.empty(len(keys), dtype=np.int64)
    nth[order] = np.arange(len(keys)) - np.repeat(start, count)
    return nth


def _by_keys(
    mode: str,
    truth: ProteinRecord,
    true_keys: np.ndarray,
    pred_keys: np.ndarray,
    prediction: ProteinRecord,
) -> Correspondence:
    """Pairs the residues whose keys (int [T] and [P]) are equal, among those with an alpha carbon; of several equal
    ones of the prediction the last."""
    true_index, pred_index = truth.ca_mask.nonzero()[0], prediction.ca_mask.nonzero()[0]
    true_keys, pred_keys = true_keys[true_index], pred_keys[pred_index]
    if not (pred_keys[1:] > pred_keys[:-1]).all():
        order = np.argsort(pred_keys, kind="stable")
        pred_index, pred_keys = pred_index[order], pred_keys[order]
    if len(true_keys) != len(pred_keys) or (true_keys != pred_keys).any():
        place = pred_keys.searchsorted(true_keys, side="right") - 1  # -1, the last key, is larger than what it is for
        equal = (pred_keys.take(place) == true_keys).nonzero()[0] if len(pred_keys) else place[:0]
        true_index, pred_index = true_index[equal], pred_index[place[equal]]
    return _correspondence(mode, truth, true_index, prediction, pred_index)


def _correspondence(
    mode: str,
    truth: ProteinRecord,
    true_index: np.ndarray,
    prediction: ProteinRecord,
    pred_index: np.ndarray,
) -> Correspondence:
    shorter = min(_known_residues(truth), _known_residues(prediction))
    true_letters, pred_letters = _letters(truth)[true_index], _letters(prediction)[pred_index]
    same, n_known = true_letters == pred_letters, len(true_index)
    if "X" in truth.sequence or "X" in prediction.sequence:
        known = (true_letters != _UNKNOWN) & (pred_letters != _UNKNOWN)
        same, n_known = same & known, int(np.count_nonzero(known))
    identical = int(np.count_nonzero(same))
    identity = identical / shorter if shorter else float(len(true_index) > 0)
    return Correspondence(mode, true_index, pred_index, identical, n_known - identical, identity)


def _known_residues(chain: ProteinRecord) -> int:
    """Residues with an alpha carbon and a name."""
    known = chain.ca_mask & (_letters(chain) != _UNKNOWN) if "X" in chain.sequence else chain.ca_mask
    return int(np.count_nonzero(known))


def _letters(chain: ProteinRecord) -> np.ndarray:
    """uint8 [N]: the letters of the sequence."""
    return np.frombuffer(chain.sequence.encode("ascii"), dtype=np.uint8)
