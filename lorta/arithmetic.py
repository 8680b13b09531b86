"""Sums, multiples and approximations of adapters, in their factors: no dense update is built.

    both = lorta.combine(adapter_a, adapter_b, weights=(0.5, 0.5))      # rank r_a + r_b, exactly the weighted sum
    less = lorta.scale(adapter, 0.5)
    small, error = lorta.compress(both, r=8)
    lorta.install(model, small, "merged")                               # then active on the model, and savable

Two CP tensors add up by having their components side by side, and so do two pairs B A. The adapters stay as they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorta.config import LortaConfig
from lorta.cp import BALANCED, CP
from lorta.layer import Adapter, WeightAdapter

COMPONENTS = ("lorta", "lora")
"""Methods that are sums of components."""


def combine(*adapters: Adapter, weights: Sequence[float] | None = None) -> WeightAdapter:
    """Return the sum of ``adapters`` times ``weights`` (default: 1 each), whose rank is the sum of their ranks.

    Its scale is 1 and all its factors train. Raises ValueError: adapters of other methods than ``lorta`` and ``lora``,
    or such as differ in method, modes, axis or sites.
    """
    if not adapters:
        raise ValueError("combine needs at least one adapter")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"combine got {len(adapters)} adapters and {len(weights)} weights: give one for each")
    given = [_of_components(adapter) for adapter in adapters]
    first = given[0]
    for adapter in given:
        _check_alike(first, adapter)
    total = _blank(first, sum(adapter.config.r for adapter in given))
    with torch.no_grad():
        for key, factors in total.groups():
            for name, parameter in factors.named_parameters():
                axis = 0 if first.config.method == "lora" and name == "A" else 1
                parts = []
                for adapter, weight in zip(given, weights, strict=True):
                    part = adapter.get_parameter(f"tensors.{key}.{name}").to(parameter)
                    if name in factors.zero:  # the one factor that takes weight, scale and gain
                        part = part * (weight * adapter.config.scaling * _gain(adapter, key) / _gain(total, key))
                    parts.append(part)
                parameter.copy_(torch.cat(parts, axis))
    return total


def scale(adapter: Adapter, factor: float) -> WeightAdapter:
    """Return ``adapter`` with its update times ``factor``, of the same rank. Raises ValueError as ``combine``."""
    return combine(adapter, weights=(factor,))


def compress(adapter: Adapter, r: int, *, sweeps: int = 500, tolerance: float = 1e-10) -> tuple[WeightAdapter, float]:
    """Return a LoRTA adapter of the lower rank ``r`` and its relative error, by alternating least squares.

    The error is ||T - T'|| / ||T|| of the CP tensor (of several, of all together), 0 to 1: of the dense updates, where
    no queries are grouped and no slice is cut. Sweeps end when it falls by less than ``tolerance``; it depends on the
    start, r large and different components, and need not be the least. Raises ValueError: another method, no lower
    rank.
    """
    large = _of_components(adapter)
    if large.config.method != "lorta":
        raise ValueError(f"compress is for 'lorta', not for {large.config.method!r}, which has no tensor")
    if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r < large.config.r:
        raise ValueError(f"r must be a whole number from 1 to {large.config.r - 1}, below the rank there is, got {r!r}")
    small = _blank(large, r)
    lost = whole = 0.0
    with torch.no_grad():
        for key, factors in small.groups():
            names = [name for name, _ in factors.named_parameters()]
            given = [large.get_parameter(f"tensors.{key}.{name}").double() for name in names]
            given[0] = given[0] * large.config.scaling * _gain(large, key)
            found, square_error, square = _fit(given, r, sweeps, tolerance)
            lost, whole = lost + square_error, whole + square
            size = BALANCED if small.config.init == "balanced" else 1.0
            for index, factor in enumerate(found[1:], 1):  # A, the first, takes what the others' sizes leave
                norms = factor.square().mean(0).sqrt().clamp_min(1e-300)
                found[index] = factor / norms * size
                found[0] = found[0] * (norms / size)
            found[0] = found[0] / _gain(small, key)
            for name, factor in zip(names, found, strict=True):
                factors.get_parameter(name).copy_(factor)
    return small, (lost / whole) ** 0.5 if whole else 0.0


def _fit(given: list[Tensor], r: int, sweeps: int, tolerance: float) -> tuple[list[Tensor], float, float]:
    """Return the CP tensor of rank r near the one with the factors ``given`` [n_i, R], its squared error, and ||T||^2.

    Inner products of two CP tensors are products of small Gram matrices, so no tensor is built.
    """
    gram = _products(given, given)  # inner products of the components
    square = gram.sum().item()
    chosen: list[int] = []
    for _ in range(r):  # the largest component, each time beside what the chosen ones span
        best = int(gram.diagonal().argmax())
        chosen.append(best)
        gram = gram - torch.outer(gram[:, best], gram[best]) / gram[best, best].clamp_min(1e-300)
    found = [factor[:, chosen].clone() for factor in given]
    before = float("inf")
    for _ in range(sweeps):
        for mode, factor in enumerate(given):
            cross, own = _products(given, found, mode), _products(found, found, mode)
            found[mode] = factor @ cross @ torch.linalg.pinv(own, hermitian=True)
        error = square - 2 * _products(given, found).sum().item() + _products(found, found).sum().item()
        if before - error <= tolerance * square:
            break
        before = error
    return found, max(error, 0.0), square


def _products(first: list[Tensor], second: list[Tensor], without: int | None = None) -> Tensor:
    """Return the product over the modes, but ``without``, of first_i^T second_i."""
    grams = [a.T @ b for mode, (a, b) in enumerate(zip(first, second, strict=True)) if mode != without]
    return torch.stack(grams).prod(0)


def _gain(adapter: WeightAdapter, key: str) -> float:
    factors = adapter.tensors[key]
    return factors.gain if isinstance(factors, CP) else 1.0


def _blank(like: WeightAdapter, r: int) -> WeightAdapter:
    """Return an adapter of rank ``r`` on the sites of ``like``, of scale 1."""
    parameter = next(like.parameters())
    config = LortaConfig(**like.config.settings() | {"r": r, "alpha": float(r), "freeze": (), "seed": 0})
    return WeightAdapter(config, list(like.sites.values()), parameter.device, parameter.dtype)


def _of_components(adapter: Adapter) -> WeightAdapter:
    if not isinstance(adapter, WeightAdapter) or adapter.config.method not in COMPONENTS:
        method = adapter.config.method
        raise ValueError(f"{method!r} has no components to put side by side; {' and '.join(COMPONENTS)} have")
    return adapter


def _check_alike(first: WeightAdapter, other: WeightAdapter) -> None:
    for name in ("method", "modes", "axis"):
        if getattr(first.config, name) != getattr(other.config, name):
            here, there = getattr(first.config, name), getattr(other.config, name)
            raise ValueError(
                f"the adapters differ in {name}, {here!r} and {there!r}: export them to LoRA to combine them"
            )
    for site, what in sorted(set(first.places().items()) ^ set(other.places().items())):
        raise ValueError(f"the adapters are for different matrices: only one has {site} ({what})")
