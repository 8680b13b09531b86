"""Distogram loss."""

import math

import torch

from pipeline.losses.distogram import distance_bins, distogram_loss
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


@golden.cases("distogram")
def test_reference(case):
    logits = case.input("distogram_logits")[None].requires_grad_()
    beta, mask = case.batch("pseudo_beta", "pseudo_beta_mask")
    edges = case.scalar("min_bin"), case.scalar("max_bin")
    case.check("true_bins", distance_bins(beta, *edges, case.scalar("no_bins"))[0])
    loss = distogram_loss(logits, beta, mask, *edges)
    case.check("loss", loss[0], gap=1e-7)
    loss.sum().backward()
    if "grad_logits" in case:
        case.check("grad_logits", logits.grad[0], gap=1e-7)


def test_bins_by_hand():
    """63 edges 0.3125 angstrom apart from 2.3125; a distance on an edge belongs to the bin below it."""
    x = torch.tensor([0.0, 2.0, 2.3125, 2.3126, 21.6, 30.0], dtype=torch.float64)
    positions = torch.stack((x, torch.zeros_like(x), torch.zeros_like(x)), dim=-1)
    assert distance_bins(positions)[0].tolist() == [0, 0, 0, 1, 62, 63]


def test_uniform_logits_cost_ln_64_whatever_the_mask():
    generator = torch.Generator().manual_seed(0)
    beta = 20 * torch.rand(3, 8, 3, generator=generator)
    mask = torch.ones(3, 8)
    mask[1, 5:], mask[2] = 0, 0
    logits = torch.zeros(3, 8, 8, 64, requires_grad=True)
    loss = distogram_loss(logits, beta, mask)
    torch.testing.assert_close(loss, torch.tensor([math.log(64), math.log(64), 0.0]))
    loss.sum().backward()
    assert logits.grad[1, 5:].abs().max() == 0
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[1, :5, :5].abs().min() > 0


def test_sample_alone_equals_sample_in_a_batch():
    generator = torch.Generator().manual_seed(0)
    logits, beta = torch.randn(2, 8, 8, 64, generator=generator), 20 * torch.rand(2, 8, 3, generator=generator)
    mask = torch.ones(2, 8)
    mask[1, 5:] = 0
    alone = distogram_loss(logits[1:, :5, :5], beta[1:, :5], mask[1:, :5])
    torch.testing.assert_close(distogram_loss(logits, beta, mask)[1:], alone)


def test_half_precision_logits_are_widened():
    logits = torch.randn(1, 8, 8, 64).bfloat16()
    beta, mask = 20 * torch.rand(1, 8, 3), torch.ones(1, 8)
    loss = distogram_loss(logits, beta, mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distogram_loss(logits.float(), beta, mask))
