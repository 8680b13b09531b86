"""Before the first step: what trains, and a check that gradients reach it and nothing else.

Published ports of ESMFold detach the stem's output, so that an adapter on the stem trains without ever moving. Here a
rehearsal backward pass shows that each factor of the adapter gets a gradient: at step 0 those that start at zero (the
others are multiplied by them), and all others once the first are off zero.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

import lorta
from data_prep.files import errors
from pipeline.folding.model import PARTS, FoldingModel
from pipeline.folding.stem import parameter_hash
from pipeline.runs.checkpoint import local


class GradientPathError(errors.RunError):
    """A parameter that should move would not, or the other way round; the message is one line."""


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part of the model."""

    part: str
    total: int
    trainable: int


def count_parts(model: FoldingModel) -> list[PartCount]:
    """Parameters by part, in the order of the forward pass."""
    total = dict.fromkeys(PARTS, 0)
    trainable = dict.fromkeys(PARTS, 0)
    for part, _, parameter in model.named_parts():
        total[part] += parameter.numel()
        trainable[part] += parameter.numel() if parameter.requires_grad else 0
    return [PartCount(part, total[part], trainable[part]) for part in PARTS if total[part]]


@dataclass(frozen=True)
class FactorCheck:
    """Gradient norms of one factor of the adapter."""

    name: str
    shape: tuple[int, ...]
    starts_at_zero: bool
    gradient_at_start: float
    gradient_off_zero: float
    """After the factors that start at zero were set to small random values."""


def check_gradient_path(model: FoldingModel, loss: Callable[[], torch.Tensor], seed: int) -> list[FactorCheck]:
    """Rehearse two backward passes and leave the model exactly as it was.

    Args:
        model: at its initial weights.
        loss: forward pass on one batch; called twice, must be deterministic.
        seed: of the random values that the zero factors get for the second pass.

    Returns:
        One row per factor of the adapters; empty without one.

    Raises:
        GradientPathError: a factor without a finite non-zero gradient where it should have one, a frozen parameter
            with a gradient, or frozen parameters that changed.
    """
    factors = factors_of(model)
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    before = checksums(model.named_parameters())
    loss().backward()
    first = _norms(factors)
    for name, parameter in frozen:
        if parameter.grad is not None:
            raise GradientPathError(f"frozen parameter {name} got a gradient")
    # The stem's output must carry gradient even though factors other than the zero ones have none yet.
    checks: list[FactorCheck] = []
    if factors:
        zero = {f"{where}{name}" for where, adapter in _by_prefix(model) for name in adapter.zero_factors}
        zero &= set(factors)
        saved = {name: factors[name].detach().clone() for name in zero}
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name in sorted(zero):
                noise = torch.randn(factors[name].shape, generator=generator) * 1e-2
                factors[name].copy_(noise.to(factors[name]))
        model.zero_grad(set_to_none=True)
        loss().backward()
        second = _norms(factors)
        with torch.no_grad():
            for name, value in saved.items():
                factors[name].copy_(value)
        for name, parameter in factors.items():
            row = FactorCheck(name, tuple(parameter.shape), name in zero, first[name], second[name])
            checks.append(row)
            for passed, value in (("at the start", first[name]), ("with the zero factors off zero", second[name])):  # type: ignore[assignment]
                if (passed != "at the start" or row.starts_at_zero) and not 0 < value < float("inf"):
                    raise GradientPathError(
                        f"adapter factor {name} has gradient norm {value} {passed}: it cannot train"
                    )
    model.zero_grad(set_to_none=True)
    if checksums(model.named_parameters()) != before:
        raise GradientPathError("the rehearsal changed parameters; nothing was trained yet")
    return checks


@torch.no_grad()
def checksums(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int | str]:
    """A checksum of every tensor by its name: the exclusive or of all its elements' bits, taken on its device.

    It reads every element, so one that changes is seen however it was written, at the speed of the memory; for what is
    written down there is ``parameter_hash``, which also tells elements that have changed places.
    """
    sums: dict[str, int | str | torch.Tensor] = {}
    for name, parameter in parameters:
        own = local(parameter).detach()
        if own.device.type == "mps":  # which lacks the operator
            sums[name] = parameter_hash([(name, own)])
        elif own.numel():
            sums[name] = torch.hash_tensor(own).view(torch.int64)
    return {name: value if isinstance(value, str) else int(value) for name, value in sums.items()}


def frozen_checksums(model: FoldingModel) -> dict[str, int | str]:
    """``checksums`` of all parameters on this process that do not train; they must never change during a run."""
    return checksums((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def _by_prefix(model: FoldingModel) -> list[tuple[str, lorta.Adapter]]:
    return [("" if name == "stem" else f"{name}.", adapter) for name, adapter in model.adapters().items()]


def factors_of(model: FoldingModel) -> dict[str, torch.nn.Parameter]:
    """Trainable factors of all adapters by name; those on the trunk start with what they are on."""
    factors = {f"{where}{name}": p for where, adapter in _by_prefix(model) for name, p in adapter.factors().items()}
    return {name: parameter for name, parameter in factors.items() if parameter.requires_grad}


def _norms(factors: dict[str, torch.nn.Parameter]) -> dict[str, float]:
    return {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in factors.items()}


def report_parameters(parts: Sequence[PartCount], console: Console) -> None:
    """Parameters by part, one line each."""
    console.print("Parameters (trainable / all):")
    for part in parts:
        console.print(f"  {part.part:<17}{part.trainable:>13,} / {part.total:,}")
    console.print(f"  {'together':<17}{sum(p.trainable for p in parts):>13,} / {sum(p.total for p in parts):,}")


def report_gradient_check(checks: Sequence[FactorCheck], console: Console) -> None:
    """The gradient path, one line per factor."""
    if not checks:
        console.print("Gradient path: no adapter; frozen parameters get no gradient.")
        return
    console.print("Gradient path of the adapter (gradient norm at step 0, and with the zero factors off zero):")
    for check in checks[:12]:
        shape = " x ".join(str(n) for n in check.shape)
        console.print(
            f"  {check.name:<20}{shape:>12}{check.gradient_at_start:>12.3g}{check.gradient_off_zero:>12.3g}"
            f"{'   starts at zero' if check.starts_at_zero else ''}",
        )
    if len(checks) > 12:
        console.print(f"  and {len(checks) - 12} more factors, all with finite non-zero gradients where they should")
