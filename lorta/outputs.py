"""Adapters that act on the outputs of modules: BitFit and the bottlenecks of Houlsby, Pfeiffer, AdapterDrop, LoRETTA.

They do not update weights, so they have no ``Factors``; they share the set of adapters, the files and the switches with
those that do.

A bottleneck is y + U f(D y + a) + b, with D [m, d] and U [d, m]: 2 d m + m + d parameters. It follows the last linear
module of the sublayer, before the residual is added and, in models that drop out there (BERT), before the dropout,
where the sources have it behind. U and b start at 0, the rest as torch's Linear: the sources start near the identity,
this one on it. LayerNorms, which the sources train too, stay frozen: set ``requires_grad`` on them after ``attach``.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorta.config import OutputAdapterConfig
from lorta.factors import fill, new_parameter, uniform
from lorta.layer import AdaptedModule, Adapter
from lorta.pairs import contract, modes_of, new_train, train_scale
from lorta.sites import FEED_FORWARDS, base_linear, features, feed_forward, find_sites, is_conv1d


class OutputAdapter(Adapter):
    """An adapter that acts on outputs. Subclasses find their places in ``__init__`` and leave the model as it is.

    There is none at or below the paths ``exclude``.
    """

    config: OutputAdapterConfig
    constant: ClassVar[bool] = False
    """Whether it adds the same to every output of a module that has a bias, so that it can be merged into that."""

    def __init__(
        self,
        model: nn.Module,
        config: OutputAdapterConfig,
        device: torch.device,
        dtype: torch.dtype,
        exclude: tuple[str, ...] = (),
    ):
        super().__init__()
        self.config = config
        self._like = device, dtype
        self._exclude = exclude
        self._find(model)
        self.reset_parameters()

    @abstractmethod
    def _find(self, model: nn.Module) -> None:
        """Find the places in ``model`` and create the parameters for them."""

    def _may_follow(self, path: str) -> bool:
        return not any(path == outer or path.startswith(f"{outer}.") for outer in self._exclude)

    @abstractmethod
    def follow(self, path: str, y: Tensor) -> Tensor:
        """Return what takes the place of the output ``y`` [..., width] of the module at ``path``."""

    @property
    def modules_adapted(self) -> tuple[str, ...]:
        """See ``Adapter``."""
        return tuple(self.places())

    def extra_repr(self) -> str:
        """Return one line about the whole."""
        return f"{self.config.method}, {len(self.places())} places, {self.num_parameters()} parameters"


class AdaptedOutput(AdaptedModule):
    """y = base(x), then every active adapter that has a place here, in the order in which they are active."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take the base layer's arguments."""
        y = self.base_layer(*args, **kwargs)
        if self._unmerged is not None:
            return y
        for adapter in self.adapters.active_adapters():
            y = self.added(y, adapter)
        return y

    def mergeable(self) -> Tensor:
        """See ``AdaptedModule``."""
        return base_linear(self.base_layer).get_parameter("bias")

    def added(self, parameter: Tensor, adapter: Adapter) -> Tensor:
        """Return what ``adapter`` makes of an output or, if it is ``constant``, of the bias."""
        return adapter.follow(self.name, parameter) if isinstance(adapter, OutputAdapter) else parameter


class BitFit(OutputAdapter):
    """BitFit (arXiv 2106.10199): only biases train. Here as their change, added to the outputs: the base stays.

    One vector per bias, at 0 at the start: for Linear, Conv1D and LayerNorm, b + v in the module is v behind it.
    Adam moves v exactly as it would move b; weight decay pulls b to its pretrained value, not to 0. A bias that a
    module of another kind adds itself (``lm_head.bias`` of fair-esm) belongs to a head and stays fixed.
    Count: the sum of the widths.
    """

    constant = True

    def _find(self, model: nn.Module) -> None:
        self._widths: dict[str, int] = {}
        for path, module in model.named_modules():
            base = base_linear(module)
            known = isinstance(base, (nn.Linear, nn.LayerNorm)) or is_conv1d(base)
            # the inside of a wrapper of another adapter is the same module once more
            if known and base.bias is not None and path.rpartition(".")[2] != "base_layer" and self._may_follow(path):
                self._widths[path] = base.get_parameter("bias").shape[0]
        if not self._widths:
            raise ValueError(f"{type(model).__name__} has no Linear, Conv1D or LayerNorm with a bias; bitfit needs one")
        self.bias = nn.ParameterDict(
            {_without_dots(path): new_parameter(width, like=self._like) for path, width in self._widths.items()}
        )

    def reset_parameters(self) -> None:
        """See ``Adapter``."""
        for parameter in self.parameters():
            fill(parameter, torch.zeros(parameter.shape))

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """See ``Adapter``: all."""
        return tuple(self.factors())

    def follow(self, path: str, y: Tensor) -> Tensor:
        """Return y + v."""
        return y + self.bias[_without_dots(path)].to(y.dtype) if path in self._widths else y

    def places(self) -> dict[str, str]:
        """See ``Adapter``."""
        return {path: f"bias of {width}" for path, width in self._widths.items()}


