import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.statistics import calibrate


def test_by_hand():
    """pLDDT 80, 80 in one bin: mean 0.80 against lDDT 0.70; 45 alone in another: 0.45 against 0.60. Weighted by 2 and
    1 of 3: (2 * 0.10 + 0.15) / 3."""
    found = calibrate([80, 80, 45], [0.6, 0.8, 0.6])
    assert found.ece == pytest.approx((2 * 0.1 + 0.15) / 3)
    assert [(one.low, one.high, one.n) for one in found.bins] == [(40, 50, 1), (80, 90, 2)]
    assert found.bins[1].mean_lddt == pytest.approx(0.7)
    assert found.pearson == pytest.approx(np.corrcoef([80, 80, 45], [0.6, 0.8, 0.6])[0, 1])


def test_ranks_of_equal_values_are_shared():
    """Ranks 1, 2.5, 2.5, 4 against 1.5, 1.5, 3, 4: covariance 3.75, sums of squares 4.5 and 4.5."""
    found = calibrate([10, 20, 20, 30], [0.1, 0.1, 0.2, 0.9])
    assert found.spearman == pytest.approx(3.75 / 4.5)


def test_any_rising_curve_has_rank_correlation_one():
    plddt = np.linspace(5, 95, 40)
    found = calibrate(plddt, (plddt / 100) ** 3)
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson < 0.99


def test_what_is_undefined_is_none():
    assert (calibrate([], []).pearson, calibrate([], []).ece, calibrate([], []).bins) == (None, None, ())
    assert calibrate([50.0], [0.5]).pearson is None and calibrate([50.0], [0.5]).ece == 0
    assert calibrate([50, 60], [0.5, 0.5]).spearman is None
    with pytest.raises(ValueError, match="two finite arrays"):
        calibrate([50, np.nan], [0.5, 0.5])
    with pytest.raises(ValueError, match="two finite arrays"):
        calibrate([50, 60], [0.5])


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=50).map(
        lambda pairs: np.array(pairs).T
    )
)
def test_numbers_stay_within_their_ranges(values):
    found = calibrate(*values)
    assert 0 <= found.ece <= 1
    assert sum(one.n for one in found.bins) == found.n
    assert all(value is None or -1 <= value <= 1 for value in (found.pearson, found.spearman))
