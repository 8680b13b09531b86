"""The moving average, and that the trained weights come back."""

import pytest
import torch
from torch import nn

from pipeline.training.step import ExponentialMovingAverage


def test_average_and_exchange():
    """Decay 0.5, warm-up (1 + t) / (10 + t): 2/11 after step 1, 3/12 after step 2.

    shadow 0 -> 0 + 9/11 * 1 = 9/11 -> 9/11 + 3/4 * (2 - 9/11) = 75/44.
    """
    parameter = nn.Parameter(torch.zeros(3))
    ema = ExponentialMovingAverage({"w": parameter}, decay=0.5)
    for step, value in ((1, 1.0), (2, 2.0)):
        parameter.data.fill_(value)
        ema.update(step)
    assert ema.shadow["w"].tolist() == pytest.approx([75 / 44] * 3)
    with ema.applied():
        assert parameter.tolist() == pytest.approx([75 / 44] * 3)
    assert parameter.tolist() == [2.0] * 3
    assert ema.shadow["w"].tolist() == pytest.approx([75 / 44] * 3)


def test_without_warm_up_the_decay_is_the_same_from_the_first_step():
    """As OpenFold: 0.1 of 1, then 0.9 * 0.1 + 0.1 * 2 = 0.29."""
    parameter = nn.Parameter(torch.zeros(3))
    ema = ExponentialMovingAverage({"w": parameter}, decay=0.9, warmup=False)
    for step, value in ((1, 1.0), (2, 2.0)):
        parameter.data.fill_(value)
        ema.update(step)
    assert ema.shadow["w"].tolist() == pytest.approx([0.29] * 3)


def test_the_weights_come_back_after_an_error():
    parameter = nn.Parameter(torch.ones(1))
    ema = ExponentialMovingAverage({"w": parameter}, decay=0.9)
    ema.shadow["w"].fill_(5.0)
    with pytest.raises(ZeroDivisionError), ema.applied():
        _ = 1 / 0
    assert parameter.item() == 1.0
