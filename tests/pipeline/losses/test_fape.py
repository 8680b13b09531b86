"""Backbone and side-chain FAPE and the renaming of interchangeable atoms."""

import torch

from pipeline.folding.frames import Rigid
from pipeline.losses.fape import RenamedAtoms, backbone_fape, fape, rename_ambiguous, sidechain_fape
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


def point_errors(pred_frames, target_frames, pred_points, target_points, eps=1e-4):
    """The plain formula: distance of every point, seen from every frame, to where it should be, [..., F, A]."""
    pred = pred_frames[..., None].invert_apply(pred_points[..., None, :, :])
    target = target_frames[..., None].invert_apply(target_points[..., None, :, :])
    return ((pred - target).square().sum(-1) + eps).sqrt()


@golden.cases("fape_backbone")
def test_backbone(case):
    target, mask = (
        Rigid.from_tensor_4x4(case.input("backbone_rigid_tensor")[None]),
        case.input("backbone_rigid_mask")[None],
    )
    settings = {
        "clamp_distance": case.scalar("clamp_distance"),
        "length_scale": case.scalar("loss_unit_distance"),
        "eps": case.scalar("eps"),
    }
    for name, weight in (("clamped", 1.0), ("unclamped", 0.0)):
        tensor = case.input("traj")[:, None].requires_grad_()  # [8, 1, N, 7]
        trajectory = Rigid.from_tensor_7(tensor)
        loss = backbone_fape(trajectory, target, mask, weight, **settings)
        case.check(f"loss_{name}", loss[0], gap=2e-7)
        pred, true = trajectory[:, 0], target[0]
        layers = fape(pred, true, mask[0], pred.trans, true.trans, mask[0], weight, **settings)
        case.check(f"loss_per_layer_{name}", layers, gap=2e-7)
        loss.sum().backward()
        case.check(f"grad_traj_{name}", tensor.grad[:, 0], gap=2e-6 if weight else 1e-6)
    for weight in (1.0, 0.0, 0.9):
        case.check(
            f"loss_use_clamped_{weight}", backbone_fape(trajectory, target, mask, weight, **settings)[0], gap=2e-7
        )
        per_sample = backbone_fape(trajectory, target, mask, torch.tensor([weight]), **settings)
        case.check(f"loss_use_clamped_{weight}", per_sample[0], gap=2e-7)
    errors = point_errors(trajectory[:, 0], target[0], trajectory.trans[:, 0], target.trans[0], settings["eps"])
    pairs = mask[0, :, None] * mask[0]
    clamped = ((errors > settings["clamp_distance"]) * pairs).sum((-1, -2)) / pairs.sum()
    case.check("clamped_fraction_per_layer", clamped, gap=4e-8)


@golden.cases("renaming")
def test_renaming(case):
    names = ("pred_atom14", "atom14_gt_positions", "atom14_alt_gt_positions")
    masks = ("atom14_gt_exists", "atom14_alt_gt_exists", "atom14_atom_is_ambiguous")
    renamed = rename_ambiguous(*case.batch(*names, *masks))
    case.check("alt_naming_is_better", renamed.alt_is_better[0])
    case.check("renamed_atom14_gt_positions", renamed.positions[0])
    case.check("renamed_atom14_gt_exists", renamed.exists[0])


@golden.cases("fape_sidechain")
def test_sidechain(case):
    frames = case.input("pred_sidechain_frames").requires_grad_()  # [1, N, 8, 4, 4]
    atoms = case.input("pred_atom14").requires_grad_()
    renamed = RenamedAtoms(
        *case.batch("alt_naming_is_better", "renamed_atom14_gt_positions", "renamed_atom14_gt_exists")
    )
    target, alt_target = (
        Rigid.from_tensor_4x4(x) for x in case.batch("rigidgroups_gt_frames", "rigidgroups_alt_gt_frames")
    )
    exists = case.input("rigidgroups_gt_exists")[None]
    settings = {name: case.scalar(name) for name in ("clamp_distance", "length_scale", "eps")}
    arguments = (Rigid.from_tensor_4x4(frames), atoms, target, alt_target, exists, renamed)
    loss = sidechain_fape(*arguments, **settings)
    case.check("loss", loss[0], gap=1e-7)
    case.check("loss_unclamped", sidechain_fape(*arguments, 0.0, **settings)[0], gap=8e-8)
    loss.sum().backward()
    case.check("grad_pred_atom14", atoms.grad[0], gap=3e-6)
    case.check("grad_pred_sidechain_frames", frames.grad[0], gap=1e-6)
