"""Side-chain torsion losses."""

import pytest
import torch

from data_prep.structure.residues import CHI_MASK, RESTYPES
from pipeline.losses.chi import supervised_chi
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


@golden.cases("supervised_chi")
def test_reference(case):
    angles = case.input("angles")[:, None].requires_grad_()  # [8, 1, N, 7, 2]
    unnormalized = case.input("unnormalized_angles")[:, None].requires_grad_()
    loss = supervised_chi(
        angles,
        unnormalized,
        *case.batch("aatype", "chi_angles_sin_cos", "chi_mask", "seq_mask"),
        chi_weight=case.scalar("chi_weight"),
        norm_weight=case.scalar("angle_norm_weight"),
    )
    case.check("loss", loss.total[0], gap=8e-8)
    case.check("sq_chi_loss", loss.chi[0], gap=6e-8)
    case.check("angle_norm_loss", loss.norm[0], gap=1e-7)
    loss.total.sum().backward()
    case.check("grad_angles", angles.grad[:, 0], gap=1e-7)
    case.check("grad_unnormalized_angles", unnormalized.grad[:, 0], gap=2e-7)


def one_residue(letter: str, pred_degrees: list[float], true_degrees: list[float]) -> tuple[torch.Tensor, ...]:
    """Arguments of the loss for one residue, one layer, unit vectors; chis only."""

    def unit(degrees: list[float]) -> torch.Tensor:
        radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack((radians.sin(), radians.cos()), dim=-1)

    angles = unit([0.0] * 3 + pred_degrees)[None, None, None]  # [1, 1, 1, 7, 2]
    aatype = torch.tensor([[RESTYPES.index(letter)]])
    chi_mask = torch.from_numpy(CHI_MASK)[aatype]
    return angles, angles, aatype, unit(true_degrees)[None, None], chi_mask, torch.ones(1, 1)


def test_one_chi_by_hand():
    """Serine, 60 degrees off: the chord is 1, its square 1. The other chis of serine do not exist."""
    loss = supervised_chi(*one_residue("S", [90, 10, 20, 30], [30, 80, 90, 100]))
    torch.testing.assert_close(loss.chi, torch.ones(1, dtype=torch.float64), rtol=2e-4, atol=0)  # eps of the mean
    torch.testing.assert_close(loss.norm, torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("letter", "periodic"), [("F", True), ("D", True), ("H", False), ("L", False)])
def test_half_turn_of_chi2_counts_unless_the_side_chain_is_symmetric(letter, periodic):
    """Two chis, one right and one opposite: (0 + 4) / 2 for the asymmetric ones."""
    loss = supervised_chi(*one_residue(letter, [50, 210, 0, 0], [50, 30, 0, 0]))
    expected = torch.tensor([0.0 if periodic else 2.0], dtype=torch.float64)
    torch.testing.assert_close(loss.chi, expected, rtol=1e-4, atol=1e-12)


def test_each_sample_is_scored_alone_and_an_empty_one_is_zero():
    generator = torch.Generator().manual_seed(0)
    angles = torch.randn(2, 3, 10, 7, 2, generator=generator, dtype=torch.float64).requires_grad_()
    aatype = torch.randint(0, 20, (3, 10), generator=generator)
    true = torch.randn(3, 10, 4, 2, generator=generator, dtype=torch.float64)
    residue_mask = torch.ones(3, 10)
    residue_mask[1, 6:], residue_mask[2] = 0, 0
    chi_mask = torch.from_numpy(CHI_MASK)[aatype] * residue_mask[..., None]
    loss = supervised_chi(angles, angles, aatype, true, chi_mask, residue_mask)
    alone = supervised_chi(
        angles[:, 1:2, :6], angles[:, 1:2, :6], aatype[1:2, :6], true[1:2, :6], chi_mask[1:2, :6], residue_mask[1:2, :6]
    )
    torch.testing.assert_close(loss.total[1], alone.total[0])
    assert loss.total[2] == 0
    loss.total.sum().backward()
    assert angles.grad.isfinite().all()
    assert angles.grad[:, 2].abs().max() == 0
