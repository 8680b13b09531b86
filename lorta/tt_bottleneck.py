"""LoRETTA_adp (arXiv 2402.11417): Houlsby's bottlenecks with both projections as tensor trains."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorta.bottleneck import Bottleneck, Houlsby
from lorta.factors import fill, new_parameter, uniform
from lorta.insert_config import InsertConfig
from lorta.reparametrised import contract, modes_of


class TTBottleneck(Bottleneck):
    """D^T and U [d, m] are trains over three factors of d and two of m: 768 x 64 has the modes 8, 8, 12, 8, 8.

    The last core of U starts at 0; the cores of D have the variance that gives its elements 1/d.
    """

    zero = ("up.4", "up_bias")

    def _new_weights(self, width: int, config: InsertConfig, like: tuple[torch.device, torch.dtype]) -> None:
        modes = (*modes_of(width), *_pair_of(config.size))
        ranks = (1, *[config.tt_rank] * (len(modes) - 1), 1)
        self._paths = config.tt_rank ** (len(modes) - 1)  # products that add up to one element
        for name in ("down", "up"):
            cores = [new_parameter(ranks[i], mode, ranks[i + 1], like=like) for i, mode in enumerate(modes)]
            self.add_module(name, nn.ParameterList(cores))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Both trains contracted: D [m, d] and U [d, m], small beside the activations."""
        shape = (self.up_bias.shape[0], self.down_bias.shape[0])
        return contract(list(self.down)).reshape(shape).T, contract(list(self.up)).reshape(shape)

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """See the class."""
        width = self.up_bias.shape[0]
        for name, variance in (("down", 1 / width), ("up", 1.0)):
            cores = getattr(self, name)
            scale = (variance / self._paths) ** (0.5 / len(cores))
            for index, core in enumerate(cores):
                zero = f"{name}.{index}" in self.zero
                fill(core, torch.zeros(core.shape) if zero else torch.randn(core.shape, generator=generator) * scale)
        fill(self.down_bias, uniform(self.down_bias.shape, width**-0.5, generator))
        fill(self.up_bias, torch.zeros(self.up_bias.shape))


class LoRETTAAdp(Houlsby):
    """Two tensor-train bottlenecks per layer, with ReLU. Count 2 L (2 sum r_{i-1} k_i r_i + m + d)."""

    activation = staticmethod(functional.relu)
    bottleneck = TTBottleneck


def _pair_of(size: int) -> tuple[int, int]:
    """The two most equal factors of ``size``, in ascending order: 64 -> (8, 8)."""
    small = next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)
    return small, size // small
