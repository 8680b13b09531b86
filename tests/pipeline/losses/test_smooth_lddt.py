"""The differentiable lDDT-Calpha."""

import math

import pytest
import torch

from pipeline.losses.plddt import THRESHOLDS, lddt_ca
from pipeline.losses.smooth_lddt import smooth_lddt_loss


def points(*x: float) -> torch.Tensor:
    """Points on the x axis, [1, N, 3]."""
    values = torch.tensor(x, dtype=torch.float64)
    return torch.stack([values, torch.zeros_like(values), torch.zeros_like(values)], dim=-1)[None]


def kept(error: float) -> float:
    """What a pair with this error counts: the mean of four sigmoids."""
    return sum(1 / (1 + math.exp(error - t)) for t in THRESHOLDS) / 4


def test_worked_by_hand():
    """True distances 3, 4, 7 and to a fourth residue 20 and more; predicted 5, 4, 9: errors 2, 0, 2 of three pairs."""
    loss = smooth_lddt_loss(points(0, 5, 9, 500), points(0, 3, 7, 27), torch.ones(1, 4))
    assert loss.item() == pytest.approx(1 - (2 * kept(2) + kept(0)) / 3, abs=1e-6)


def test_a_perfect_prediction_loses_a_fifth_and_an_empty_sample_nothing():
    true = points(0, 3, 7)
    assert smooth_lddt_loss(true, true, torch.ones(1, 3)).item() == pytest.approx(1 - kept(0), abs=1e-6)
    assert 1 - kept(0) == pytest.approx(0.20, abs=5e-3)
    assert smooth_lddt_loss(true, true, torch.tensor([[1.0, 0.0, 0.0]])).item() == 0
    assert smooth_lddt_loss(points(0, 100), points(0, 50), torch.ones(1, 2)).item() == 0  # no pair within 15


def test_it_falls_as_lddt_rises_and_far_pairs_have_no_gradient():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(1, 30, 3, generator=generator, dtype=torch.float64) * 6
    noise, mask = torch.randn(true.shape, generator=generator, dtype=torch.float64), torch.ones(1, 30)
    worse = []
    for size in (0.1, 0.5, 1.0, 2.0):
        predicted = true + size * noise
        worse.append((smooth_lddt_loss(predicted, true, mask).item(), lddt_ca(predicted, true, mask).mean().item()))
    assert [loss for loss, _ in worse] == sorted(loss for loss, _ in worse)
    assert [score for _, score in worse] == sorted((score for _, score in worse), reverse=True)
    predicted = points(0, 3, 40).requires_grad_()
    smooth_lddt_loss(predicted, points(0, 5, 50), torch.ones(1, 3)).sum().backward()
    assert predicted.grad[0, 2].abs().sum() == 0 and predicted.grad[0, 0].abs().sum() > 0


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    true = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64) * 5
    predicted = (true + torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: smooth_lddt_loss(p, true, torch.ones(2, 6)), predicted)
