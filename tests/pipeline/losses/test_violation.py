"""Structural violations."""

from pipeline.losses.violation import extreme_ca_distances, structural_violations, violation_loss
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


@golden.cases("violation_pred", "violation_squeezed", "violation_native")
def test_reference(case):
    positions = case.input("atom14_positions")[None].requires_grad_()
    exists, aatype, residue_index = case.batch("atom14_atom_exists", "aatype", "residue_index")
    found = structural_violations(
        positions,
        exists,
        aatype,
        residue_index,
        case.scalar("violation_tolerance_factor"),
        case.scalar("clash_overlap_tolerance"),
    )
    bonds, clashes, within = found.connections, found.clashes, found.within
    for prefix in ("between_residues__bonds_c_n", "bond__c_n"):
        case.check(f"{prefix}_loss_mean", bonds.c_n_loss[0], gap=1e-7)
    for prefix in ("between_residues__angles_ca_c_n", "bond__ca_c_n"):
        case.check(f"{prefix}_loss_mean", bonds.ca_c_n_loss[0], gap=1e-7)
    for prefix in ("between_residues__angles_c_n_ca", "bond__c_n_ca"):
        case.check(f"{prefix}_loss_mean", bonds.c_n_ca_loss[0], gap=9e-8)
    for prefix in ("between_residues__connections", "bond_"):
        case.check(f"{prefix}_per_residue_loss_sum", bonds.per_residue_loss[0], gap=7e-8)
        case.check(f"{prefix}_per_residue_violation_mask", bonds.per_residue_violation[0])
    case.check("between_residues__clashes_mean_loss", clashes.mean_loss[0], gap=2e-7)
    case.check("between_residues__clashes_per_atom_loss_sum", clashes.per_atom_loss[0], gap=1e-7)
    case.check("between_residues__clashes_per_atom_clash_mask", clashes.per_atom_violation[0])
    case.check("between_residues__clashes_per_atom_num_clash", clashes.per_atom_count[0])
    case.check("within_residues__per_atom_loss_sum", within.per_atom_loss[0], gap=2e-7)
    case.check("within_residues__per_atom_violations", within.per_atom_violation[0])
    case.check("within_residues__per_atom_num_clash", within.per_atom_count[0])
    case.check("total_per_residue_violations_mask", found.per_residue_violation[0])
    case.check("violation_loss_average_clashes", violation_loss(found, average_clashes=True)[0], gap=1e-7)
    case.check("extreme_ca_ca", extreme_ca_distances(positions, exists, residue_index)[0], gap=8e-8)
    loss = violation_loss(found)
    case.check("violation_loss", loss[0], gap=1e-7)
    loss.sum().backward()
    case.check("grad_positions", positions.grad[0], gap=1e-7)
