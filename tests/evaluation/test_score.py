from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.structure.residues import ATOM37_INDEX
from evaluation.match import MatchError
from evaluation.score import TruthError, score_pair


def test_a_two_chain_truth_with_one_chain_predicted(record, walk, sequence):
    """Copies far apart: half of the pairs are missing, what is there is right."""
    letters, shape = sequence(30, 1), walk(30, 1)
    truth = [record(letters, shape, chain="A"), record(letters, shape + 200, chain="B")]
    score = score_pair(truth, [record(letters, shape, chain="A")])
    assert (score.lddt_ca, score.lddt_ca_common, score.lddt_ca_intra) == (0.5, 1.0, 0.5)
    assert (score.n_truth, score.n_matched, score.coverage) == (60, 30, 0.5)
    assert score.chain_map == "A=A;B="
    assert score.chain_scores == "A=1.000000;B=0.000000"
    assert any("'B' has no counterpart" in note for note in score.notes)


def test_pairs_between_chains_count_and_stand_apart_from_those_within(record, walk, sequence):
    """Two chains side by side, one of them moved away: within chains all is kept, between them nothing."""
    letters, other, shape = sequence(30, 2), sequence(30, 3), walk(30, 2)
    truth = [record(letters, shape, chain="A"), record(other, shape + 6.0, chain="B")]
    prediction = [record(letters, shape, chain="A"), record(other, shape + 300.0, chain="B")]
    score = score_pair(truth, prediction)
    assert score.lddt_ca_intra == 1.0
    assert 0.3 < score.lddt_ca < 0.9


def test_residues_carry_the_truth_s_numbers_and_their_counterparts(record, sequence):
    letters = sequence(10, 4)
    truth = record(letters, numbers=range(11, 21), codes=["A"] + [""] * 9)
    prediction = record(
        letters[1:],
        truth.ca_positions[1:],
        numbers=range(2, 11),
        b_factors=np.arange(50, 95, 5),
        backbone=True,
        chain="Q",
    )
    score = score_pair([truth], [prediction], "align")
    residues = SimpleNamespace(**score.residues.columns())
    assert (residues.number[0], residues.insertion_code[0], residues.in_pred[0], residues.lddt_ca[0]) == (
        11,
        "A",
        False,
        0,
    )
    assert (residues.pred_chain[0], residues.pred_number[0], residues.plddt[0]) == (None, None, None)
    assert (residues.number[1], residues.in_pred[1], residues.pred_chain[1], residues.pred_number[1]) == (
        12,
        True,
        "Q",
        2,
    )
    assert residues.plddt[1] == 50
    assert score.mean_plddt == pytest.approx(np.arange(50, 95, 5).mean())
    assert score.plddt_scale == "0-100"


def test_an_isolated_residue_is_undefined(record):
    positions = np.array([[0, 0, 0], [3.8, 0, 0], [90, 0, 0]], dtype=float)
    score = score_pair([record("ACD", positions)], [record("ACD", positions)])
    assert score.residues.columns()["lddt_ca"] == [1.0, 1.0, None]
    assert score.lddt_ca_mean_per_residue == 1.0


def test_extra_residues_of_the_prediction_are_counted(record, walk, sequence):
    letters, shape = sequence(30, 5), walk(30, 5)
    truth = record(letters[:20], shape[:20])
    assert score_pair([truth], [record(letters, shape)]).n_extra == 10


def test_nothing_to_score(record):
    truth = record("ACDEF")
    with pytest.raises(MatchError, match="the prediction has 0 CA atoms in 1 protein chain"):
        score_pair([truth], [record("ACDEF", present=[False] * 5)])
    with pytest.raises(TruthError, match="the truth has 0 CA atoms"):
        score_pair([record("ACDEF", present=[False] * 5)], [truth])
    with pytest.raises(TruthError, match="lDDT is undefined: the truth has 1 alpha carbon"):
        score_pair([record("A")], [record("A")])


def test_chains_without_alpha_carbons_are_left_out_and_named(record, sequence):
    letters = sequence(20, 6)
    empty = record("ACD", present=[False] * 3, chain="L")
    score = score_pair([record(letters), empty], [record(letters)])
    assert score.lddt_ca == 1.0
    assert "truth chain 'L' has 0 CA atoms and is left out" in score.notes


def test_a_copy_scores_one_though_a_residue_has_no_alpha_carbon(record, sequence):
    """Residues are paired by their alpha carbons; what else the truth has of residue 5 finds no counterpart."""
    truth = record(sequence(20, 7), backbone=True)
    truth.atom37_mask[5, ATOM37_INDEX["CA"]] = False
    score = score_pair([truth], [truth], all_atom=True)
    assert (score.lddt_ca, score.lddt_all, score.n_truth) == (1.0, 1.0, 19)
