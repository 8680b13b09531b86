"""Backbone and side-chain FAPE and the renaming of interchangeable atoms."""

import dataclasses

import torch

from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import (
    atom14_to_atom37,
    atom37_to_atom14,
    atom37_to_rigid_groups,
    frames_to_atom14,
    torsions_to_frames,
)
from pipeline.losses import point_error
from pipeline.losses.fape import RenamedAtoms, backbone_fape, fape, rename_ambiguous, sidechain_fape
from tests.pipeline import golden
from tests.pipeline.rigid_forms import from_tensor_7

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
        trajectory = from_tensor_7(tensor)
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


def random_frames(*shape: int, seed: int = 0) -> Rigid:
    """Frames some 10 angstrom around the origin, float64."""
    tensor = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quaternion = tensor[..., :4] / tensor[..., :4].norm(dim=-1, keepdim=True)
    return from_tensor_7(torch.cat((quaternion, 10 * tensor[..., 4:]), dim=-1))


def test_one_pair_by_hand():
    """A point 3 angstrom off along x and 4 along y: 5 angstrom, 0.5; clamped at 2, 0.2; half and half, 0.35."""
    one, shifted = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[[3.0, 4.0, 0.0]]], dtype=torch.float64)
    frames = Rigid.identity((1,), dtype=torch.float64)
    mask = torch.ones(1)
    for weight, expected in ((0.0, 0.5), (1.0, 0.2), (0.5, 0.35)):
        loss = fape(frames[None], frames, mask, shifted, one, mask, weight, clamp_distance=2.0, eps=1e-12)
        torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64))


def test_perfect_prediction_scores_one_thousandth():
    frames, mask = random_frames(1, 30), torch.ones(1, 30)
    loss = backbone_fape(frames.unsqueeze(0), frames, mask)
    torch.testing.assert_close(loss, torch.full((1,), 1e-3, dtype=torch.float64), rtol=1e-4, atol=0)


def test_blocks_equal_autograd_of_the_plain_formula(monkeypatch):
    """Value and every gradient, with masks, partial clamping, and blocks that do not divide the number of frames."""
    monkeypatch.setitem(point_error._PAIRS_PER_BLOCK, "cpu", 150)
    frames, target = random_frames(2, 17, seed=1), random_frames(17, seed=2)
    leaves = [x.clone().requires_grad_() for x in (frames.rot, frames.trans, 10 * random_frames(2, 23).rot[..., 0])]
    points, generator = random_frames(23, seed=4).trans, torch.Generator().manual_seed(5)
    frames_mask, points_mask = (torch.randint(0, 2, (n,), generator=generator).double() for n in (17, 23))
    cotangent = torch.tensor([1.0, -0.7], dtype=torch.float64)

    loss = fape(Rigid(*leaves[:2]), target, frames_mask, leaves[2], points, points_mask, 0.8)
    found = torch.autograd.grad(loss, leaves, cotangent)
    errors = point_errors(Rigid(*leaves[:2]), target, leaves[2], points)
    errors = 0.8 * errors.clamp(max=10) + 0.2 * errors
    errors = errors * frames_mask[:, None] * points_mask
    plain = errors.sum((1, 2)) / 10 / (1e-4 + frames_mask.sum()) / (1e-4 + points_mask.sum())
    expected = torch.autograd.grad(plain, leaves, cotangent)
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_moving_the_truth_changes_nothing_mirroring_it_does():
    pred, target, mask = random_frames(4, 1, 20), random_frames(1, 20, seed=1), torch.ones(1, 20)
    mover = random_frames(1, 1, seed=2)
    loss = backbone_fape(pred, target, mask)
    torch.testing.assert_close(backbone_fape(pred, mover.compose(target), mask), loss)
    # An orthonormal frame of a mirrored chain is not the mirrored frame, so distances in it change.
    mirror = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    image = Rigid(target.rot * mirror[:, None] * mirror, target.trans * mirror)
    assert (backbone_fape(target.unsqueeze(0), image, mask) > 0.1).all()


def test_each_sample_is_scored_alone_and_an_empty_one_is_zero():
    """Also the clamp is the sample's own; padding rows hold garbage."""
    n, known = 12, 9
    pred, target = random_frames(3, 3, n), random_frames(3, n, seed=1)
    mask = torch.zeros(3, n)
    mask[0], mask[1, :known] = 1, 1
    weight = torch.tensor([1.0, 0.0, 1.0])
    trajectory = Rigid(pred.rot.clone().requires_grad_(), pred.trans.clone().requires_grad_())
    loss = backbone_fape(trajectory, target, mask, weight)
    cut = (slice(None), slice(1, 2), slice(known))
    alone = backbone_fape(pred[cut], target[1:2, :known], torch.ones(1, known), 0.0)
    torch.testing.assert_close(loss[1], alone[0])
    torch.testing.assert_close(loss[0], backbone_fape(pred[:, :1], target[:1], mask[:1], 1.0)[0])
    assert loss[2] == 0
    loss.sum().backward()
    assert trajectory.trans.grad.isfinite().all()
    assert trajectory.trans.grad[:, 2].abs().max() == 0
    assert trajectory.trans.grad[:, 1, known:].abs().max() == 0


