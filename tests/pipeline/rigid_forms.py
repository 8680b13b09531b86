"""Rigid transforms in the forms in which OpenFold, the reference cases and transformers' port hold them."""

import torch
from torch import Tensor

from pipeline.folding.frames import Rigid, quaternion_to_rotation


def from_tensor_7(tensor: Tensor) -> Rigid:
    """From [..., 7]: unit quaternion (w, x, y, z) and translation. The quaternion is not normalised again."""
    return Rigid(quaternion_to_rotation(tensor[..., :4]), tensor[..., 4:])


def to_tensor_7(rigid: Rigid) -> Tensor:
    """[..., 7]: unit quaternion (w, x, y, z), w >= 0, and translation."""
    return torch.cat((rotation_to_quaternion(rigid.rot), rigid.trans), dim=-1)


def to_tensor_4x4(rigid: Rigid) -> Tensor:
    """Homogeneous matrices [..., 4, 4]."""
    top = torch.cat((rigid.rot, rigid.trans[..., None]), dim=-1)  # [..., 3, 4]
    last = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat((top, last), dim=-2)


def rotation_to_quaternion(rot: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] to unit quaternions [..., 4] (w, x, y, z) with w >= 0.

    Every row of ``4 q q^T`` is linear in R; the row with the largest diagonal entry is divided by its length, which
    stays accurate at every angle (Shepperd 1978).
    """
    xx, xy, xz, yx, yy, yz, zx, zy, zz = rot.flatten(-2).unbind(-1)
    rows = (
        1 + xx + yy + zz, zy - yz, xz - zx, yx - xy,
        zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx,
        xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy,
        yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz,
    )  # fmt: skip
    outer = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))  # [..., 16] -> [..., 4, 4]
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)[..., None, None]
    row = outer.gather(-2, best.expand(*outer.shape[:-2], 1, 4)).squeeze(-2)
    quaternion = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
