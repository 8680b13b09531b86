"""Whether cuEquivariance computes the triangle updates of a trunk, or our own kernels do.

cuEquivariance's kernels exist for CUDA devices alone, in many variants by device, number format and size. So they are
used only after they have computed random cases on the device at hand, outputs and gradients, about as near to float64
as ours. That takes seconds, once per process, device, widths and number format.
"""

import importlib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.config.schema import ConfigError, Kernels, TrunkConfig
from pipeline.folding.kernels import cuequivariance
from pipeline.folding.kernels.common import UPDATE, Plan
from pipeline.folding.triangle import TriangleAttention, TriangleMultiplication

PACKAGES = ("cuequivariance_torch", "cuequivariance_ops_torch")
"""The functions, and the kernels behind them."""
EXTRA = "pip install 'lorta-fold[cuequivariance-cu13]' (with CUDA 12: cuequivariance-cu12)"

EXACT = 1e-4
"""Error of cuEquivariance, relative to float64, that is always accepted: products of three TF32 parts give 1e-6."""
FACTOR = 10.0
"""Errors up to so many times our own are accepted too, where TF32 is allowed or products are in bfloat16."""

PADDING = 9
"""Residues by which one of the chains that are compared is shorter."""


class KernelError(Exception):
    """cuEquivariance was asked for by name, and its kernels fail or compute something else; the message is one line."""


@dataclass(frozen=True)
class Selection:
    """What computes the triangle updates."""

    name: Literal["own", "cuequivariance"]
    said: str = ""
    """A line for the user; empty where there is nothing to say."""


OWN = Selection("own")


@dataclass(frozen=True)
class Error:
    """Of one kernel in one number format: distance from float64 relative to its norm, the worst of all tensors."""

    kernel: str
    dtype: torch.dtype
    own: float
    theirs: float

    @property
    def accepted(self) -> bool:
        """Whether cuEquivariance's is small enough; one that is no number is not."""
        return self.theirs <= max(EXACT, FACTOR * self.own)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.kernel} in {dtype} {self.theirs:.1e} (ours {self.own:.1e})"


def require(choice: Kernels, device: torch.device) -> None:
    """ConfigError where ``choice`` names cuEquivariance and it cannot be used on ``device``."""
    reason = unavailable(device) if choice == "cuequivariance" else ""
    if reason:
        raise _unusable(reason)


def unavailable(device: torch.device) -> str:
    """Why cuEquivariance cannot be used on ``device``; empty if it can."""
    if device.type != "cuda":
        return f"they need a CUDA device, and this one is {device.type}"
    if torch.are_deterministic_algorithms_enabled():
        return "training.deterministic allows only operators that are known to repeat to the bit"
    error = _import_error()
    if error is None:
        return ""
    if _is_absent(error):
        return f"{error.name} is not installed: {EXTRA}"
    return f"{_first_line(error)}: is the package that of your version of CUDA? {EXTRA}"


def select(choice: Kernels, device: torch.device, config: TrunkConfig, dtype: torch.dtype) -> Selection:
    """What computes the triangle updates of a trunk on ``device``; anything but CUDA: our own kernels.

    The first call for a device, widths and number format compares the two. With ``auto`` an installed cuEquivariance
    that is not used is a warning, once per reason.

    Args:
        choice: ``training.kernels``.
        device: of the representations.
        config: of the trunk.
        dtype: of matrix products; bfloat16 under autocast.

    Raises:
        ConfigError: named, and as ``require``, or it has no kernel for the widths of the trunk.
        KernelError: named, and the comparison failed.
    """
    if choice == "own" or device.type != "cuda":
        return OWN
    require(choice, device)
    width = config.pair_head_width if config.triangle_attention else 0
    if not _used(config.c_z, width, dtype):
        if choice == "cuequivariance":
            attention = f", no triangle attention with heads of {width}" if width else ""
            raise _unusable(f"it has no triangle multiplication of {config.c_z} channels{attention}")
        return OWN
    reason = unavailable(device)
    if reason:
        error = _import_error()
        if error is not None and not _is_absent(error):
            _warn(f"cuEquivariance is not used: {reason}")
        return OWN
    index = torch.cuda.current_device() if device.index is None else device.index
    said, failure = _judged(torch.device(device.type, index), config.c_z, width, dtype)
    if not failure:
        return Selection("cuequivariance", said)
    if choice == "cuequivariance":
        raise KernelError(f"{failure} (kernels 'auto' and 'own' go on without)")
    _warn(f"{failure}: going on with our own kernels")
    return OWN


def _unusable(reason: str) -> ConfigError:
    return ConfigError(f"kernels 'cuequivariance' cannot be used: {reason} (kernels 'auto' and 'own' do without)")


@cache
def _import_error() -> Exception | None:
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except Exception as error:  # of binary packages that do not fit there are many kinds
            return error
    return None


def _is_absent(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name in PACKAGES


@cache
def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=3)


