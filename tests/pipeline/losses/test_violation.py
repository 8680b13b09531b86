"""Structural violations."""

import torch

from data_prep.structure import bond_geometry
from data_prep.structure.residues import ATOM37_VDW_RADIUS, RESNAMES, RESTYPE_ATOM14_MASK, RESTYPE_ATOM14_TO_ATOM37
from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import frames_to_atom14, torsions_to_frames
from pipeline.losses import violation
from pipeline.losses.violation import bond_loss, structural_violations, violation_loss
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
    loss = violation_loss(found)
    case.check("violation_loss", loss[0], gap=1e-7)
    loss.sum().backward()
    case.check("grad_positions", positions.grad[0], gap=1e-7)


def crowd(batch: int = 2, n: int = 20, seed: int = 0):
    """Residues thrown into a box far too small for them, with a gap in the numbering."""
    generator = torch.Generator().manual_seed(seed)
    aatype = torch.randint(0, 20, (batch, n), generator=generator)
    aatype[:, ::5] = RESNAMES.index("CYS")
    exists = torch.from_numpy(RESTYPE_ATOM14_MASK)[aatype].double()
    positions = 8 * torch.rand(batch, n, 14, 3, generator=generator, dtype=torch.float64)
    residue_index = torch.arange(n).repeat(batch, 1)
    residue_index[:, n // 2 :] += 3
    return positions, exists, aatype, residue_index


def test_clashes_equal_the_formula_over_all_pairs(monkeypatch):
    """OpenFold's [N, N, 14, 14] formula, against the search, in blocks that do not divide the number of atoms."""
    monkeypatch.setattr(violation, "_SEARCH_PAIRS", 1000)
    positions, exists, aatype, residue_index = crowd()
    found = violation.clash_violations(positions.requires_grad_(), exists, aatype, residue_index)
    radius = torch.tensor(ATOM37_VDW_RADIUS)[torch.from_numpy(RESTYPE_ATOM14_TO_ATOM37)[aatype]] * exists
    distance = ((positions[:, :, None, :, None] - positions[:, None, :, None]).square().sum(-1) + 1e-10).sqrt()
    first, second = residue_index[:, :, None, None, None], residue_index[:, None, :, None, None]
    pairs = exists[:, :, None, :, None] * exists[:, None, :, None, :] * (first < second)
    slot = torch.arange(14)
    peptide = (first + 1 == second) & (slot[:, None] == 2) & (slot == 0)
    pairs = pairs * ~peptide * ~((slot[:, None] == 5) & (slot == 5))
    overlap = pairs * (radius[:, :, None, :, None] + radius[:, None, :, None, :] - 1.5 - distance).relu()
    per_atom = overlap.sum((2, 4)) + overlap.sum((1, 3))
    assert (per_atom > 0).sum() > 50
    torch.testing.assert_close(found.per_atom_loss, per_atom)
    torch.testing.assert_close(found.mean_loss, overlap.sum((1, 2, 3, 4)) / (1e-6 + pairs.sum((1, 2, 3, 4))))
    clashes = (overlap > 0).double()
    assert torch.equal(found.per_atom_count, clashes.sum((2, 4)) + clashes.sum((1, 3)))
    gradients = [torch.autograd.grad(x.square().sum(), positions)[0] for x in (found.per_atom_loss, per_atom)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_each_sample_is_scored_alone_and_an_empty_one_is_zero():
    positions, exists, aatype, residue_index = crowd(batch=3)
    exists[1, 15:], exists[2] = 0, 0
    positions.requires_grad_()
    loss = violation_loss(structural_violations(positions, exists, aatype, residue_index))
    alone = violation_loss(
        structural_violations(positions[1:2, :15], exists[1:2, :15], aatype[1:2, :15], residue_index[1:2, :15])
    )
    torch.testing.assert_close(loss[1], alone[0])
    assert loss[1] > 1
    assert loss[2] == 0
    loss.sum().backward()
    assert positions.grad.isfinite().all()
    assert positions.grad[2].abs().max() == 0


def test_peptide_bond_by_hand():
    """C-N of 2 angstrom in a straight chain: 2 - 1.329 - 12 x 0.014 over; no bond where the numbering jumps."""
    positions = torch.zeros(1, 2, 14, 3, dtype=torch.float64)
    positions[0, :, :3, 0] = torch.tensor([[-3.0, -1.5, 0.0], [2.0, 3.5, 5.0]])  # N, CA, C along x
    exists = torch.zeros(1, 2, 14)
    exists[:, :, :3] = 1
    glycine = torch.full((1, 2), RESNAMES.index("GLY"))
    bond = violation.connection_violations(positions, exists, glycine, torch.tensor([[4, 5]]))
    torch.testing.assert_close(bond.c_n_loss, torch.tensor([0.503], dtype=torch.float64), rtol=1e-5, atol=0)
    # Both angles are 180 degrees, cosine -1. Allowed for CA-C-N: -0.4473 - 12 x 0.014, see the module's docstring.
    torch.testing.assert_close(
        bond.ca_c_n_loss, torch.tensor([1 - 0.4473 - 0.168], dtype=torch.float64), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        bond.c_n_ca_loss, torch.tensor([1 - 0.5203 - 0.4236], dtype=torch.float64), rtol=1e-4, atol=0
    )
    proline = torch.full((1, 2), RESNAMES.index("PRO"))
    bond = violation.connection_violations(positions, exists, proline, torch.tensor([[4, 5]]))
    torch.testing.assert_close(bond.c_n_loss, torch.tensor([2 - 1.341 - 0.192], dtype=torch.float64), rtol=1e-5, atol=0)
    gap = violation.connection_violations(positions, exists, glycine, torch.tensor([[4, 6]]))
    assert gap.c_n_loss == gap.ca_c_n_loss == gap.c_n_ca_loss == 0
    assert gap.per_residue_violation.max() == 0


def test_bond_loss_has_no_tolerance():
    """The bond of the test above: 2 - 1.329, and both cosines -1; one within violation's tolerance still counts."""
    positions = torch.zeros(1, 2, 14, 3, dtype=torch.float64)
    positions[0, :, :3, 0] = torch.tensor([[-3.0, -1.5, 0.0], [2.0, 3.5, 5.0]])
    exists = torch.zeros(1, 2, 14)
    exists[:, :, :3] = 1
    glycine = torch.full((1, 2), RESNAMES.index("GLY"))
    loss = bond_loss(positions, exists, glycine, torch.tensor([[4, 5]]))
    assert abs(loss.item() - (2 - 1.329 + 1 - 0.4473 + 1 - 0.5203)) < 1e-4
    assert bond_loss(positions, exists, glycine, torch.tensor([[4, 6]])).item() == 0
    near = positions.clone()
    near[0, 1, :3, 0] -= 0.571  # C-N of 1.429: 0.1 over
    assert violation.connection_violations(near, exists, glycine, torch.tensor([[4, 5]])).c_n_loss.item() == 0
    assert abs(loss.item() - bond_loss(near, exists, glycine, torch.tensor([[4, 5]])).item() - 0.571) < 1e-4


def test_ideal_residues_are_within_their_bounds():
    """The idealised side chains of rigid_groups and the bond table agree with each other, at every torsion."""
    generator = torch.Generator().manual_seed(0)
    aatype = torch.arange(20).repeat(20, 1)
    torsions = torch.randn(20, 20, 7, 2, generator=generator, dtype=torch.float64)
    torsions = torsions / torsions.norm(dim=-1, keepdim=True)
    pucker = torch.deg2rad(torch.tensor([0.0, 0, 0, 30, -38, 0, 0], dtype=torch.float64))  # a ring is not free to turn
    torsions[:, RESNAMES.index("PRO")] = torch.stack((pucker.sin(), pucker.cos()), dim=-1)
    backbone = Rigid.identity((20, 20), dtype=torch.float64)
    atoms = frames_to_atom14(aatype, torsions_to_frames(aatype, backbone, torsions))
    exists = torch.from_numpy(RESTYPE_ATOM14_MASK)[aatype]
    distance = (atoms[:, :, :, None] - atoms[:, :, None]).norm(dim=-1)
    lower, upper = (torch.from_numpy(x)[aatype] for x in bond_geometry.atom14_distance_bounds())
    bonded = upper < 1e9  # by one or two bonds
    wrong = bonded & exists[..., None] & exists[:, :, None] & ((distance < lower) | (distance > upper))
    assert not wrong.any()
