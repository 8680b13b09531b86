"""Atoms to torsions and rigid groups and back, against the reference cases and against each other."""

import torch

from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import (
    atom14_to_atom37,
    atom37_to_atom14,
    atom37_to_rigid_groups,
    atom37_to_torsions,
    frames_to_atom14,
    pseudo_beta,
    torsions_to_frames,
)
from tests.pipeline import golden
from tests.pipeline.rigid_forms import from_tensor_7, to_tensor_4x4

pytest_generate_tests = golden.parametrize
ATOM37 = ("aatype", "all_atom_positions", "all_atom_mask")


@golden.cases("torsions")
def test_torsions(case):
    torsions = atom37_to_torsions(*case.batch(*ATOM37))
    case.check("torsion_angles_mask", torsions.mask[0])
    case.check("torsion_angles_sin_cos", torsions.sin_cos[0], gap=2e-6, mask=torsions.mask[0])
    case.check("alt_torsion_angles_sin_cos", torsions.alt_sin_cos[0], gap=2e-6, mask=torsions.mask[0])


@golden.cases("rigidgroups")
def test_rigid_groups(case):
    groups = atom37_to_rigid_groups(*case.batch(*ATOM37))
    case.check("rigidgroups_gt_exists", groups.exists[0])
    case.check("rigidgroups_group_exists", groups.group_exists[0])
    case.check("rigidgroups_group_is_ambiguous", groups.is_ambiguous[0])
    case.check("rigidgroups_gt_frames", to_tensor_4x4(groups.frames)[0], gap=8e-9, mask=groups.exists[0])
    case.check("rigidgroups_alt_gt_frames", to_tensor_4x4(groups.alt_frames)[0], gap=8e-9, mask=groups.exists[0])
    case.check("backbone_rigid_mask", groups.backbone_mask[0])
    backbone = to_tensor_4x4(groups.backbone)[0]
    case.check("backbone_rigid_tensor", backbone, gap=8e-9, mask=groups.backbone_mask[0])


@golden.cases("atom14")
def test_atom14(case):
    aatype, positions, mask = case.batch(*ATOM37)
    atoms = atom37_to_atom14(aatype, positions, mask)
    case.check("atom14_atom_exists", atoms.atom_exists[0])
    case.check("atom14_gt_exists", atoms.exists[0])
    case.check("atom14_gt_positions", atoms.positions[0])
    case.check("atom14_alt_gt_positions", atoms.alt_positions[0])
    case.check("atom14_alt_gt_exists", atoms.alt_exists[0])
    case.check("atom14_atom_is_ambiguous", atoms.is_ambiguous[0])
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    case.check("pseudo_beta", beta[0])
    case.check("pseudo_beta_mask", beta_mask[0])
    torsions = atom37_to_torsions(aatype, positions, mask)
    case.check("chi_mask", torsions.mask[0, :, 3:])
    case.check("chi_angles_sin_cos", torsions.sin_cos[0, :, 3:], gap=5e-6)


@golden.cases("torsions_to_atom14")
def test_torsions_to_atom14(case):
    aatype, tensor_7, torsions = case.batch("aatype", "backbone_tensor_7", "angles_sin_cos")
    backbone = from_tensor_7(tensor_7)
    case.check("backbone_rot_mats", backbone.rot[0], gap=9e-8)
    frames = torsions_to_frames(aatype, backbone, torsions)
    case.check("all_frames_4x4", to_tensor_4x4(frames)[0], gap=5e-8)
    case.check("atom14_positions", frames_to_atom14(aatype, frames)[0], gap=9e-8)


def example(n: int = 12, seed: int = 0, batch: tuple[int, ...] = (2,)) -> tuple[torch.Tensor, Rigid, torch.Tensor]:
    """Random residues with random backbones and torsions, float64."""
    generator = torch.Generator().manual_seed(seed)
    aatype = torch.randint(0, 20, (*batch, n), generator=generator)
    tensor_7 = torch.randn(*batch, n, 7, generator=generator, dtype=torch.float64)
    tensor_7[..., :4] /= tensor_7[..., :4].norm(dim=-1, keepdim=True)
    torsions = torch.randn(*batch, n, 7, 2, generator=generator, dtype=torch.float64)
    return aatype, from_tensor_7(tensor_7), torsions / torsions.norm(dim=-1, keepdim=True)


