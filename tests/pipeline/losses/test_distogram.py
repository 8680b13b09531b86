"""Distogram loss."""

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
