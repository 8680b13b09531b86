"""Aligned error and TM-score predictions."""

from pipeline.folding.frames import Rigid
from pipeline.losses.pae import error_bin_centers, pae_loss, predicted_aligned_error, predicted_tm
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


@golden.cases("tm_pae")
def test_reference(case):
    logits = case.input("tm_logits")[None].requires_grad_()
    pred = Rigid.from_tensor_7(case.input("traj_last")[None])
    target = Rigid.from_tensor_4x4(case.input("backbone_rigid_tensor")[None])
    max_bin, bins = case.scalar("max_bin"), case.scalar("no_bins")
    assert logits.shape[-1] == bins
    loss = pae_loss(logits, pred, target, *case.batch("backbone_rigid_mask", "resolution"), max_bin=max_bin)
    case.check("tm_loss", loss[0], gap=1e-7)
    loss.sum().backward()
    if "grad_logits" in case:
        case.check("grad_logits", logits.grad[0], gap=1e-7)
    case.check("ptm", predicted_tm(logits, max_bin=max_bin)[0], gap=1e-7)
    case.check("predicted_aligned_error", predicted_aligned_error(logits, max_bin)[0], gap=2e-7)
    case.check("max_predicted_aligned_error", error_bin_centers(bins, max_bin, logits)[-1])
