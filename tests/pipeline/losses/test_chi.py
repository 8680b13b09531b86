"""Side-chain torsion losses."""

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
