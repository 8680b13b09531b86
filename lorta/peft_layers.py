"""What the PEFT tuner puts into a model: the layers of ``lorta`` with the switches of a PEFT layer.

What is active is a state of the ``AdapterSet`` that all layers share, so each switch acts on the whole model.
"""

from collections.abc import Sequence

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from lorta.attach import AdapterSet
from lorta.insert import Behind
from lorta.layer import AdaptedLinear


class SharedSwitches(BaseTunerLayer):
    """The switches; ``self.adapters`` is the ``AdapterSet`` and ``self.name`` the path of the layer."""

    adapters: AdapterSet
    name: str

    @property
    def active_adapter(self) -> list[str]:
        """Names of the adapters that act."""
        return list(self.adapters.active)

    @property
    def disable_adapters(self) -> bool:
        """Whether the layer is its base."""
        return not self.adapters.enabled

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        """Activate the named adapters; they train unless ``inference_mode``, and the others do not."""
        names = (adapter_names,) if isinstance(adapter_names, str) else tuple(adapter_names)
        self.adapters.active = names
        for name in self.adapters:
            self.set_requires_grad(name, name in names and not inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Let the factors of the named adapters train or not; those that the method fixes never do."""
        for name in (adapter_names,) if isinstance(adapter_names, str) else adapter_names:
            for factor in self.adapters[name].factors().values():
                factor.requires_grad_(requires_grad)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off. Off unmerges first, so that the layer really is its base."""
        if not enabled and self.merged:
            self.unmerge()
        self.adapters.enabled = enabled

    def _get_available_adapters(self) -> set[str]:
        return {name for name, adapter in self.adapters.items() if self.name in adapter.modules_adapted}

    def _all_available_adapter_names(self) -> list[str]:
        return sorted(self.adapters)


class LortaLayer(AdaptedLinear, SharedSwitches):
    """An attention projection with updates."""

    def __init__(self, base_layer: nn.Module, name: str, adapters: AdapterSet):
        super().__init__(base_layer, name, adapters)
        self.merged_adapters = []

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the named updates (default: the active ones) to the weight; non-finite ones are always refused."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.adapters]
        names = [name for name in names if self.name in self.adapters[name].modules_adapted]
        if names:
            self._add_to_base([self.adapters[name] for name in names])
            self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put back the very weight that was there before the first merge."""
        if self.merged:
            super().unmerge()
            self.merged_adapters.clear()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW in the weight's own layout, for PEFT's conversion to LoRA."""
        update = self.adapters[adapter].module_update(self.name, self.out_features)
        if update is None:  # another adapter has its place here
            return torch.zeros_like(self.base_weight())
        return update.dense().T if self._transposed else update.dense()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Updates are sums to the weight."""
        return True


class InsertLayer(Behind, SharedSwitches):
    """A module with something behind it; never merged, because that is no update of its weight."""

    def __init__(self, base_layer: nn.Module, name: str, adapters: AdapterSet):
        super().__init__(base_layer, name, adapters)
        self.merged_adapters = []

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused; ``unload`` takes the adapter off."""
        methods = {adapter.config.method for adapter in self.adapters.values()}
        raise ValueError(
            f"{', '.join(sorted(methods))} acts behind modules and cannot be merged; unload() takes it off"
        )

    def unmerge(self) -> None:
        """Nothing is merged."""
