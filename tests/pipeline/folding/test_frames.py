"""Algebra of rigid transforms."""

import pytest
import torch

from pipeline.folding.frames import Rigid, quaternion_to_rotation
from tests.pipeline.rigid_forms import from_tensor_7, rotation_to_quaternion, to_tensor_4x4, to_tensor_7


def random_rigid(*shape: int, seed: int = 0) -> Rigid:
    tensor = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quaternion = tensor[..., :4] / tensor[..., :4].norm(dim=-1, keepdim=True)
    return from_tensor_7(torch.cat((quaternion, 10 * tensor[..., 4:]), dim=-1))


def assert_same(a: Rigid, b: Rigid, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(to_tensor_4x4(a), to_tensor_4x4(b), atol=tolerance, rtol=0)


def test_group_laws():
    a, b, c = (random_rigid(3, 5, seed=s) for s in range(3))
    points = torch.randn(3, 5, 3, dtype=torch.float64)
    assert_same(a.compose(b).compose(c), a.compose(b.compose(c)))
    torch.testing.assert_close(a.compose(b).apply(points), a.apply(b.apply(points)))
    torch.testing.assert_close(a.invert_apply(a.apply(points)), points)
    torch.testing.assert_close(to_tensor_4x4(a) @ to_tensor_4x4(b), to_tensor_4x4(a.compose(b)))


def test_quaternions_of_half_turns_and_of_the_identity():
    """Every branch of the conversion, where the naive formula divides by zero."""
    quaternions = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(rotation_to_quaternion(quaternion_to_rotation(quaternions)).abs(), quaternions)
    rigid = random_rigid(1000)
    assert_same(from_tensor_7(to_tensor_7(rigid)), rigid)
    assert to_tensor_7(rigid)[:, 0].min() >= 0


def test_quarter_turn_by_hand():
    """(1, 1, 0, 0)/sqrt 2 turns by 90 degrees about x: y goes to z."""
    rigid = from_tensor_7(torch.tensor([0.5**0.5, 0.5**0.5, 0, 0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(rigid.apply(torch.tensor([0.0, 1.0, 0.0])), torch.tensor([1.0, 2.0, 4.0]))


def test_backbone_update_is_in_the_local_frame():
    rigid = random_rigid(4)
    assert_same(rigid.compose_q_update(torch.zeros(4, 6, dtype=torch.float64)), rigid)
    shift = torch.tensor([0, 0, 0, 1.0, 2.0, 3.0], dtype=torch.float64).expand(4, 6)
    moved = rigid.compose_q_update(shift)
    torch.testing.assert_close(moved.trans, rigid.apply(shift[:, 3:]))
    turned = rigid.compose_q_update(torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64).expand(4, 6))
    quarter = from_tensor_7(torch.tensor([0.5**0.5, 0.5**0.5, 0, 0, 0, 0, 0], dtype=torch.float64))
    assert_same(turned, rigid.compose(quarter))


def test_frames_of_three_points():
    # Seeded: the eps under the root tilts the axes of points that nearly coincide or lie nearly on a line.
    points = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, origin, plane = points
    rigid = Rigid.from_3_points(p, origin, plane)
    local = rigid.invert_apply(p)
    assert (local[:, 0] < 0).all()
    assert local[:, 1:].abs().max() < 1e-7
    local = rigid.invert_apply(plane)
    assert (local[:, 1] > 0).all()
    assert local[:, 2].abs().max() < 1e-7
    torch.testing.assert_close(torch.linalg.det(rigid.rot), torch.ones(6, dtype=torch.float64))


def test_degenerate_points_give_finite_gradients():
    points = torch.zeros(3, 3, requires_grad=True)
    rigid = Rigid.from_3_points(*points)
    rigid.rot.sum().backward()
    assert rigid.rot.isfinite().all()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("index", [0, (slice(None), 2), (..., None), (slice(1, 3), slice(None, None, 2))])
def test_indexing_acts_on_the_batch(index):
    rigid = random_rigid(4, 5)
    assert to_tensor_4x4(rigid[index]).shape == (*rigid.trans[..., 0][index].shape, 4, 4)
    assert torch.equal(rigid.unsqueeze(-1).trans, rigid[..., None].trans)
    assert rigid.unsqueeze(0).shape == (1, 4, 5)
    assert Rigid.stack([rigid, rigid], dim=-1).shape == (4, 5, 2)


def test_gradients():
    rigid, update = random_rigid(3), torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    start = to_tensor_7(rigid).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, u: to_tensor_7(from_tensor_7(t).compose_q_update(u)), (start, update))
    stopped = from_tensor_7(start).stop_rotation_gradient()
    stopped.apply(torch.ones(3, 3, dtype=torch.float64)).sum().backward()
    assert start.grad[:, :4].abs().max() == 0
    assert start.grad[:, 4:].abs().min() == 1


def test_autocast_does_not_lower_the_precision():
    rigid = random_rigid(8).to(torch.float32)
    expected = to_tensor_4x4(rigid.compose(rigid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(to_tensor_4x4(rigid.compose(rigid)), expected)