def test_torsions_survive_the_way_to_atoms_and_back():
    """psi and the chis that exist come back; omega and phi do not, since they place no heavy atom of the residue."""
    aatype, backbone, torsions = example()
    atom37, mask = atom14_to_atom37(aatype, frames_to_atom14(aatype, torsions_to_frames(aatype, backbone, torsions)))
    found = atom37_to_torsions(aatype, atom37, mask)
    # The ideal positions have three decimals, so a torsion comes back to a few thousandths; PRO's ring is the worst.
    error = ((found.sin_cos - torsions) * found.mask[..., None])[..., 2:, :].abs().max()
    assert 0 < error < 0.02
    groups = atom37_to_rigid_groups(aatype, atom37, mask)
    assert (groups.backbone.trans - backbone.trans).abs().max() < 1e-9
    assert (groups.backbone.rot - backbone.rot).abs().max() < 2e-3


def test_alternative_frames_are_those_of_the_renamed_atoms():
    """Swapping names of interchangeable atoms in the input exchanges frames and alt_frames, positions likewise."""
    aatype, backbone, torsions = example(40)
    atoms = frames_to_atom14(aatype, torsions_to_frames(aatype, backbone, torsions))
    atom37, mask = atom14_to_atom37(aatype, atoms)
    dense = atom37_to_atom14(aatype, atom37, mask)
    assert torch.equal(dense.positions, atoms)
    assert dense.is_ambiguous.sum() > 0
    swapped, _ = atom14_to_atom37(aatype, dense.alt_positions)
    assert torch.equal(atom37_to_atom14(aatype, swapped, mask).alt_positions, atoms)
    groups, renamed = (atom37_to_rigid_groups(aatype, x, mask) for x in (atom37, swapped))
    there = groups.exists.bool()
    # Not exactly: the two carboxylate or ring atoms are not perfectly opposite in the idealised residue.
    assert (renamed.frames.rot - groups.alt_frames.rot)[there].abs().max() < 0.02
    assert (renamed.frames.rot - groups.frames.rot)[there].abs().max() > 1
    torsions, renamed_torsions = (atom37_to_torsions(aatype, x, mask) for x in (atom37, swapped))
    difference = (torsions.alt_sin_cos - renamed_torsions.sin_cos) * torsions.mask[..., None]
    assert difference[..., 2:, :].abs().max() < 0.02


def test_unknown_residue_has_a_backbone_frame_and_no_atoms():
    _, backbone, torsions = example(3)
    aatype = torch.full((2, 3), 20)
    frames = torsions_to_frames(aatype, backbone, torsions)
    assert torch.equal(frames[..., 0].rot, backbone.rot)
    assert frames_to_atom14(aatype, frames).abs().max() == 0
    positions = torch.randn(2, 3, 37, 3, dtype=torch.float64)
    groups = atom37_to_rigid_groups(aatype, positions, torch.ones(2, 3, 37))
    assert groups.exists[..., 0].min() == 1
    assert groups.exists[..., 1:].max() == 0


def test_masked_atoms_do_not_leak():
    """Garbage under the mask, NaN included, changes no frame, no atom14 position and no batch neighbour."""
    aatype, backbone, torsions = example(30)
    atom37, mask = atom14_to_atom37(aatype, frames_to_atom14(aatype, torsions_to_frames(aatype, backbone, torsions)))
    mask = mask * (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.9)
    clean = atom37 * mask[..., None]
    dirty = torch.where(mask[..., None].bool(), atom37, torch.nan)
    a, b = (atom37_to_rigid_groups(aatype, x, mask) for x in (clean, dirty))
    assert torch.equal(to_tensor_4x4(a.frames), to_tensor_4x4(b.frames))
    assert torch.equal(to_tensor_4x4(a.alt_frames), to_tensor_4x4(b.alt_frames))
    assert torch.equal(atom37_to_atom14(aatype, clean, mask).positions, atom37_to_atom14(aatype, dirty, mask).positions)
    alone = atom37_to_rigid_groups(aatype[1], clean[1], mask[1])
    assert torch.equal(to_tensor_4x4(alone.frames), to_tensor_4x4(a.frames)[1])


def test_gradients_reach_backbone_and_torsions():
    """Forward kinematics passes gradcheck in float64 for one residue of every type."""
    aatype = torch.arange(20)[None]
    _, backbone, torsions = example(20, batch=(1,))
    inputs = (backbone.rot.requires_grad_(), backbone.trans.requires_grad_(), torsions.requires_grad_())

    def atoms(rot, trans, angles):
        return frames_to_atom14(aatype, torsions_to_frames(aatype, Rigid(rot, trans), angles))

    assert torch.autograd.gradcheck(atoms, inputs, fast_mode=True)


def test_tables_made_under_inference_mode_serve_training():
    aatype, backbone, torsions = example(4)
    with torch.inference_mode():
        torsions_to_frames(aatype, backbone.to(torch.bfloat16), torsions.bfloat16())
    angles = torsions.bfloat16().requires_grad_()
    frames_to_atom14(aatype, torsions_to_frames(aatype, backbone.to(torch.bfloat16), angles)).sum().backward()
    assert angles.grad.isfinite().all()
