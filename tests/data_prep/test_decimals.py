"""Numbers cut from tables of bytes are those of ``float``, or they are none."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.structure.decimals import read_decimals, read_integers, read_left_aligned

PLAIN = re.compile(r" *[-+]?([0-9]+\.?[0-9]*|\.[0-9]+) *")
WHOLE = re.compile(r" *-?[0-9]+")
cells = st.text(" +-.0123456789eEnx_", min_size=8, max_size=8)


def table(*words: str) -> np.ndarray:
    return np.array([list(word.encode()) for word in words], dtype=np.uint8)


def expected(words: list[str]) -> list[float | None]:
    return [float(word) if PLAIN.fullmatch(word) else None for word in words]


def found(values: np.ndarray, stated: np.ndarray) -> list[float | None]:
    return [value if here else None for value, here in zip(values.tolist(), stated.tolist(), strict=True)]


@given(st.lists(cells, min_size=1, max_size=20))
@example(["  12.345", "-999.999", "   0.000", "  -0.000", "     nan", "     inf", "   1e5  ", "    1_0.", "  1.2.3 "])
@example(["********", "        ", "+  1.000", "-+ 1.000", "    .500", "   1.50 ", "12345678", "   -.125", " 1 2.000"])
def test_what_float_says_of_plain_numbers_and_nothing_else(words):
    assert found(*read_decimals(table(*words), 3, np.nan)) == expected(words)
    left = [word.strip().ljust(8) for word in words if " " not in word.strip()]
    if left:
        assert found(*read_left_aligned(table(*left), np.nan)) == expected(left)


@given(
    st.integers(2, 12).flatmap(
        lambda w: st.tuples(
            st.integers(1, 4),
            st.lists(
                st.text(" +-.0123456789", min_size=w, max_size=w)
                | st.from_regex(rf"[ ]*[-+]?[0-9]{{1,{w}}}\.[0-9]{{1,4}}", fullmatch=True).map(
                    lambda x: x[-w:].rjust(w)
                ),
                min_size=1,
                max_size=20,
            ),
        )
    )
)
@example((2, ["  1.00", "-99.99", "- 1.00", " -1.00", "1 2.00", "--1.00", "+10.00", "  -.00", "100.00", "1-2.00"]))
@example((3, ["123456.789", "-  456.789", "  -456.789", "12 456.789", "1234-6.789", " 1 3 6.789", "-12345.000"]))
def test_cells_of_any_width_and_any_number_of_places(drawn):
    places, words = drawn
    assert found(*read_decimals(table(*words), places, np.nan)) == expected(words)
    stacked, stated = read_decimals(np.stack([table(*words)] * 2, axis=1), places, np.nan)
    assert [found(stacked[:, i], stated[:, i]) for i in (0, 1)] == [expected(words)] * 2


def test_a_minus_sign_makes_a_negative_zero_as_it_does_for_float():
    values, _ = read_decimals(table("  -0.000", "   0.000"), 3, np.nan)
    assert np.signbit(values).tolist() == [True, False]


@given(st.lists(st.text(" +-.0123456789A", min_size=4, max_size=4), min_size=1, max_size=20))
@example(["   7", "-999", "+  1", " - 1", "    ", "A000", "1 2 "])
def test_whole_numbers(words):
    wanted = [int(word) if WHOLE.fullmatch(word) else None for word in words]
    assert found(*read_integers(table(*words))) == wanted


@pytest.mark.parametrize("read", [lambda t: read_decimals(t, 2, 1.5), lambda t: read_left_aligned(t, 1.5)])
def test_default_where_there_is_no_number(read):
    values, stated = read(table("1.00", "?   "))
    assert values.tolist() == [1.0, 1.5] and stated.tolist() == [True, False]


def test_every_value_of_a_coordinate_column_is_that_of_float():
    words = [f"{i / 1000:8.3f}" for i in range(-999_999, 9_999_999, 9_973)]
    values, stated = read_decimals(table(*words), 3, np.nan)
    assert stated.all() and values.tolist() == [float(word) for word in words]
