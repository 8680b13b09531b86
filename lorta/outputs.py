"""Insert: an adapter that acts on the outputs of modules. Behind: the wrapper that hands it these outputs.

BitFit and the bottlenecks do not update attention matrices, so they are no ``Factors``; they share the set of adapters,
the files and the switches with those that do.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lorta.insert_config import InsertConfig
from lorta.merging import Merging
from lorta.sites import base_linear

if TYPE_CHECKING:
    from lorta.attach import AdapterSet


class Insert(nn.Module, ABC):
    """All numbers of one adapter, registered once, like ``lorta.Adapter``. ``state_dict()`` is the whole adapter.

    Subclasses find their places in ``__init__`` and leave the model as it is. There is none at or below the paths
    ``exclude``.
    """

    constant: ClassVar[bool] = False
    """Whether it adds the same to every output of a module that has a bias, so that it can be merged into that."""

    def __init__(
        self,
        model: nn.Module,
        config: InsertConfig,
        device: torch.device,
        dtype: torch.dtype,
        exclude: tuple[str, ...] = (),
    ):
        super().__init__()
        self.config = config
        self._exclude = exclude

    def _may_follow(self, path: str) -> bool:
        return not any(path == outer or path.startswith(f"{outer}.") for outer in self._exclude)

    @abstractmethod
    def follow(self, path: str, y: Tensor) -> Tensor:
        """What comes after the module at ``path`` in place of its output ``y`` [..., width]."""

    @abstractmethod
    def places(self) -> dict[str, str]:
        """Path of every module that the adapter follows, and in words what it puts there; saved with the adapter."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw the initial numbers again, from ``config.seed``; the model computes what its base does."""

    @property
    @abstractmethod
    def zero_factors(self) -> tuple[str, ...]:
        """The parameters that start at zero."""

    def _generator(self) -> torch.Generator | None:
        seed = self.config.seed
        return None if seed is None else torch.Generator().manual_seed(seed)

    @property
    def modules_adapted(self) -> tuple[str, ...]:
        """Paths of the modules that the adapter follows, in order."""
        return tuple(self.places())

    def factors(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by their name in ``state_dict()``: all."""
        return dict(self.named_parameters())

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        """One line about the whole."""
        return f"{self.config.method}, {len(self.places())} places, {self.num_parameters()} parameters"


class Behind(Merging, nn.Module):
    """y = base(x), then every active adapter that has a place here, in the order in which they are active.

    It refers to the ``AdapterSet`` without registering it, as ``AdaptedLinear`` does and for the same reasons, and has
    no ``weight`` or ``bias``: code that reads them would bypass the adapter, and fails instead.
    """

    def __init__(self, base_layer: nn.Module, name: str, adapters: "AdapterSet"):
        super().__init__()
        self.base_layer = base_layer
        self.name = name
        self.__dict__["adapters"] = adapters  # past nn.Module.__setattr__, which would register it
        self.train(base_layer.training)

    def _parameter(self) -> Tensor:
        return base_linear(self.base_layer).bias

    def _added(self, parameter: Tensor, adapter: "Insert") -> Tensor:
        """Of an adapter that is ``constant``: what it makes of an output, it makes of the bias."""
        return adapter.follow(self.name, parameter)

    def forward(self, *args, **kwargs) -> Tensor:
        """Arguments are the base layer's."""
        y = self.base_layer(*args, **kwargs)
        if self.merged:
            return y
        for adapter in self.adapters.active_adapters():
            y = adapter.follow(self.name, y)
        return y
