"""What the kernels share: how many rows to take at a time, number formats, layer norm with its gradient."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

import torch
from torch import Tensor

BLOCK_NUMBERS = {"cpu": 2**19}
"""Numbers in the largest temporary of a block: 2 MiB of float32, about a core's share of the cache."""
BLOCK_NUMBERS_ELSEWHERE = 2**26
"""The same on accelerators, which want large blocks: 256 MiB of float32."""
SAVED = 12 * 2**21
"""Numbers in the pair representations [B, N, N, c] of all blocks that wait for their backward pass at one time, up to
which the kernels save what they need there instead of computing it again: twelve blocks of 128 residues and 128
channels, or one of 443. Recomputation takes 8 to 19% more time; saving, with triangle attention, four times the memory,
4.2 GB of float32 at the limit, half of what transformers' port keeps."""


@dataclass(frozen=True)
class Plan:
    """How a kernel goes over the pair representation."""

    rows: int = 0
    """Rows at a time; 0: as many as fit ``BLOCK_NUMBERS``."""
    add: bool = False
    """Return the input plus the update instead of the update."""
    overwrite: bool = False
    """Write the result over the input; only without gradients, and only with ``add``."""
    waiting: int = 1
    """Blocks that wait for their backward pass at one time, this one included; 0: there will be none."""

    def saves(self, numbers: int) -> bool:
        """Whether kernels save what the backward pass of a pair representation of so many numbers needs."""
        return 0 < self.waiting * numbers <= SAVED

    def rows_for(self, z: Tensor, numbers_per_row: int) -> int:
        """Rows of ``z`` [B, N, N, c] at a time where one needs ``numbers_per_row`` numbers of temporary memory."""
        return self.rows or automatic_rows(z.device.type, z.shape[1], numbers_per_row)


UPDATE = Plan()
"""The update alone."""
ADDED = Plan(add=True)
"""The input plus the update."""


def eagerly(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``forward`` of a module around a kernel, left out of ``torch.compile``.

    Kernels are loops over large products, which compiling unrolls and makes no faster, and they write in place, some
    rows at a time, which torch 2.13's functionalisation gets wrong where the result replaces the input. The compiler is
    imported when it traces this, and not before: that takes as long as importing torch.
    """
    left_out: Callable[..., Tensor] | None = None

    @wraps(forward)
    def either(*args: Any, **keywords: Any) -> Tensor:
        nonlocal left_out
        if not torch.compiler.is_dynamo_compiling():
            return forward(*args, **keywords)
        if left_out is None:
            left_out = torch.compiler.disable(forward)
        return left_out(*args, **keywords)

    return either


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


def blocks(rows: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
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


class Saved:
    """What a kernel computes of each block of rows, by key: saved for its backward pass where that is worth the memory.

    Both passes ask ``of`` for everything, so that they compute the same whether it was saved or not.
    """

    def __init__(self, values: dict[Hashable, tuple[Tensor, ...]] | None) -> None:
        self._values = values

    @classmethod
    def for_forward(cls, ctx: Any, z: Tensor, plan: Plan) -> "Saved":
        """Of a forward pass over ``z`` [B, N, N, c]; it saves if there will be a backward pass and memory for that."""
        return cls({} if any(ctx.needs_input_grad) and not plan.overwrite and plan.saves(z.numel()) else None)

    def of(self, key: Hashable, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What was saved under ``key``, else what ``compute`` gives. It must not be changed in place."""
        if self._values is None:
            return compute()
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]

    def keep(self, key: Hashable, *tensors: Tensor) -> None:
        """Save ``tensors`` under ``key``."""
        self.of(key, lambda: tensors)

    def __contains__(self, key: Hashable) -> bool:
        return self._values is not None and key in self._values

    def __getitem__(self, key: Hashable) -> tuple[Tensor, ...]:
        return (self._values or {})[key]

    @property
    def saves(self) -> bool:
        """Whether anything is saved."""
        return self._values is not None

    def store(self, ctx: Any, *tensors: Tensor | None) -> None:
        """``ctx.save_for_backward`` of ``tensors`` and of what was saved here."""
        values = self._values or {}
        ctx.saved_sizes = {key: len(value) for key, value in values.items()}
        ctx.save_for_backward(*tensors, *(tensor for value in values.values() for tensor in value))

    @classmethod
    def for_backward(cls, ctx: Any) -> tuple["Saved", tuple[Any, ...]]:
        """What ``store`` saved, and the tensors that it was given."""
        tensors, sizes = ctx.saved_tensors, ctx.saved_sizes
        first = len(tensors) - sum(sizes.values())
        rest = iter(tensors[first:])
        values = {key: tuple(islice(rest, size)) for key, size in sizes.items()}
        return cls(values or None), tensors[:first]


class LayerNorm:
    """Layer norm of one block of rows [M, c], which can give its gradient."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
        saved: Saved,
        key: Hashable,
    ) -> None:
        self.weight, self.bias = weight, bias

        def compute() -> tuple[Tensor, ...]:
            rows = x.to(weight.dtype).contiguous()
            out, mean, rstd = torch.native_layer_norm(rows, weight.shape, weight, bias, eps)
            return rows, out.to(dtype), mean, rstd

        self.x, self.out, self.mean, self.rstd = saved.of(key, compute)

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


@dataclass(frozen=True)
class Norms:
    """Layer norms of the blocks of rows of one sample."""

    z: Tensor
    """[N, N, c]."""
    norm: Sequence[Tensor]
    """Weight and bias [c]."""
    eps: float
    dtype: torch.dtype
    """Of the results."""
    rows: int
    """In a block."""
    saved: Saved
    sample: int
    """Its index in the batch, for ``saved``."""

    def at(self, first: int) -> LayerNorm:
        """Of the block that begins with row ``first``."""
        block = self.z[first : first + self.rows].flatten(0, 1)
        key = ("norm", self.sample, first, self.rows)
        return LayerNorm(block, self.norm[0], self.norm[1], self.eps, self.dtype, self.saved, key)


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