@cache
def _judged(device: torch.device, c_z: int, width: int, dtype: torch.dtype) -> tuple[str, str]:
    """What to say of the comparison, and why it failed if it did."""
    name = f"cuEquivariance {getattr(cuequivariance.library(), '__version__', 'of unknown version')}"
    try:
        errors = list(compare(device, c_z, width, dtype))
    except Exception as error:  # whatever a foreign kernel raises
        return "", f"{name} fails on {device} ({_first_line(error)})"
    finally:
        torch.cuda.empty_cache()
    figures = "error relative to float64 " + ", ".join(map(str, errors))
    if not all(error.accepted for error in errors):
        return "", f"{name} and our kernels disagree on {device}: {figures}; allowed {EXACT:g} or {FACTOR:g} times ours"
    what = " and ".join(_used(c_z, width, dtype))
    return f"{name} computes triangle {what} of chains longer than {cuequivariance.SHORT} residues; {figures}", ""


@torch.inference_mode(False)
@torch.enable_grad()
def compare(device: torch.device, c_z: int, width: int, dtype: torch.dtype) -> Iterator[Error]:
    """Errors of the kernels that cuEquivariance has for these widths, in float32 and in ``dtype``.

    Two random chains, one of them padded. Compared are output, with gradients and without, and gradients of the input
    and of every parameter.

    Args:
        device: to compute on.
        c_z: channels of the pair representation.
        width: channels of an attention head; 0 without triangle attention.
        dtype: of matrix products.
    """
    for one in dict.fromkeys((torch.float32, dtype)):
        for kernel in _used(c_z, width, one):
            for first in (True, False):
                with torch.random.fork_rng(devices=[]):
                    if kernel == "multiplication":
                        module: nn.Module = TriangleMultiplication(c_z, c_z, outgoing=first)
                    else:
                        module = TriangleAttention(c_z, width, c_z // width, starting=first)
                variants = {"multiplication": ("outgoing", "incoming"), "attention": ("starting", "ending")}
                name = f"{variants[kernel][not first]} {kernel}"
                length = _length(cuequivariance.NARROW if kernel == "multiplication" else width)
                yield _error(name, module, c_z, length, device, one)


def _error(name: str, module: nn.Module, c_z: int, length: int, device: torch.device, dtype: torch.dtype) -> Error:
    """Of a module with random weights."""
    generator = torch.Generator().manual_seed(length)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for key, parameter in module.named_parameters():
        if parameter.dim() == 2:
            parameter.data = random(*parameter.shape) / parameter.shape[1] ** 0.5
        else:
            parameter.data = 0.3 * random(*parameter.shape) + ("norm" in key and key.endswith("weight"))
    module = module.to(device)
    z, cotangent = (random(2, length, length, c_z).to(device) for _ in range(2))
    real = torch.arange(length, device=device) < torch.tensor([[length], [length - PADDING]], device=device)
    mask = (real[:, :, None] & real[:, None, :]).float()

    def results(module: nn.Module, plan: Plan, dtype: torch.dtype) -> list[Tensor]:
        own = z.to(dtype if dtype is torch.float64 else torch.float32, copy=True).requires_grad_()
        pair_mask, weights = mask.to(own.dtype), (cotangent * mask[..., None]).to(own.dtype)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            trained = module(own, pair_mask, plan=plan)
            with torch.no_grad():
                predicted = module(own, pair_mask, plan=plan)
        inputs = (own, *module.parameters())
        with torch.autocast(device.type, enabled=False):  # a backward pass would be under that of the caller
            # materialize_grads: zeros where a kernel has no gradient.
            gradients = torch.autograd.grad((trained * weights).sum(), inputs, materialize_grads=True)
        # Where there is padding any number will do, but not what is none: other kernels multiply it by 0.
        outputs = [torch.where(mask[..., None] > 0, out, 0 * out).detach() for out in (trained, predicted)]
        return [tensor.double() for tensor in (*outputs, *gradients)]

    truth = results(deepcopy(module).double(), UPDATE, torch.float64)
    own, theirs = (results(module, plan, dtype) for plan in (UPDATE, Plan(cuequivariance=True)))

    def worst(found: list[Tensor]) -> float:
        distances = [(a - b).norm() / b.norm() for a, b in zip(found, truth, strict=True)]
        return float(torch.stack(distances).nan_to_num(nan=float("inf")).max())

    return Error(name, dtype, worst(own), worst(theirs))


def _length(width: int) -> int:
    """Residues that suffice for a kernel with heads of ``width`` channels."""
    return (cuequivariance.SHORT_NARROW if width < cuequivariance.NARROW else cuequivariance.SHORT) + 12


def _used(c_z: int, width: int, dtype: torch.dtype) -> list[str]:
    """The kernels that cuEquivariance has for long chains of these widths; ``width`` 0: no triangle attention."""
    used = []
    if cuequivariance.takes_multiplication(_length(cuequivariance.NARROW), c_z, c_z, dtype):
        used.append("multiplication")
    if width and cuequivariance.takes_attention(_length(width), width, dtype):
        used.append("attention")
    return used


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