def side_chains(batch: int = 2, n: int = 14, seed: int = 0):
    """A truth with all residue types, some atoms unknown, and a prediction some angstrom away from it."""
    generator = torch.Generator().manual_seed(seed)
    aatype = torch.randint(0, 20, (batch, n), generator=generator)
    aatype[:, :4] = torch.tensor([3, 6, 13, 18])  # ASP, GLU, PHE, TYR
    structures = []
    for noise in (0.0, 0.5):
        torsions = torch.randn(batch, n, 7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torsions = torsions + noise * torch.randn(batch, n, 7, 2, generator=generator, dtype=torch.float64)
        backbone = random_frames(batch, n, seed=3)
        backbone = Rigid(backbone.rot, backbone.trans + noise)
        frames = torsions_to_frames(aatype, backbone, torsions / torsions.norm(dim=-1, keepdim=True))
        structures.append((frames, frames_to_atom14(aatype, frames)))
    (_, true_atoms), (pred_frames, pred_atoms) = structures
    atom37, mask = atom14_to_atom37(aatype, true_atoms)
    mask = mask * (torch.rand(mask.shape, generator=generator) < 0.95)
    atom37 = atom37 * mask[..., None]
    return pred_frames, pred_atoms, atom37_to_rigid_groups(aatype, atom37, mask), atom37_to_atom14(aatype, atom37, mask)


def rename(pred_atoms, known) -> RenamedAtoms:
    return rename_ambiguous(
        pred_atoms, known.positions, known.alt_positions, known.exists, known.alt_exists, known.is_ambiguous
    )


def test_renaming_equals_the_algorithm_over_all_pairs():
    """Algorithm 26 with its [N, N, 14, 14] distances, on a truth whose names are right half of the time."""
    _, pred, _, known = side_chains(batch=6)
    found = rename(pred, known)
    assert 0 < found.alt_is_better.sum() < known.is_ambiguous.amax(-1).sum()

    def distances(x):
        return ((x[:, :, None, :, None] - x[:, None, :, None]).square().sum(-1) + 1e-10).sqrt()

    pairs = known.exists[:, :, None, :, None] * known.exists[:, None, :, None, :]
    pairs = pairs * known.is_ambiguous[:, :, None, :, None] * (1 - known.is_ambiguous[:, None, :, None, :])
    errors = [
        (pairs * (distances(pred) - distances(x)).abs()).sum((2, 3, 4)) for x in (known.positions, known.alt_positions)
    ]
    assert torch.equal(found.alt_is_better, (errors[1] < errors[0]).double())


def test_naming_of_symmetric_atoms_does_not_matter():
    """The same side chains with all interchangeable names swapped in the truth give the same loss."""
    frames, pred, groups, known = side_chains()
    complete = known.alt_exists * known.exists  # a swap of one known and one unknown atom is a different structure
    known = dataclasses.replace(known, exists=complete, alt_exists=complete)
    swapped = dataclasses.replace(known, positions=known.alt_positions, alt_positions=known.positions)
    losses = [
        sidechain_fape(frames, pred, a, b, groups.exists, rename(pred, atoms))
        for a, b, atoms in (
            (groups.frames, groups.alt_frames, known),
            (groups.alt_frames, groups.frames, swapped),
        )
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_side_chains_of_each_sample_are_scored_alone():
    frames, pred, groups, known = side_chains(batch=3)
    exists, atoms_exist = groups.exists.clone(), known.exists.clone()
    exists[2], atoms_exist[2] = 0, 0
    known = dataclasses.replace(known, exists=atoms_exist, alt_exists=known.alt_exists * (atoms_exist.sum() > 0))
    renamed = rename(pred, known)
    renamed = dataclasses.replace(renamed, exists=renamed.exists * torch.tensor([1.0, 1.0, 0.0])[:, None, None])
    pred = pred.requires_grad_()
    loss = sidechain_fape(frames, pred, groups.frames, groups.alt_frames, exists, renamed)
    for b in range(2):
        part = RenamedAtoms(*(getattr(renamed, f.name)[b : b + 1] for f in dataclasses.fields(renamed)))
        s = slice(b, b + 1)
        alone = sidechain_fape(frames[s], pred[s], groups.frames[s], groups.alt_frames[s], exists[s], part)
        torch.testing.assert_close(loss[b], alone[0])
    assert loss[2] == 0
    loss.sum().backward()
    assert pred.grad.isfinite().all()
    assert pred.grad[2].abs().max() == 0


def test_half_precision_predictions_are_scored_in_float32():
    pred, target, mask = random_frames(2, 1, 16), random_frames(1, 16, seed=1), torch.ones(1, 16)
    coarse = pred.to(torch.bfloat16)
    loss = backbone_fape(coarse, target, mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, backbone_fape(coarse.to(torch.float64), target, mask).float())
