"""Rigid transforms: a rotation and a translation per element of a batch (Jumper et al. 2021, suppl. 1.1 and 1.8).

A transform T = (R, t) takes local to global coordinates, ``x_global = R x_local + t``. Everything here is written
with elementwise products instead of ``matmul``: a 3x3 product gains nothing from BLAS, and autocast would turn a
``matmul`` into bfloat16, which is too coarse for coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FROM_POINTS_EPS = 1e-8  # added under the square root, so that degenerate points give 0, not NaN


def rotate(rot: Tensor, points: Tensor) -> Tensor:
    """``R x`` for ``rot`` [..., 3, 3] and ``points`` [..., 3], batch dimensions broadcast."""
    x, y, z = points[..., 0:1], points[..., 1:2], points[..., 2:3]
    return rot[..., :, 0] * x + rot[..., :, 1] * y + rot[..., :, 2] * z


def rotate_inverse(rot: Tensor, points: Tensor) -> Tensor:
    """``R^T x`` for ``rot`` [..., 3, 3] and ``points`` [..., 3], batch dimensions broadcast."""
    x, y, z = points[..., 0:1], points[..., 1:2], points[..., 2:3]
    return rot[..., 0, :] * x + rot[..., 1, :] * y + rot[..., 2, :] * z


def compose_rotations(a: Tensor, b: Tensor) -> Tensor:
    """``A B`` for two batches of matrices [..., 3, 3]."""
    return sum(a[..., :, k : k + 1] * b[..., k : k + 1, :] for k in range(3))  # type: ignore[return-value]


def quaternion_to_rotation(quaternion: Tensor) -> Tensor:
    """Quaternions [..., 4] (w, x, y, z) to matrices [..., 3, 3].

    The form is homogeneous of degree 2: it does not normalise, and a quaternion of length c gives c^2 R. Callers
    that hold an unnormalised quaternion divide by its norm first.
    """
    w, x, y, z = quaternion.unbind(-1)
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    wx, wy, wz, xy, xz, yz = 2 * w * x, 2 * w * y, 2 * w * z, 2 * x * y, 2 * x * z, 2 * y * z
    rows = (
        ww + xx - yy - zz, xy - wz, xz + wy,
        xy + wz, ww - xx + yy - zz, yz - wx,
        xz - wy, yz + wx, ww - xx - yy + zz,
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))  # [..., 9] -> [..., 3, 3]


@dataclass(frozen=True, eq=False)
class Rigid:
    """A batch of rigid transforms."""

    rot: Tensor
    """Rotation matrices [..., 3, 3]."""
    trans: Tensor
    """Translations [..., 3]."""

    @property
    def shape(self) -> torch.Size:
        """The batch dimensions."""
        return self.trans.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of both parts."""
        return self.trans.dtype

    @property
    def device(self) -> torch.device:
        """Device of both parts."""
        return self.trans.device

    # ------------------------------------------------------------------ constructors

    @staticmethod
    def identity(
        shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Rigid:
        """Transforms that change nothing, batch dimensions ``shape``."""
        rot = torch.eye(3, dtype=dtype, device=device).expand(*shape, 3, 3)
        return Rigid(rot, torch.zeros(*shape, 3, dtype=dtype, device=device))

    @staticmethod
    def from_3_points(p_neg_x_axis: Tensor, origin: Tensor, p_xy_plane: Tensor, eps: float = _FROM_POINTS_EPS) -> Rigid:
        """Frames by Gram-Schmidt from points [..., 3] (Alg. 21).

        The x axis is ``origin - p_neg_x_axis``, and ``p_xy_plane`` lies in the half plane y > 0. (Algorithm 21 itself
        points x towards its third atom; the sign is part of each caller's convention.) ``eps`` is
        added to squared lengths: coinciding points give a zero matrix with a zero gradient instead of NaN.
        """
        x_axis = origin - p_neg_x_axis
        x_axis = x_axis / (x_axis.square().sum(-1, keepdim=True) + eps).sqrt()
        y_axis = p_xy_plane - origin
        y_axis = y_axis - x_axis * (x_axis * y_axis).sum(-1, keepdim=True)
        y_axis = y_axis / (y_axis.square().sum(-1, keepdim=True) + eps).sqrt()
        z_axis = torch.linalg.cross(x_axis, y_axis, dim=-1)
        return Rigid(torch.stack((x_axis, y_axis, z_axis), dim=-1), origin)  # columns are the axes

    @staticmethod
    def from_tensor_4x4(tensor: Tensor) -> Rigid:
        """From homogeneous matrices [..., 4, 4]; the last row is not read."""
        return Rigid(tensor[..., :3, :3], tensor[..., :3, 3])

    @staticmethod
    def stack(rigids: Sequence[Rigid], dim: int = 0) -> Rigid:
        """Stack along a new batch dimension."""
        return Rigid(
            torch.stack([r.rot for r in rigids], dim=dim if dim >= 0 else dim - 2),
            torch.stack([r.trans for r in rigids], dim=dim if dim >= 0 else dim - 1),
        )

    # ------------------------------------------------------------------ algebra

    def compose(self, other: Rigid) -> Rigid:
        """``T_self ∘ T_other``: first ``other``, then ``self``."""
        return Rigid(compose_rotations(self.rot, other.rot), self.apply(other.trans))

    def apply(self, points: Tensor) -> Tensor:
        """Local points [..., 3] to global coordinates; batch dimensions broadcast."""
        return rotate(self.rot, points) + self.trans

    def invert_apply(self, points: Tensor) -> Tensor:
        """Global points [..., 3] to local coordinates; batch dimensions broadcast."""
        return rotate_inverse(self.rot, points - self.trans)

    def compose_q_update(self, update: Tensor) -> Rigid:
        """The backbone update (Alg. 23): ``T ∘ (R(1, b, c, d), t)`` with the quaternion normalised.

        ``update`` [..., 6] is (b, c, d) and the translation t in the frame of ``self``. Zeros leave it as it is.
        """
        quaternion = torch.cat((torch.ones_like(update[..., :1]), update[..., :3]), dim=-1)
        quaternion = quaternion / quaternion.square().sum(-1, keepdim=True).sqrt()
        return self.compose(Rigid(quaternion_to_rotation(quaternion), update[..., 3:]))

    def scale_translation(self, factor: float | Tensor) -> Rigid:
        """Change of the unit of length."""
        return Rigid(self.rot, self.trans * factor)

    def stop_rotation_gradient(self) -> Rigid:
        """The same transforms with detached rotations (Alg. 20, between iterations)."""
        return Rigid(self.rot.detach(), self.trans)

    # ------------------------------------------------------------------ batch dimensions

    def __getitem__(self, index: object) -> Rigid:
        index = index if isinstance(index, tuple) else (index,)
        return Rigid(self.rot[(*index, slice(None), slice(None))], self.trans[(*index, slice(None))])

    def unsqueeze(self, dim: int) -> Rigid:
        """A new batch dimension; negative ``dim`` counts from the end of the batch dimensions."""
        return Rigid(
            self.rot.unsqueeze(dim if dim >= 0 else dim - 2),
            self.trans.unsqueeze(dim if dim >= 0 else dim - 1),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Rigid:
        """``function`` of both parts; it must leave the last dimensions (3, 3 and 3) as they are."""
        return Rigid(function(self.rot), function(self.trans))

    def to(self, *args: Any, **kwargs: Any) -> Rigid:
        """``Tensor.to`` of both parts."""
        return self.map(lambda part: part.to(*args, **kwargs))

    def detach(self) -> Rigid:
        """Both parts without gradient."""
        return self.map(Tensor.detach)
