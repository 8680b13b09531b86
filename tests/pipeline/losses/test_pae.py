"""Aligned error and TM-score predictions."""

import numpy as np
import pytest
import torch

from pipeline.folding.frames import Rigid
from pipeline.losses.pae import aligned_errors, pae_loss
from pipeline.prediction.checks import MAX_ERROR, AlignedError, read_aligned_error
from tests.pipeline import golden
from tests.pipeline.rigid_forms import from_tensor_7

pytest_generate_tests = golden.parametrize


@golden.cases("tm_pae")
def test_reference(case):
    logits = case.input("tm_logits")[None].requires_grad_()
    pred = from_tensor_7(case.input("traj_last")[None])
    target = Rigid.from_tensor_4x4(case.input("backbone_rigid_tensor")[None])
    max_bin, bins = case.scalar("max_bin"), case.scalar("no_bins")
    assert logits.shape[-1] == bins and max_bin == MAX_ERROR
    loss = pae_loss(logits, pred, target, *case.batch("backbone_rigid_mask", "resolution"), max_bin=max_bin)
    case.check("tm_loss", loss[0], gap=1e-7)
    loss.sum().backward()
    if "grad_logits" in case:
        case.check("grad_logits", logits.grad[0], gap=1e-7)
    read = of_one_chain(logits.detach()[0])
    case.check("ptm", torch.tensor(read.ptm, dtype=logits.dtype), gap=1e-7)
    case.check("predicted_aligned_error", torch.from_numpy(read.pae), gap=2e-7)
    case.check("max_predicted_aligned_error", torch.tensor(read.largest, dtype=logits.dtype))


def of_one_chain(logits: torch.Tensor) -> AlignedError:
    return read_aligned_error(logits, np.zeros(len(logits), dtype=int))


def frames(*x: float) -> Rigid:
    """Unrotated frames on the x axis, [1, N]."""
    values = torch.tensor(x, dtype=torch.float64)
    identity = Rigid.identity((1, len(x)), dtype=torch.float64)
    return Rigid(identity.rot, torch.stack((values, 0 * values, 0 * values), dim=-1)[None])


def test_aligned_error_by_hand():
    """The second of two residues predicted 3 angstrom too far: each sees the other 3 off, itself never."""
    assert aligned_errors(frames(0, 7), frames(0, 4))[0].tolist() == [[0, 9], [9, 0]]


def test_certain_logits():
    """All mass in bin 10 means an error of 5.25 angstrom everywhere, and the TM term of that error."""
    logits = torch.zeros(40, 40, 64)
    logits[..., 10] = 1000
    read = of_one_chain(logits)
    assert read.pae == pytest.approx(np.full((40, 40), 5.25))
    d0 = 1.24 * 25 ** (1 / 3) - 1.8
    assert read.ptm == pytest.approx(1 / (1 + (5.25 / d0) ** 2))


def test_loss_of_samples_alone_and_of_an_empty_one():
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(2, 3, 8, 7, generator=generator)
    tensor[..., :4] /= tensor[..., :4].norm(dim=-1, keepdim=True)
    pred, target = from_tensor_7(tensor * torch.tensor([1, 1, 1, 1, 9, 9, 9]))
    logits = torch.randn(3, 8, 8, 64, generator=generator, requires_grad=True)
    mask = torch.ones(3, 8)
    mask[1, 5:], mask[2] = 0, 0
    loss = pae_loss(logits, pred, target, mask)
    alone = pae_loss(logits[1:2, :5, :5], pred[1:2, :5], target[1:2, :5], mask[1:2, :5])
    torch.testing.assert_close(loss[1], alone[0])
    assert loss[2] == 0
    assert pae_loss(logits, pred, target, mask, torch.tensor([3.5, 2.0, 2.0]))[0] == 0
    loss.sum().backward()
    assert logits.grad.isfinite().all()
