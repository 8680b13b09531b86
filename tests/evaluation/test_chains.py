from itertools import permutations

import numpy as np
import pytest

from evaluation import chains
from evaluation.chains import match_chains
from evaluation.lddt_scores import lddt_ca
from evaluation.match import MatchError


@pytest.fixture
def copies(record, walk, sequence):
    """``copies(n)``: n copies of one chain, 12 A apart on a zigzag, so that neighbours touch and no two places are
    alike."""

    def make(count, seed=0, noise=0.0, length=30):
        letters, shape = sequence(length, 100), walk(length, 100)
        generator = np.random.default_rng(seed)
        places = [np.array([12.0 * i, 7.0 * (i % 2), 3.0 * (i % 3)]) for i in range(count)]
        return [
            record(
                letters, (shape + place + noise * generator.normal(size=shape.shape)).round(3), chain="ABCDEFGHIJ"[i]
            )
            for i, place in enumerate(places)
        ]

    return make


def kept(truth, prediction, assignment):
    """Distances kept by an assignment of equal chains, from the score itself."""
    positions = np.concatenate([prediction[p].ca_positions for p in assignment])
    true_positions = np.concatenate([chain.ca_positions for chain in truth])
    index = np.repeat(np.arange(len(truth)), len(truth[0]))
    return lddt_ca(positions, true_positions, chain_index=index).preserved


def test_labels_do_not_matter(copies):
    truth = copies(3)
    shuffled = [copies(3, seed=1, noise=0.3)[i] for i in (2, 0, 1)]
    assert match_chains(truth, shuffled).assignment == (1, 2, 0)


def test_the_best_of_all_assignments_is_found(copies):
    truth, prediction = copies(4), copies(4, seed=2, noise=1.5)
    prediction = [prediction[i] for i in (3, 1, 0, 2)]
    best = max(permutations(range(4)), key=lambda assignment: kept(truth, prediction, assignment))
    assert match_chains(truth, prediction).assignment == best


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_what_trying_all_finds(copies, monkeypatch, seed):
    order = np.random.default_rng(seed).permutation(5)
    truth, prediction = copies(5), copies(5, seed=seed, noise=1.0)
    prediction = [prediction[i] for i in order]
    everything = match_chains(truth, prediction).assignment
    monkeypatch.setattr(chains, "_TRY_ALL", 0)
    assert match_chains(truth, prediction).assignment == everything


def test_many_copies(copies):
    """Ten copies have 3.6 million assignments: the search is used."""
    order = np.random.default_rng(3).permutation(10)
    prediction = copies(10, seed=3, noise=0.5)
    found = match_chains(copies(10), [prediction[i] for i in order]).assignment
    assert [order[p] for p in found] == list(range(10))


def test_sequence_goes_before_structure(record, walk, sequence):
    """Two chains that differ in one residue of twenty: the copy of the same sequence is taken although the other one
    lies better."""
    letters, shape = sequence(20, 7), walk(20, 7)
    other = letters[:10] + ("A" if letters[10] != "A" else "G") + letters[11:]
    noisy = (shape + np.random.default_rng(0).normal(size=shape.shape)).round(3)
    assert match_chains([record(letters, shape)], [record(other, shape), record(letters, noisy)]).assignment == (1,)


def test_of_equal_chains_the_one_of_the_same_name_is_taken(record, sequence):
    letters = sequence(30, 8)
    prediction = [record(letters, chain="A"), record(letters, chain="B")]
    assert match_chains([record(letters, chain="B")], prediction).assignment == (1,)
    assert match_chains([record(letters, chain="Z")], prediction).assignment == (0,)


def test_chains_without_a_counterpart(record, sequence):
    one, two = record(sequence(30, 9), chain="A"), record(sequence(40, 10), chain="B")
    found = match_chains([one, two], [record(sequence(40, 10), chain="A")])
    assert found.assignment == (None, 0)
    assert found.correspondences[0] is None and found.correspondences[1].identical == 40
    # Two copies in the truth, one in the prediction: the copy of the same name.
    twice = [record(sequence(30, 9), chain="A"), record(sequence(30, 9), chain="B")]
    assert match_chains(twice, [record(sequence(30, 9), chain="B")]).assignment == (None, 0)


def test_named_chains_are_taken_as_named(copies):
    found = match_chains(copies(2), copies(2), chain_map={"A": "B", "B": "A"})
    assert found.assignment == (1, 0) and found.named
    assert match_chains(copies(2), copies(2), chain_map={"B": "B"}).assignment == (None, 1)


@pytest.mark.parametrize(
    ("chain_map", "found"),
    [
        ({"Z": "A"}, "the truth has no chain 'Z', only 'A', 'B'"),
        ({"A": "Z"}, "the prediction has no chain 'Z', only 'A', 'B'"),
    ],
)
def test_names_that_are_not_there(copies, chain_map, found):
    with pytest.raises(MatchError, match=found):
        match_chains(copies(2), copies(2), chain_map=chain_map)


def test_unrelated_chains_are_an_error(record, sequence):
    truth, prediction = [record(sequence(50, 11))], [record(sequence(60, 12))]
    with pytest.raises(MatchError, match=r"sequence identity too low to pair chain 'A'.*expected at least 0\.4"):
        match_chains(truth, prediction)
    with pytest.raises(MatchError, match="identity too low"):
        match_chains(truth, prediction, chain_map={"A": "A"})
    assert match_chains(truth, prediction, "number", min_identity=0).assignment == (0,)


def test_numbers_that_never_meet_are_an_error(record, sequence):
    letters = sequence(30, 13)
    with pytest.raises(MatchError, match=r"no residue of chain 'A'.*by number: try --match align"):
        match_chains([record(letters)], [record(letters, numbers=range(901, 931))], "number")