def _without_dots(path: str) -> str:
    return path.replace(".", "/")  # names of parameters hold no dot


class Bottleneck(nn.Module):
    """One bottleneck of inner width ``config.size``."""

    zero: tuple[str, ...] = ("up", "up_bias")

    def __init__(
        self,
        width: int,
        config: OutputAdapterConfig,
        activation: Callable[[Tensor], Tensor],
        like: tuple[torch.device, torch.dtype],
    ):
        super().__init__()
        assert config.size is not None
        self.activation = activation
        self.down_bias = new_parameter(config.size, like=like)
        self.up_bias = new_parameter(width, like=like)
        self._new_weights(width, config.size, config.tt_rank, like)

    def _new_weights(self, width: int, size: int, rank: int | None, like: tuple[torch.device, torch.dtype]) -> None:
        self.down = new_parameter(size, width, like=like)
        self.up = new_parameter(width, size, like=like)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return D [m, d] and U [d, m]."""
        return self.down, self.up

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """See the module."""
        bound = self.up_bias.shape[0] ** -0.5
        fill(self.down, uniform(self.down.shape, bound, generator))
        fill(self.down_bias, uniform(self.down_bias.shape, bound, generator))
        fill(self.up, torch.zeros(self.up.shape))
        fill(self.up_bias, torch.zeros(self.up_bias.shape))

    def forward(self, y: Tensor) -> Tensor:
        """Return [..., d] of y [..., d], in y's dtype."""
        down, up = self.weights()
        inner = self.activation(functional.linear(y, down.to(y.dtype), self.down_bias.to(y.dtype)))
        return y + functional.linear(inner, up.to(y.dtype), self.up_bias.to(y.dtype))


