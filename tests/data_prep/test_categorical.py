import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.structure import categorical
from data_prep.structure.categorical import Categorical, joint_codes

texts = st.integers(1, 12).flatmap(
    lambda w: st.lists(st.text(" ABC1", min_size=w, max_size=w), min_size=1, max_size=20)
)


@given(texts)
def test_cells_of_any_width_keep_their_words(lines):
    cells = np.array([list(word.encode()) for word in lines], dtype=np.uint8)
    read = Categorical.of_cells(cells)
    assert read.list() == [word.strip() for word in lines]
    assert len(set(read.values)) == len(read.values), "equal words have equal codes"


@pytest.mark.parametrize("width", [4, 8])
def test_words_that_share_their_hash_are_told_apart(monkeypatch, width):
    wanted = [f"{i % 90:{width}d}" for i in range(500)]
    cells = np.array([list(word.encode()) for word in wanted], dtype=np.uint8)
    monkeypatch.setattr(categorical, "_HASH_BITS", 3)  # eight places for ninety words
    read = Categorical.of_cells(cells)
    assert read.list() == [word.strip() for word in wanted] and len(read.values) == 90


def test_changed_words_that_become_equal_share_their_code():
    read = Categorical.of(["?", "A", ".", "B"]).map(lambda word: "" if word in "?." else word)
    assert read.list() == ["", "A", "", "B"] and read.code[0] == read.code[2]
    assert read.take(np.array([3, 1])).list() == ["B", "A"] and read[3] == "B"
    assert read.lookup(len, np.int64).tolist() == [0, 1, 0, 1]
    assert Categorical.of_cells(np.zeros((0, 4), dtype=np.uint8)).list() == []


@given(st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 1)] * 4), min_size=1, max_size=30))
def test_joint_codes_are_equal_where_all_columns_are(rows):
    codes = joint_codes(*np.array(rows, dtype=np.int64).T).tolist()
    assert [[a == b for b in codes] for a in codes] == [[a == b for b in rows] for a in rows]
