import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.match import MIN_IDENTITY, MODES, align_sequences, match_residues

CHEAP, COSTLY = -9, -60


def pairs(correspondence):
    return list(zip(correspondence.true_index.tolist(), correspondence.pred_index.tolist(), strict=True))


def test_number_decides_where_it_fits(record):
    truth = record("ACDEF", numbers=[3, 4, 5, 6, 7])
    prediction = record("MMACDEFG", numbers=range(1, 9))
    found = match_residues(truth, prediction)
    assert found.mode == "number"
    assert pairs(found) == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
    assert (found.identical, found.mismatches, found.identity) == (5, 0, 1.0)


def test_order_in_the_file_does_not_matter(record):
    truth = record("ACDEF")
    prediction = record("FEDCA", numbers=[5, 4, 3, 2, 1], positions_along=range(5))
    assert pairs(match_residues(truth, prediction)) == [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]


def test_insertion_codes_tell_residues_of_one_number_apart(record):
    truth = record("ACDE", numbers=[10, 10, 10, 11], codes=["", "A", "B", ""], positions_along=range(4))
    prediction = record("ADE", numbers=[10, 10, 11], codes=["", "B", ""], positions_along=range(3))
    found = match_residues(truth, prediction, "number")
    assert pairs(found) == [(0, 0), (2, 1), (3, 2)]


def test_a_number_used_twice_stays_two_residues(record):
    truth = record("ACDE", numbers=[1, 2, 2, 3], positions_along=range(4))
    assert pairs(match_residues(truth, truth, "number")) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_shifted_numbers_are_aligned_and_the_shift_is_named(record, sequence):
    letters = sequence(60, 1)
    found = match_residues(record(letters), record(letters, numbers=range(501, 561)))
    assert (found.mode, found.shift, found.identical) == ("align", 500, 60)


def test_a_few_names_that_differ_do_not_shake_the_numbers(record, sequence):
    letters = sequence(80, 2)
    mutated = "".join("G" if i % 20 == 0 and letter != "G" else letter for i, letter in enumerate(letters))
    found = match_residues(record(letters), record(mutated))
    assert found.mode == "number"
    assert found.mismatches == sum(a != b for a, b in zip(letters, mutated, strict=True)) > 0


def test_unknown_residues_are_neither_identical_nor_mismatched(record):
    found = match_residues(record("AXDEF"), record("ACDXF"))
    assert (found.identical, found.mismatches, len(found.true_index)) == (3, 0, 5)
    nothing_known = match_residues(record("XXXXX"), record("ACDEF"))
    assert (nothing_known.mode, nothing_known.identity, len(nothing_known.true_index)) == ("number", 1.0, 5)


def test_label_pairs_the_position_along_the_sequence_with_the_prediction_s_number(record, sequence):
    """A truth with SEQRES: 20 residues, of which 5-9 are not observed, with wild author's numbers."""
    letters = sequence(20, 3)
    present = [not 5 <= i < 10 for i in range(20)]
    truth = record(letters, numbers=range(340, 320, -1), positions_along=range(20), present=present)
    by_label = match_residues(truth, record(letters), "label")
    assert pairs(by_label) == [(i, i) for i in range(20) if present[i]]
    # A prediction that starts at number 4 lacks the first three.
    cut = record(letters[3:], numbers=range(4, 21))
    assert pairs(match_residues(truth, cut, "label")) == [(i, i - 3) for i in range(3, 20) if present[i]]


def test_only_alpha_carbons_are_paired(record):
    truth = record("ACDEF", present=[True, True, False, True, True])
    prediction = record("ACDEF", present=[True, False, True, True, True])
    for mode in MODES:
        assert pairs(match_residues(truth, prediction, mode)) == [(0, 0), (3, 3), (4, 4)]


def test_a_tie_between_letters_is_said(record):
    """Sequence ...KQA[RQTLA]EVQ...: by letters alone the A before the loop may as well be the one at its end. The
    numbers of the truth, 100 more than the prediction's, would say which; auto is plain alignment here, and counts the
    residue that hangs on the tie."""
    head, loop, tail = "MSTNPKPQRKTKRNTNRRPQDVKFPGGGQIVGGVYKQA", "RQTLA", "EVQLLPRRGPRLGVRATRKTSERS"
    full, seen = head + loop + tail, head + tail
    numbers = [101 + i for i in range(len(full)) if not len(head) <= i < len(head) + len(loop)]
    last = len(head) - 1
    expected = [(i, i if i < last else i + len(loop)) for i in range(len(seen))]
    for mode in ("auto", "align"):
        found = match_residues(record(seen, numbers=numbers), record(full), mode)
        assert (found.mode, found.shift, found.off_shift) == ("align", -100, 1)
        assert pairs(found) == expected
    through = match_residues(record(seen, numbers=range(201, 201 + len(seen))), record(full))
    assert (through.shift, through.off_shift) == (-200, 0), "no one shift pairs them all: nothing to say"


