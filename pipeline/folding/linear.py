"""Linear maps of the trunk: AlphaFold's initialisations, and the weights of those that kernels compute with themselves.

The published ports of ESMFold leave most layers at PyTorch's or at N(0, 0.02) defaults. Residual branches that start
at zero, gates that start open and variance-preserving layers in between are what lets a trunk train from scratch
(Jumper et al. 2021, suppl. 1.11.4).
"""

import math

import torch
from torch import nn

from lorta.layer import AdaptedLinear

# Standard deviation of a unit normal truncated to [-2, 2]: dividing by it keeps the variance after truncation.
_TRUNCATED_STD = 0.87962566103423978


def _truncated_normal(weight: torch.Tensor, scale: float) -> None:
    std = math.sqrt(scale / weight.shape[1]) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(c_in: int, c_out: int, *, bias: bool = True, init: str = "lecun") -> nn.Linear:
    """A Linear layer with one of AlphaFold's initialisations.

    Args:
        c_in: input channels.
        c_out: output channels.
        bias: with a bias (0, except for ``init="gate"``).
        init: ``lecun`` (variance 1/c_in), ``relu`` (2/c_in, before a ReLU), ``glorot`` (queries, keys, values),
            ``gate`` (weight 0, bias 1: the sigmoid starts mostly open) or ``zero`` (last layer of a residual branch).
    """
    layer = nn.Linear(c_in, c_out, bias=bias)
    with torch.no_grad():
        if bias:
            layer.bias.fill_(1.0 if init == "gate" else 0.0)
        if init == "lecun":
            _truncated_normal(layer.weight, 1.0)
        elif init == "relu":
            _truncated_normal(layer.weight, 2.0)
        elif init == "glorot":
            nn.init.xavier_uniform_(layer.weight)
        elif init in ("gate", "zero"):
            layer.weight.zero_()
        else:
            raise ValueError(f"unknown initialisation {init!r}: one of lecun, relu, glorot, gate, zero")
    return layer


def weight_of(module: nn.Module) -> torch.Tensor:
    """The matrix [c_out, c_in] that ``module`` multiplies with, including the update of an adapter on it.

    The trunk's projections act on N x N pairs, beside which building a dense update of their small matrices costs
    nothing, while calling them one by one costs a pass over the pairs each.

    Raises:
        ValueError: the adapter drops out parts of its input, which no matrix does.
    """
    if not isinstance(module, AdaptedLinear):
        return module.get_parameter("weight")
    weight: torch.Tensor = module.base_layer.get_parameter("weight")
    if module.merged:
        return weight
    for adapter in module.adapters.active_adapters():
        if adapter.config.dropout and module.training:  # type: ignore[union-attr]
            raise ValueError(f"{module.name}: adapters of the trunk cannot have dropout, got {adapter.config.dropout}")  # type: ignore[union-attr]
        update = adapter.module_update(module.name, module.out_features)  # type: ignore[operator]
        if update is not None:
            weight = weight + update.dense().to(weight.dtype)
    return weight


def bias_of(module: nn.Module) -> torch.Tensor:
    """The bias [c_out] of a projection; adapters leave it alone."""
    return (module.base_layer if isinstance(module, AdaptedLinear) else module).get_parameter("bias")
