"""AlphaFold's weight initialisations (Jumper et al. 2021, suppl. 1.11.4).

The published ports of ESMFold leave most layers at PyTorch's or at N(0, 0.02) defaults. Residual branches that start
at zero, gates that start open and variance-preserving layers in between are what lets a trunk train from scratch.
"""

import math

import torch
from torch import nn

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