def test_numbers_and_sequences_that_are_stated_decide_ties(record):
    """The same tie, but decided by equal numbers, or by a truth that states the missing residues in its sequence."""
    head, loop, tail = "MSTNPKPQRKTKRNTNRRPQDVKFPGGGQIVGGVYKQA", "RQTLA", "EVQLLPRRGPRLGVRATRKTSERS"
    full, seen = head + loop + tail, head + tail
    present = [not len(head) <= i < len(head) + len(loop) for i in range(len(full))]
    places = np.flatnonzero(present)
    numbered = match_residues(record(seen, numbers=places + 1), record(full))
    assert (numbered.mode, numbered.pred_index.tolist()) == ("number", places.tolist())
    stated = match_residues(record(full, numbers=range(301, 301 + len(full)), present=present), record(full))
    assert (stated.mode, stated.pred_index.tolist()) == ("align", places.tolist())


def test_unrelated_chains_are_told_from_related_ones(record, sequence):
    unrelated = [
        match_residues(record(sequence(n, 2 * n)), record(sequence(m, 2 * m + 1)), mode).identity
        for n in (40, 90, 250)
        for m in (50, 300)
        for mode in ("auto", "align")
    ]
    assert max(unrelated) < MIN_IDENTITY / 1.5
    letters = sequence(120, 5)
    construct = "GSHM" + letters[:100] + "LEHHHHHH"
    assert match_residues(record(letters), record(construct, numbers=range(-3, 109))).identity > 0.8


def test_unknown_mode_is_named(record):
    with pytest.raises(ValueError, match="'best': expected one of auto, number, label, align"):
        match_residues(record("ACD"), record("ACD"), "best")


def test_gaps_of_equally_good_alignments_come_first():
    target, query = align_sequences("MKTAYAGGLLV", "MKTAYSSSYAGGLLV", CHEAP)
    assert query[target.tolist().index(4)] == 8, "the Y after the insertion"


def test_a_piece_that_stands_once_in_the_other_needs_no_alignment():
    assert [index.tolist() for index in align_sequences("KTAY", "MKTAYS", COSTLY)] == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert [index.tolist() for index in align_sequences("MKTAYS", "KTAY", COSTLY)] == [[1, 2, 3, 4], [0, 1, 2, 3]]
    assert len(align_sequences("MKMK", "MK", COSTLY)[0]) == 2, "twice: aligned"


@given(
    target=st.text("ACDEFGHIKLMNPQRSTVWY", max_size=40),
    query=st.text("ACDEFGHIKLMNPQRSTVWY", max_size=40),
    gap_open=st.sampled_from([CHEAP, COSTLY]),
)
def test_alignments_are_increasing_and_inside(target, query, gap_open):
    true_index, pred_index = align_sequences(target, query, gap_open)
    assert len(true_index) == len(pred_index) <= min(len(target), len(query))
    for index, letters in ((true_index, target), (pred_index, query)):
        assert (np.diff(index) > 0).all()
        assert not len(index) or (index[0] >= 0 and index[-1] < len(letters))


@given(letters=st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=60), cut=st.integers(0, 10))
def test_a_sequence_aligns_with_a_piece_of_itself(letters, cut):
    piece = letters[cut:] or letters
    true_index, pred_index = align_sequences(letters, piece, COSTLY)
    assert [letters[i] for i in true_index] == [piece[j] for j in pred_index] == list(piece)


def test_substitutions_of_a_homologue_are_no_gaps(record, sequence):
    """As TIM of chicken, 1TIM against 8TIM: equal numbers, some substitutions beside each other, which cheap gaps would
    turn into residues that the prediction lacks."""
    letters = sequence(120, 0)
    other = letters[:50] + letters[51] + letters[50] + "GG" + letters[54:80] + letters[81] + "A" + letters[82:]
    for numbers, mode in ((range(1, 121), "number"), (range(5, 125), "align")):
        found = match_residues(record(letters), record(other, numbers=numbers))
        assert found.mode == mode and found.true_index.tolist() == found.pred_index.tolist() == list(range(120))
