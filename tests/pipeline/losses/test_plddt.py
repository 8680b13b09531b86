"""lDDT-Calpha as a training target and its prediction."""

import torch

from data_prep.structure.residues import ATOM37_INDEX
from pipeline.losses.plddt import lddt_bins, lddt_ca, plddt_loss, predicted_plddt
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize
CA = ATOM37_INDEX["CA"]


@golden.cases("lddt")
def test_reference(case):
    logits = case.input("lddt_logits")[None].requires_grad_()
    pred, true, mask = (x[:, :, CA] for x in case.batch("all_atom_pred_pos", "all_atom_positions", "all_atom_mask"))
    cutoff, bins = case.scalar("cutoff"), case.scalar("no_bins")
    score = lddt_ca(pred, true, mask, cutoff)
    case.check("lddt_ca_per_residue", score[0], gap=8e-8)
    case.check("lddt_ca_global", lddt_ca(pred, true, mask, cutoff, per_residue=False)[0], gap=4e-8)
    case.check("lddt_bin_index", lddt_bins(score, bins)[0])
    case.check("plddt_0_100", predicted_plddt(logits)[0], gap=1e-7)
    loss = plddt_loss(logits, pred, true, mask, case.input("resolution")[None], cutoff=cutoff)
    case.check("loss", loss[0], gap=9e-8)
    case.check("loss", plddt_loss(logits, pred, true, mask, None, cutoff=cutoff)[0], gap=9e-8)
    poor = plddt_loss(logits, pred, true, mask, case.input("resolution_out_of_range")[None], cutoff=cutoff)
    case.check("loss_resolution_out_of_range", poor[0])
    loss.sum().backward()
    case.check("grad_logits", logits.grad[0], gap=6e-8)


@golden.cases("categorical_lddt")
def test_categorical_lddt(case):
    """ESMFold scores all 37 atoms and states the expectation between 0 and 1."""
    case.check("plddt_0_1", predicted_plddt(case.input("logits")) / 100, gap=2e-7)


def line(*x: float) -> torch.Tensor:
    """Points on the x axis, [1, N, 3]."""
    values = torch.tensor(x, dtype=torch.float64)
    return torch.stack((values, torch.zeros_like(values), torch.zeros_like(values)), dim=-1)[None]


def test_lddt_by_hand():
    """Three points at 0, 4, 8; the last predicted 1.5 too far: its distances are off by 1.5, which 2 and 4 forgive.

    Residues 0 and 1 keep one distance fully and one by half: 0.75. Residue 2 has two halves. A fourth point beyond
    15 angstrom of all is alone and scores 1 by definition; a masked fifth does not count.
    """
    true, pred = line(0, 4, 8, 50, 1), line(0, 4, 9.5, 80, 9)
    mask = torch.tensor([[1.0, 1, 1, 1, 0]])
    score = lddt_ca(pred, true, mask)
    torch.testing.assert_close(score[0, :4], torch.tensor([0.75, 0.75, 0.5, 1.0], dtype=torch.float64))
    whole = lddt_ca(pred, true, mask, per_residue=False)
    torch.testing.assert_close(whole, torch.tensor([4 / 6], dtype=torch.float64))


def test_bins_include_the_perfect_score():
    assert lddt_bins(torch.tensor([0.0, 0.019, 0.021, 0.999, 1.0])).tolist() == [0, 0, 1, 49, 49]


def test_certain_logits_give_the_centre_of_their_bin():
    logits = 1000 * torch.eye(50)
    torch.testing.assert_close(predicted_plddt(logits), torch.arange(1.0, 100.0, 2.0))
    assert predicted_plddt(logits.bfloat16()).dtype == torch.float32


def test_resolution_unknown_and_samples_alone():
    generator = torch.Generator().manual_seed(0)
    true = 10 * torch.rand(4, 9, 3, generator=generator)
    pred = true + torch.randn(4, 9, 3, generator=generator)
    logits = torch.randn(4, 9, 50, generator=generator, requires_grad=True)
    mask = torch.ones(4, 9)
    mask[1, 6:], mask[3] = 0, 0
    loss = plddt_loss(logits, pred, true, mask, torch.tensor([2.0, 3.0, torch.nan, 1.0]))
    everyone = plddt_loss(logits, pred, true, mask)
    torch.testing.assert_close(loss[:2], everyone[:2])
    torch.testing.assert_close(loss[1], plddt_loss(logits[1:2, :6], pred[1:2, :6], true[1:2, :6], mask[1:2, :6])[0])
    assert loss[2] == 0
    assert everyone[2] > 0
    assert everyone[3] == 0
    everyone.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[3].abs().max() == 0
