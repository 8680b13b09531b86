import random

import pytest
from Bio.Align import substitution_matrices
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dataset.clusters import MIN_SCORE, Similarity, clusters, similarities
from data_prep.structure import alignment
from data_prep.structure.alignment import identity, reaching

LETTERS = "ARNDCQEGHILKMFPSTWYV"


def random_sequence(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS, k=length))


def mutated(sequence: str, n: int, seed: int = 0) -> str:
    """Exactly n substitutions."""
    rng = random.Random(seed)
    letters = list(sequence)
    for i in rng.sample(range(len(letters)), n):
        letters[i] = rng.choice([letter for letter in LETTERS if letter != letters[i]])
    return "".join(letters)


def test_identity_by_hand():
    a = "MKTAYIAKQRQISFVKSHFSRQ"
    assert identity(a, a) == 1.0
    assert identity(a, a[:10]) == 1.0, "of the shorter chain"
    assert identity(a, a[:10] + "W" + a[11:]) == pytest.approx(21 / 22)
    assert identity(a, a[:10] + a[13:]) == 1.0, "a gap is no mismatch of the shorter chain"
    assert identity("XXXXXXXXXX", "XXXXXXXXXX") == 0.0


def test_similarities_find_what_was_made_similar():
    """Two families of three and one loner; substitutions known, so identities are at least 1 - n / length."""
    a, b = random_sequence(120, 1), random_sequence(150, 2)
    sequences = [a, mutated(a, 30), b, mutated(a, 60, 1), mutated(b, 15), random_sequence(100, 3)]
    found = {(pair.i, pair.j): pair.identity for pair in similarities(sequences)}
    assert found[0, 1] == pytest.approx(0.75, abs=0.02) and found[2, 4] == pytest.approx(0.9, abs=0.02)
    assert clusters(6, similarities(sequences), 0.4).tolist() == [0, 0, 1, 0, 1, 2]
    assert clusters(6, similarities(sequences), 0.85).tolist() == [0, 1, 2, 3, 2, 4]


def best_alignment(a: str, b: str) -> tuple[int, int]:
    """Score of the best local alignment and the most identical pairs of one that has it: Gotoh's recurrences as
    written, on pairs (score, identical) that compare by score first.
    """
    table = substitution_matrices.load("BLOSUM62")
    never = (-(10**6), 0)
    best, above, below = (0, 0), [(0, 0)] * (len(b) + 1), [never] * (len(b) + 1)
    for x in a:
        diagonal, left, row = above[0], never, [(0, 0)]
        for j, y in enumerate(b, start=1):
            below[j] = max((above[j][0] - 12, above[j][1]), (below[j][0] - 1, below[j][1]))
            left = max((row[j - 1][0] - 12, row[j - 1][1]), (left[0] - 1, left[1]))
            match = (diagonal[0] + int(table[x, y]), diagonal[1] + (x == y != "X"))
            diagonal = above[j]
            row.append(max((0, 0), match, below[j], left))
            best = max(best, row[-1])
        above = row
    return best


def test_identity_is_the_highest_of_all_optimal_alignments():
    rng = random.Random(0)
    for _ in range(150):
        a, b = ("".join(rng.choices("ILVMKERX", k=rng.randint(8, 40))) for _ in range(2))
        score, identical = best_alignment(a, b)
        assert identity(a, b) == identical / min(len(a), len(b)), (a, b)
        assert reaching(a, [b], score) == [0] and reaching(a, [b], score + 1) == []


@pytest.mark.skipif(alignment.parasail is None, reason="needs parasail, the other way to the scores")
def test_both_ways_to_the_scores_agree(monkeypatch):
    """Every pair of letters, then relatives at every distance from a protein, at thresholds around their scores."""
    every = LETTERS + "X"
    base = random_sequence(80, 7)
    relatives = [mutated(base, n, n)[n % 9 :] for n in range(0, 80, 4)]
    relatives += ["X" * 30, base[:30] + base[45:], base[:40] + "GGG" + base[40:], base * 38, base[::-1]]
    letters = [a + b for a in every for b in every]

    def found() -> list:
        return [
            [reaching(a, relatives, least) for a in relatives[:4] for least in (1, 40, 41, 200)],
            [reaching(a, letters, least) for a in every for least in (1, 2, 5, 10)],
            [identity(a, b) for a in relatives[:4] + relatives[-5:] for b in relatives],
            [identity(a, b) for a in every for b in letters],
        ]

    fast = found()
    monkeypatch.setattr(alignment, "parasail", None)
    assert fast == found()


def test_unrelated_sequences_are_not_linked():
    sequences = [random_sequence(100 + 10 * i, i) for i in range(30)]
    assert clusters(30, similarities(sequences), 0.3).tolist() == list(range(30))


def test_processes_do_not_change_the_result():
    base = random_sequence(60, 0)
    sequences = [mutated(base, n, n) for n in range(40)]
    assert similarities(sequences, jobs=2) == similarities(sequences, jobs=1)


def test_progress_counts_every_pair():
    seen = []
    similarities([random_sequence(30, i) for i in range(20)], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (190, 190)


pairs_of_10 = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1]), max_size=30
)


@settings(max_examples=200, deadline=None)
@given(pairs_of_10, st.floats(0.01, 1))
def test_no_link_crosses_clusters_and_clusters_are_connected(raw, level):
    pairs = [Similarity(*pair) for pair in raw]
    labels = clusters(10, pairs, level).tolist()
    links = [pair for pair in pairs if pair.identity >= level]
    assert all(labels[pair.i] == labels[pair.j] for pair in links)
    reached = {i: {i} for i in range(10)}
    for _ in range(10):
        for pair in links:
            reached[pair.i] |= reached[pair.j]
            reached[pair.j] |= reached[pair.i]
    assert all((labels[i] == labels[j]) == (j in reached[i]) for i in range(10) for j in range(10))


def test_short_chance_matches_do_not_count():
    # 5 identical residues of a 10-residue peptide: half of it, but a score below the threshold.
    peptide, protein = "GAVLIKKDEN", random_sequence(100, 5) + "GAVLI" + random_sequence(100, 6)
    assert identity(peptide, protein) >= 0.4
    assert similarities([peptide, protein]) == []
    assert MIN_SCORE == 40
