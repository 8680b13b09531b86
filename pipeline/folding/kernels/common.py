"""What the kernels share: how many rows to take at a time, number formats, layer norm with its gradient."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_NUMBERS = {"cpu": 2**19}
"""Numbers in the largest temporary of a block: 2 MiB of float32, about a core's share of the cache."""
BLOCK_NUMBERS_ELSEWHERE = 2**26
"""The same on accelerators, which want large blocks: 256 MiB of float32."""


@dataclass(frozen=True)
class Plan:
    """How a kernel goes over the pair representation."""

    rows: int = 0
    """Rows at a time; 0: as many as fit ``BLOCK_NUMBERS``."""
    add: bool = False
    """Return the input plus the update instead of the update."""
    overwrite: bool = False
    """Write the result over the input; only without gradients, and only with ``add``."""

    def rows_for(self, z: Tensor, numbers_per_row: int) -> int:
        """Rows of ``z`` [B, N, N, c] at a time where one needs ``numbers_per_row`` numbers of temporary memory."""
        return self.rows or automatic_rows(z.device.type, z.shape[1], numbers_per_row)


UPDATE = Plan()
"""The update alone."""
ADDED = Plan(add=True)
"""The input plus the update."""


def automatic_rows(device: str, length: int, numbers_per_row: int) -> int:
    """Rows at a time, from 1 to ``length``, on a kind of device."""
    block = BLOCK_NUMBERS.get(device, BLOCK_NUMBERS_ELSEWHERE)
    return max(1, min(length, block // numbers_per_row))


def product_dtype(z: Tensor) -> torch.dtype:
    """Number format of matrix products over ``z``: that of an enclosing ``torch.autocast``, else its own."""
    device = z.device.type
    if z.dtype is torch.float32 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return z.dtype


def no_autocast(z: Tensor) -> AbstractContextManager:
    """Within it number formats are those that the kernel chose."""
    device = z.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def blocks(rows: int, *tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
    """Slices of tensors [B, N, N, ...], ``rows`` rows of one sample at a time; None stays None."""
    batch, length = next(t for t in tensors if t is not None).shape[:2]
    for b in range(batch):
        for i in range(0, length, rows):
            yield tuple(None if t is None else t[b, i : i + rows] for t in tensors)


def write(out: Tensor, update: Tensor, keep: Tensor | None, base: Tensor | None) -> None:
    """``out = base + keep * update``; without the parts that are None. ``update`` is used up."""
    if keep is not None:
        update *= keep
    if base is None:
        out.copy_(update)
    else:
        torch.add(base, update, out=out)


class LayerNorm:
    """Layer norm of one block of rows [M, c], which can give its gradient."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> None:
        self.x, self.weight, self.bias = x.to(weight.dtype).contiguous(), weight, bias
        out, self.mean, self.rstd = torch.native_layer_norm(self.x, weight.shape, weight, bias, eps)
        self.out = out.to(dtype)

    def backward(self, grad: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> Tensor:
        """Gradient of the rows [M, c]; those of the parameters are added to the last two arguments."""
        grad_x, more_weight, more_bias = torch.ops.aten.native_layer_norm_backward(
            grad.to(self.x.dtype),
            self.x,
            list(self.weight.shape),
            self.mean,
            self.rstd,
            self.weight,
            self.bias,
            [True, True, True],
        )
        grad_weight += more_weight
        grad_bias += more_bias
        return grad_x


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W^T + b`` for x [M, c_in], weight [c_out, c_in], bias [c_out]."""
    return torch.addmm(bias, x, weight.t())


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a b``; the sum is in the format of ``total`` even where the factors have a shorter one."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def sums_like(*parameters: Tensor) -> list[Tensor]:
    """Zeros to sum the gradients of ``parameters`` in, at least float32."""
    return [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]


def as_gradients(sums: list[Tensor], parameters: tuple[Tensor, ...]) -> list[Tensor]:
    """The sums in the number formats of their parameters."""
    return [total.to(parameter.dtype) for total, parameter in zip(sums, parameters, strict=True)]
