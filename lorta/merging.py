"""Putting what adapters do to one layer into a parameter of it, and taking it out again."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lorta.attach import Adapter, AdapterSet


class Merging:
    """Of a wrapper around a layer: one parameter of the layer can hold what the active adapters add."""

    name: str
    adapters: "AdapterSet"
    _unmerged: Tensor | None = None

    @property
    def merged(self) -> bool:
        """Whether the base layer holds what the adapters add now."""
        return self._unmerged is not None

    @abstractmethod
    def _parameter(self) -> Tensor:
        """The one that is changed. ValueError: it cannot be."""

    @abstractmethod
    def _added(self, parameter: Tensor, adapter: "Adapter") -> Tensor:
        """``parameter``, float32 at least, with what one adapter adds."""

    @torch.no_grad()
    def merge(self) -> None:
        """Add the active updates to the base layer, in float32 at least; what was there is kept for ``unmerge``."""
        if self.merged:
            raise ValueError(f"{self.name} is merged already; unmerge first")
        self._add_to_base(self.adapters.active_adapters())

    def _add_to_base(self, adapters: "list[Adapter]") -> None:
        parameter = self._parameter()
        merged = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
        for adapter in adapters:
            merged = self._added(merged, adapter)
        if not torch.isfinite(merged).all():
            raise ValueError(f"{self.name}: the update is not finite; nothing was merged here")
        if self._unmerged is None:
            self._unmerged = parameter.detach().clone()
        parameter.copy_(merged)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back the very numbers that ``merge`` found, bit by bit."""
        if self._unmerged is None:
            raise ValueError(f"{self.name} is not merged")
        self._parameter().copy_(self._unmerged)
        self._unmerged = None
