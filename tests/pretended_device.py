"""A device that is not there: PyTorch with an accelerator ``pretended`` whose tensors are computed with on the CPU.

    python -m tests.pretended_device pipeline.train --device pretended ...

Runs a module as ``python -m`` does. As on a GPU, an operator that is given tensors of two devices is an error, but for
numbers (tensors without dimensions) and for indices; so a command that ends well puts every tensor where it belongs.
It says nothing of speed, memory, streams or autocast. PyTorch's hooks for a backend written in Python make the device
known to it (a process can do so once, and for good); a wrapper around each tensor carries its name.
"""

import contextlib
import runpy
import sys
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
MOVES = ("aten::_to_copy", "aten::copy_")
"""Operators that are there to take tensors of two devices."""


class OnDevice(Tensor):
    """A tensor of the device; ``inner`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(operator, args, kwargs or {})


def is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def compute(operator: Any, args: tuple, kwargs: dict) -> Any:
    """An operator on the CPU, with results on the device where its arguments are. RuntimeError: they are on both."""
    name = operator._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    indices = "index" in name and all(tensor.dtype in (torch.int64, torch.bool) for tensor in elsewhere)
    if here and elsewhere and name not in MOVES and not indices:
        shapes = [tuple(tensor.shape) for tensor in elsewhere]
        raise RuntimeError(f"{name}: expected all tensors on one device, found on the CPU too: {shapes}")
    device = kwargs.get("device")
    if name == "aten::copy_":
        stays = isinstance(args[0], OnDevice)
    else:
        stays = bool(here) if device is None else is_here(device)
    if is_here(device):
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnDevice) else leaf, (args, kwargs))
    result = operator(*plain_args, **plain_kwargs)
    if not stays:
        return result
    if torch.Tag.inplace_view in operator.tags:  # the wrapper changes its shape too
        with no_dispatch():
            operator(*args, **kwargs)
        return args[0]
    known = {id(tensor.inner): tensor for tensor in here}  # what an operator changed in place stays what it was

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else OnDevice(leaf)

    return tree_map(wrapped, result)


class Computed(TorchDispatchMode):
    """``compute`` for operators that make tensors out of nothing or move them, too."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(operator, args, kwargs or {})


class Made(TorchFunctionMode):
    """Tensors of Python's numbers, which PyTorch puts on a device without an operator that a mode sees."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and is_here(kwargs.get("device")):
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


class Backend(_DummyBackendModule):
    """What ``torch.pretended`` has."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class Nothing(contextlib.ContextDecorator):
    """Around a block or a function."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@contextlib.contextmanager
def pretended_device():
    """Within it there is a device ``pretended``."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch.__future__.set_swap_module_params_on_conversion(True)  # else a tied weight is two after ``.to``
    # Wrappers cannot be made in inference mode.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else Nothing()
    with Made(), Computed():
        yield


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    with pretended_device():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
