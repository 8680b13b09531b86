"""Errors of the distances between alpha carbons."""

import pytest
import torch

from pipeline.losses.ca_distance import ca_distance_loss


def points(*x: float) -> torch.Tensor:
    """Points on the x axis, [1, N, 3]."""
    values = torch.tensor(x, dtype=torch.float64)
    return torch.stack([values, torch.zeros_like(values), torch.zeros_like(values)], dim=-1)[None]


def test_worked_by_hand():
    """True distances 3, 4, 7, predicted 5, 4, 9: errors 2, 0, 2, mean 4/3 angstrom, over 10."""
    loss = ca_distance_loss(points(0, 5, 9)[None], points(0, 3, 7), torch.ones(1, 3))
    assert loss.item() == pytest.approx(4 / 3 / 10, abs=1e-5)


def test_mean_over_iterations_and_masked_residues():
    true, mask = points(0, 3, 1000), torch.tensor([[1.0, 1.0, 0.0]])
    trajectory = torch.stack([points(0, 5, 9), points(0, 3, 9)])  # errors 2 and 0 of the one pair
    assert ca_distance_loss(trajectory, true, mask).item() == pytest.approx(0.1, abs=1e-5)


def test_neither_motion_nor_mirror_changes_it_and_each_sample_is_its_own():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64) * 8
    predicted = torch.randn(3, 2, 9, 3, generator=generator, dtype=torch.float64) * 8
    mask = torch.ones(2, 9, dtype=torch.float64)
    loss = ca_distance_loss(predicted, true, mask)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    assert torch.allclose(ca_distance_loss(predicted @ rotation * 1.0 + 5, true, mask), loss)
    assert torch.allclose(ca_distance_loss(predicted * torch.tensor([1.0, 1.0, -1.0]), true, mask), loss)
    assert torch.allclose(ca_distance_loss(predicted[:, :1], true[:1], mask[:1]), loss[:1])


def test_a_perfect_or_empty_sample_loses_nothing_and_has_a_finite_gradient():
    true = points(0, 3, 7)
    for mask in (torch.ones(1, 3), torch.tensor([[1.0, 0.0, 0.0]])):
        predicted = true[None].clone().requires_grad_()
        loss = ca_distance_loss(predicted, true, mask)
        loss.sum().backward()
        assert loss.item() == 0 and predicted.grad.isfinite().all()


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    true = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64) * 5
    predicted = (torch.randn(2, 1, 5, 3, generator=generator, dtype=torch.float64) * 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ca_distance_loss(p, true, torch.ones(1, 5)), predicted)
