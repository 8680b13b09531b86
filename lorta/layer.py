"""AdaptedLinear: a frozen Linear (or Conv1D) plus the factored updates of the active adapters."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from lorta.factors import SiteUpdate
from lorta.merging import Merging
from lorta.sites import features, is_conv1d

if TYPE_CHECKING:
    from lorta.attach import Adapter, AdapterSet


def apply_update(update: SiteUpdate, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out], through the thin factors.

    Products of a long and a thin matrix run 2 to 5 times faster on a CPU when the thin side comes first and is
    contiguous, so the inner activations are kept transposed, [k, tokens]; autograd's products inherit the layout.
    """
    rows = x.reshape(-1, x.shape[-1])  # [tokens, in]
    inner = update.down.to(x.dtype).contiguous() @ rows.T  # [k, tokens]
    if update.core is not None:
        inner = update.core.to(x.dtype) @ inner  # [m, tokens]
    return (inner.T @ update.up.to(x.dtype).T.contiguous()).view(*x.shape[:-1], update.up.shape[0])


class AdaptedLinear(Merging, nn.Module):
    """y = base(x) + (alpha/r) up(core(down(x))) for every active adapter that has a site here.

    The factors belong to the ``AdapterSet`` at the root of the model. The layer refers to it without registering
    it, so that each factor is one parameter with one name, whatever the number of sites (a second registration
    breaks FSDP2 and doubles ``parameters()`` of saved files). A deep copy of the model copies both consistently.

    It has no ``weight``: code that reads one would bypass the update, and fails instead.
    """

    def __init__(self, base_layer: nn.Module, name: str, adapters: "AdapterSet"):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = features(base_layer, name)
        self._transposed = is_conv1d(base_layer)  # its weight is [in, out]
        self.name = name
        self.__dict__["adapters"] = adapters  # past nn.Module.__setattr__, which would register it
        self.train(base_layer.training)

    def base_weight(self) -> Tensor:
        """The frozen weight, [out, in] or a Conv1D's [in, out], without any update, merged or not."""
        return self.base_layer.weight if self._unmerged is None else self._unmerged

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]. The update is computed in x's dtype from factors kept in theirs."""
        y = self.base_layer(x)
        if self._unmerged is not None:
            return y
        for adapter in self.adapters.active_adapters():
            update = adapter.module_update(self.name, self.out_features)
            if update is not None:
                dropped = functional.dropout(x, adapter.config.dropout, self.training) if adapter.config.dropout else x
                y = y + apply_update(update, dropped)
        return y

    def _parameter(self) -> Tensor:
        weight = self.base_layer.weight
        if not weight.is_floating_point():
            raise ValueError(f"{self.name} is quantised ({weight.dtype}); its adapter cannot be merged")
        return weight

    def _added(self, parameter: Tensor, adapter: "Adapter") -> Tensor:
        update = adapter.module_update(self.name, self.out_features)
        if update is None:
            return parameter
        delta = update.dense().to(parameter)
        return parameter + (delta.T if self._transposed else delta)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name == "weight":
            raise AttributeError(
                f"{self.__dict__.get('name')} is adapted and has no weight of its own; call the module, "
                "or read base_weight() for the frozen part"
            )
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """The state that the children do not show."""
        return f"merged={self.merged}"
