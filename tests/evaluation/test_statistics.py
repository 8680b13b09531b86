import numpy as np
import pytest

from evaluation.statistics import crossed_interval, estimate


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(50)
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert estimate(values, seed=3) != estimate(values, seed=4)


def test_interval_is_that_of_the_mean():
    """For 400 draws the interval has half the width of 1.96 standard errors on each side, within a tenth."""
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    found = estimate(values)
    error = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    samples = [estimate(generator.beta(4, 2, 30), resamples=500) for _ in range(200)]
    assert 0.88 <= np.mean([one.low <= 4 / 6 <= one.high for one in samples]) <= 0.99


def test_blocks_of_draws_do_not_change_the_count(monkeypatch):
    from evaluation import statistics

    values = np.random.default_rng(3).random(30)
    monkeypatch.setattr(statistics, "_BLOCK", 100)
    assert len(statistics._bootstrap_means(values, 0, 1000)) == 1000


def test_few_values():
    none, one, equal = estimate([]), estimate([0.4]), estimate([0.4, 0.4])
    assert (none.n, none.mean, none.median, none.low, none.degenerate) == (0, None, None, None, False)
    assert (one.mean, one.median, one.low, one.high, one.degenerate) == (0.4, 0.4, None, None, False)
    assert (equal.low, equal.high, equal.degenerate) == (0.4, 0.4, True)


def test_undefined_values_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        estimate([0.5, float("nan")])


def test_a_crossed_interval_has_the_variance_of_seeds_and_of_targets():
    """Of a sum of an effect of 40 seeds and one of 50 targets: var / 40 + var / 50, within a tenth."""
    generator = np.random.default_rng(3)
    seeds, targets = generator.normal(0, 0.2, 40), generator.normal(0.5, 0.1, 50)
    values = seeds[:, None] + targets
    low, high = crossed_interval(values)
    error = 1.96 * np.sqrt(seeds.var() / 40 + targets.var() / 50)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)
    assert crossed_interval(values, seed=1) == crossed_interval(values, seed=1) != crossed_interval(values, seed=2)


def test_a_crossed_interval_is_that_of_drawing_rows_and_columns():
    """Against one draw after the other, with values that are missing; a target that no drawn seed has is left out."""
    values = np.random.default_rng(4).random((4, 6))
    values[0, 1] = values[2, 3] = values[3, 3] = values[1:, 5] = np.nan
    generator, means = np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = values[generator.integers(0, 4, 4)][:, generator.integers(0, 6, 6)]
        drawn = drawn[:, np.isfinite(drawn).any(axis=0)]
        if drawn.size:
            means.append(np.nanmean(drawn, axis=0).mean())
    assert crossed_interval(values) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.01)


def test_a_crossed_interval_of_equal_targets_is_that_of_the_seeds():
    """Of three seeds all are the lowest in one of 27 draws, more than 2.5%."""
    assert crossed_interval(np.array([[0.0] * 5, [0.3] * 5, [0.6] * 5])) == pytest.approx((0.0, 0.6))
