"""Bottleneck adapters behind the attention and the feed-forward of a layer: Houlsby and Pfeiffer.

y + U f(D y + a) + b, with D [m, d] and U [d, m]: 2 d m + m + d numbers. It stands behind the last linear module of the
sublayer, before the residual is added and, in models that drop out there (BERT), before the dropout, where the sources
have it behind. U and b start at 0, the rest as torch's Linear: the sources start near the identity, this one on it.
LayerNorms, which the sources train too, stay frozen: set ``requires_grad`` on them after ``attach``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorta.factors import fill, new_parameter, uniform
from lorta.insert import Insert
from lorta.insert_config import InsertConfig
from lorta.sublayers import SublayerEnd, sublayer_ends


class Bottleneck(nn.Module):
    """One bottleneck of inner width ``config.size``."""

    zero: tuple[str, ...] = ("up", "up_bias")

    def __init__(
        self,
        width: int,
        config: InsertConfig,
        activation: Callable[[Tensor], Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.activation = activation
        self.down_bias = new_parameter(config.size, like=(device, dtype))
        self.up_bias = new_parameter(width, like=(device, dtype))
        self._new_weights(width, config, (device, dtype))

    def _new_weights(self, width: int, config: InsertConfig, like: tuple[torch.device, torch.dtype]) -> None:
        self.down = new_parameter(config.size, width, like=like)
        self.up = new_parameter(width, config.size, like=like)

    def weights(self) -> tuple[Tensor, Tensor]:
        """D [m, d] and U [d, m]."""
        return self.down, self.up

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """See the module."""
        bound = self.up_bias.shape[0] ** -0.5
        fill(self.down, uniform(self.down.shape, bound, generator))
        fill(self.down_bias, uniform(self.down_bias.shape, bound, generator))
        fill(self.up, torch.zeros(self.up.shape))
        fill(self.up_bias, torch.zeros(self.up_bias.shape))

    def forward(self, y: Tensor) -> Tensor:
        """y [..., d] -> [..., d], in y's dtype."""
        down, up = self.weights()
        inner = self.activation(functional.linear(y, down.to(y.dtype), self.down_bias.to(y.dtype)))
        return y + functional.linear(inner, up.to(y.dtype), self.up_bias.to(y.dtype))


class Houlsby(Insert):
    """Houlsby et al. (arXiv 1902.00751): two per layer, behind attention and feed-forward, with GELU.

    Count 2 L (2 d m + m + d).
    """

    activation: Callable[[Tensor], Tensor] = staticmethod(functional.gelu)
    bottleneck: type[Bottleneck] = Bottleneck

    def __init__(
        self,
        model: nn.Module,
        config: InsertConfig,
        device: torch.device,
        dtype: torch.dtype,
        exclude: tuple[str, ...] = (),
    ):
        super().__init__(model, config, device, dtype, exclude)
        ends = sublayer_ends(model)
        self._ends = {end.path: end for end in ends if self._has(end) and self._may_follow(end.path)}
        if not self._ends:
            raise ValueError(f"drop={config.drop} leaves no layer of this {type(model).__name__} a bottleneck")
        self.dropped = 0
        self.bottlenecks = nn.ModuleDict(
            {
                f"layer{end.layer}_{end.kind}": self.bottleneck(end.width, config, self.activation, device, dtype)
                for end in self._ends.values()
            }
        )
        self.reset_parameters()

    def _has(self, end: SublayerEnd) -> bool:
        """Whether there is a bottleneck at ``end``."""
        return True

    def reset_parameters(self) -> None:
        """See ``Insert``."""
        generator = self._generator()
        for bottleneck in self.bottlenecks.values():
            bottleneck.reset_parameters(generator)

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """U and b; of a tensor train, its last core."""
        return tuple(f"bottlenecks.{key}.{name}" for key, part in self.bottlenecks.items() for name in part.zero)

    def follow(self, path: str, y: Tensor) -> Tensor:
        """The bottleneck behind ``path``, unless its layer is dropped."""
        end = self._ends.get(path)
        if end is None or end.layer < self.dropped:
            return y
        return self.bottlenecks[f"layer{end.layer}_{end.kind}"](y)

    def places(self) -> dict[str, str]:
        """See ``Insert``."""
        return {path: f"{end.kind} of layer {end.layer}, {end.width} wide" for path, end in self._ends.items()}


class Pfeiffer(Houlsby):
    """Pfeiffer et al. (arXiv 2005.00247): one per layer, behind the feed-forward, with ReLU.

    Count L (2 d m + m + d).
    """

    activation = staticmethod(functional.relu)

    def _has(self, end: SublayerEnd) -> bool:
        return end.kind == "feedforward"
