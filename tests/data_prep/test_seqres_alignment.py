"""The dynamic programme against exhaustive search on small cases, and on cases worked by hand."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.structure import seqres as sa


def codes(letters: str) -> np.ndarray:
    return np.frombuffer(letters.encode(), dtype=np.uint8)


def align(seqres: str, observed: str, numbers: list[int]) -> list[int]:
    steps = np.array([1, *np.maximum(np.diff(numbers), 1)], dtype=np.int64)
    return sa.align_to_seqres(codes(seqres), seqres, codes(observed), observed, steps, numbers[0]).tolist()


def test_by_hand():
    assert align("GAST", "GAST", [1, 2, 3, 4]) == [0, 1, 2, 3]
    assert align("MMGAST", "GAST", [10, 11, 12, 13]) == [2, 3, 4, 5]
    assert align("GAAAAS", "GAS", [1, 4, 6]) == [0, 3, 5]
    assert align("GAST", "GWAST", [1, 2, 3, 4, 5])[1] == -1, "W has no place"
    assert align("AAAAA", "AA", [3, 4]) == [2, 3], "numbers break the tie"
    assert align("GAST", "AST", [100, 900, 901]) == [1, 2, 3], "a jump in the numbers only"


def score(seqres: str, observed: str, steps: np.ndarray, first_number: int, places: list[int]) -> float:
    """The definition: matches, steps, residues without a place."""
    total, previous = 0.0, None
    for j, place in enumerate(places):
        if place < 0:
            total += sa.NOT_IN_SEQRES
            continue
        x, y = observed[j], seqres[place]
        total += sa.MATCH if x == y else 0.0 if "X" in (x, y) else sa.MISMATCH
        if previous is None:
            total += 0.5 if j == 0 and place == first_number - 1 else 0.0
        else:
            step = max(int(steps[j]), 1)
            options = [sa.JUMP]
            options += [0.0] if place - previous == step else []
            options += [sa.MISNUMBERED_NEIGHBOUR] if place - previous == 1 else []
            total += max(options)
        previous = place
    return total


@settings(max_examples=150, deadline=None)
@given(st.text("GAX", min_size=1, max_size=7), st.text("GAX", min_size=1, max_size=4), st.data())
def test_no_placement_scores_better(seqres, observed, data):
    n, m = len(observed), len(seqres)
    steps = np.array(data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)), dtype=np.int64)
    first = data.draw(st.integers(-1, 5))
    found = sa.align_to_seqres(codes(seqres), seqres, codes(observed), observed, steps, first).tolist()
    placed = [place for place in found if place >= 0]
    assert placed == sorted(set(placed)) and len(found) == n
    best = max(
        score(seqres, observed, steps, first, [dict(zip(rows, places, strict=True)).get(j, -1) for j in range(n)])
        for k in range(1, min(n, m) + 1)
        for rows in combinations(range(n), k)
        for places in combinations(range(m), k)
    )
    assert score(seqres, observed, steps, first, found) >= best - 1e-6