class TTBottleneck(Bottleneck):
    """A bottleneck whose D^T and U [d, m] are tensor trains over three factors of d and two of m.

    768 x 64 has the modes 8, 8, 12, 8, 8. The last core of U starts at 0; the cores of D have the variance that gives
    its elements 1/d.
    """

    zero = ("up.4", "up_bias")
    down: nn.ParameterList  # type: ignore[assignment]  # in place of the one matrix
    up: nn.ParameterList  # type: ignore[assignment]

    def _new_weights(self, width: int, size: int, rank: int | None, like: tuple[torch.device, torch.dtype]) -> None:
        assert rank is not None
        small = next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)  # the most equal factors of size
        modes = (*modes_of(width), small, size // small)
        self.down, self.up = new_train(modes, rank, like), new_train(modes, rank, like)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return both trains contracted: D [m, d] and U [d, m], small beside the activations."""
        shape = (self.up_bias.shape[0], self.down_bias.shape[0])
        return contract(self.down).reshape(shape).T, contract(self.up).reshape(shape)

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """See the class."""
        width = self.up_bias.shape[0]
        for name, cores, variance in (("down", self.down, 1 / width), ("up", self.up, 1.0)):
            scale = train_scale(cores, variance)
            for index, core in enumerate(cores):
                zero = f"{name}.{index}" in self.zero
                fill(core, torch.zeros(core.shape) if zero else torch.randn(core.shape, generator=generator) * scale)
        fill(self.down_bias, uniform(self.down_bias.shape, width**-0.5, generator))
        fill(self.up_bias, torch.zeros(self.up_bias.shape))


@dataclass(frozen=True)
class SublayerEnd:
    """The last linear module of a sublayer, whose output is added to the residual stream."""

    path: str
    layer: int
    kind: str
    """``attention`` or ``feedforward``."""
    width: int
    """Its outputs."""


def sublayer_ends(model: nn.Module) -> Iterator[SublayerEnd]:
    """Yield both ends of every layer, in order. ``ValueError``: a layer has no feed-forward of a known name."""
    modules = dict(model.named_modules())
    seen = set()
    for site in find_sites(model, ("o",)):
        path = (feed_forward(modules, site.module) or {}).get("down")
        if path is None or path in seen:
            known = ", ".join(dict.fromkeys(tails["down"] for tails in FEED_FORWARDS))
            raise ValueError(f"no feed-forward found beside {site.module}; known names are {known}")
        seen.add(path)
        for kind, end in (("attention", site.module), ("feedforward", path)):
            yield SublayerEnd(end, site.layer, kind, features(modules[end], end)[1])


class Houlsby(OutputAdapter):
    """Houlsby et al. (arXiv 1902.00751): two bottlenecks per layer, after attention and feed-forward, with GELU.

    Count 2 L (2 d m + m + d).
    """

    activation: Callable[[Tensor], Tensor] = staticmethod(functional.gelu)
    bottleneck: type[Bottleneck] = Bottleneck

    def _find(self, model: nn.Module) -> None:
        ends = list(sublayer_ends(model))
        self._ends = {end.path: end for end in ends if self._has(end) and self._may_follow(end.path)}
        if not self._ends:
            drop = self.config.drop
            raise ValueError(f"drop={drop} leaves no layer of this {type(model).__name__} a bottleneck")
        self.dropped = 0
        self.bottlenecks = nn.ModuleDict(
            {
                f"layer{end.layer}_{end.kind}": self.bottleneck(end.width, self.config, self.activation, self._like)
                for end in self._ends.values()
            }
        )

    def _has(self, end: SublayerEnd) -> bool:
        """Return whether there is a bottleneck at ``end``."""
        return True

    def _parts(self) -> Iterable[tuple[str, Bottleneck]]:
        return ((key, part) for key, part in self.bottlenecks.items() if isinstance(part, Bottleneck))

    def reset_parameters(self) -> None:
        """See ``Adapter``."""
        generator = self.generator()
        for _, part in self._parts():
            part.reset_parameters(generator)

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """See ``Adapter``: U and b; of a tensor train, its last core."""
        return tuple(f"bottlenecks.{key}.{name}" for key, part in self._parts() for name in part.zero)

    def follow(self, path: str, y: Tensor) -> Tensor:
        """Apply the bottleneck behind ``path``, unless its layer is dropped."""
        end = self._ends.get(path)
        if end is None or end.layer < self.dropped:
            return y
        return self.bottlenecks[f"layer{end.layer}_{end.kind}"](y)

    def places(self) -> dict[str, str]:
        """See ``Adapter``."""
        return {path: f"{end.kind} of layer {end.layer}, {end.width} wide" for path, end in self._ends.items()}


class Pfeiffer(Houlsby):
    """Pfeiffer et al. (arXiv 2005.00247): one per layer, after the feed-forward, with ReLU. Count L (2 d m + m + d)."""

    activation = staticmethod(functional.relu)

    def _has(self, end: SublayerEnd) -> bool:
        return end.kind == "feedforward"


class AdapterDrop(Pfeiffer):
    """AdapterDrop (arXiv 2010.11918): no bottlenecks in the lower ``drop`` layers, nor a backward pass through them.

    The paper's specialised form: Pfeiffer's bottlenecks in the others, in training too. Count (L - drop) (2 d m + m +
    d).
    """

    def _has(self, end: SublayerEnd) -> bool:
        return super()._has(end) and end.layer >= (self.config.drop or 0)


class LoRETTAAdp(Houlsby):
    """LoRETTA_adp (arXiv 2402.11417): two tensor-train bottlenecks per layer, with ReLU.

    Count 2 L (2 sum r_{i-1} k_i r_i + m + d).
    """

    activation = staticmethod(functional.relu)
    bottleneck = TTBottleneck


def drop_lower(adapter: Adapter, layers: int) -> None:
    """Let the bottlenecks of ``adapter``, of any method, rest in the lower ``layers`` layers from now on; 0 wakes all.

    With another number before every training step, drawn from 0 to L - 1, this is AdapterDrop's robust form, whose
    adapter serves any number at inference. Raises ``ValueError`` for an adapter without bottlenecks.
    """
    if not isinstance(adapter, Houlsby):
        raise ValueError(f"{adapter.config.method!r} has no bottlenecks to drop")
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
        raise ValueError(f"layers must be a whole number of at least 0, got {layers!r}")
    adapter.dropped = layers


OUTPUT_ADAPTERS: dict[str, type[OutputAdapter]] = {
    "bitfit": BitFit,
    "houlsby": Houlsby,
    "pfeiffer": Pfeiffer,
    "adapterdrop": AdapterDrop,
    "loretta-adp": LoRETTAAdp,
}
"""The classes by name; ``OUTPUT_METHODS`` of ``lorta.config`` has their settings."""
