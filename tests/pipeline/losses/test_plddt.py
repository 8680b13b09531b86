"""lDDT-Calpha as a training target and its prediction."""

from data_prep.residues import ATOM37_INDEX
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
