"""Metrics against worked examples and numpy."""

import numpy as np
import pytest

from pipeline.lm.glue import accuracy, matthews, pearson


def test_accuracy():
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_matthews_by_hand():
    """tp 2, tn 1, fp 1, fn 1: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2) = 1/6."""
    predicted, true = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    assert matthews(predicted, true) == pytest.approx(1 / 6)
    assert matthews(true, true) == 1.0
    assert matthews(1 - true, true) == -1.0
    assert matthews(np.ones(5, int), true) == 0.0


def test_matthews_is_the_correlation_of_two_indicators_and_does_not_overflow():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 200_000), rng.integers(0, 2, 200_000)
    assert matthews(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)


def test_pearson_is_numpys_and_0_for_a_constant():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=300).astype(np.float32), rng.normal(size=300)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-7)
    assert pearson(np.full(5, 2.5), np.arange(5.0)) == 0.0
