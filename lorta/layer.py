"""Adapters, the set of them that a model has, and the layers through which they act.

The factors of an adapter belong to the ``AdapterSet`` at the root of the model. A layer refers to the set without
registering it, so that each factor is one parameter with one name, whatever the number of sites (a second registration
breaks FSDP2 and doubles ``parameters()`` of saved files). A deep copy of the model copies both consistently.
"""

from abc import ABC, abstractmethod
from collections.abc import ItemsView, Iterable, Iterator, ValuesView
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorta.config import LortaConfig, OutputAdapterConfig
from lorta.factors import Factors, SiteUpdate, stack
from lorta.methods import FACTORS
from lorta.sites import Site, features, is_conv1d


class Adapter(nn.Module, ABC):
    """All parameters of one adapter, registered once. ``state_dict()`` is the whole adapter."""

    config: LortaConfig | OutputAdapterConfig

    @abstractmethod
    def places(self) -> dict[str, str]:
        """Return the name of every place that it changes, and the place in words; saved with the adapter."""

    @property
    @abstractmethod
    def modules_adapted(self) -> tuple[str, ...]:
        """Paths of the modules that it changes, in order."""

    @property
    @abstractmethod
    def zero_factors(self) -> tuple[str, ...]:
        """Factors that start at zero. At step 0 of a fresh adapter they alone have a non-zero gradient;
        all others have one as soon as these are off zero."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draw the initial factors again, from ``config.seed``; the model computes what its base does."""

    def factors(self) -> dict[str, nn.Parameter]:
        """Return the trainable factors by their name in ``state_dict()``, e.g. ``tensors.all.A``.

        Those that the method or the config keeps fixed are left out; one that somebody froze later is still there.
        """
        return dict(self.named_parameters())

    def num_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.factors().values())

    def generator(self) -> torch.Generator | None:
        """Return the source of the initial factors; None is torch's global one."""
        return None if self.config.seed is None else torch.Generator().manual_seed(self.config.seed)


class AdapterSet(nn.ModuleDict):
    """The adapters of one model by name, and which of them act."""

    def __init__(self) -> None:
        super().__init__()
        self.active: tuple[str, ...] = ()
        self.enabled = True

    if TYPE_CHECKING:  # narrower than a ModuleDict's

        def __getitem__(self, name: str) -> Adapter: ...
        def items(self) -> ItemsView[str, Adapter]: ...  # noqa: D102
        def values(self) -> ValuesView[Adapter]: ...  # noqa: D102

    def active_adapters(self) -> list[Adapter]:
        """Return the adapters that the layers add now."""
        return [self[name] for name in self.active] if self.enabled else []


class AdaptedModule(nn.Module):
    """A frozen module with what adapters add to it, which can be merged into one parameter of the module.

    It has no ``weight``: code that reads one would bypass the adapter, and fails instead.
    """

    base_layer: nn.Module
    adapters: AdapterSet

    def __init__(self, base_layer: nn.Module, name: str, adapters: AdapterSet):
        super().__init__()
        self.base_layer = base_layer
        self.name = name
        self._unmerged: Tensor | None = None
        self.__dict__["adapters"] = adapters  # past nn.Module.__setattr__, which would register it
        self.train(base_layer.training)

    def mergeable(self) -> Tensor:
        """Return the parameter that a merge changes. Raises ValueError: it cannot be merged into."""
        raise NotImplementedError

    def added(self, parameter: Tensor, adapter: Adapter) -> Tensor:
        """Return ``parameter``, float32 at least, with what one adapter adds."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        """Whether the base layer holds what the adapters add now."""
        return self._unmerged is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Add the active updates to the base layer, in float32 at least; what was there is kept for ``unmerge``."""
        if self.merged:
            raise ValueError(f"{self.name} is merged already; unmerge first")
        self.add_to_base(self.adapters.active_adapters())

    def add_to_base(self, adapters: Iterable[Adapter]) -> None:
        """Add what ``adapters`` add, whatever is merged already. Raises ValueError and changes nothing."""
        parameter = self.mergeable()
        merged = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
        for adapter in adapters:
            merged = self.added(merged, adapter)
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
        self.mergeable().copy_(self._unmerged)
        self._unmerged = None

    def extra_repr(self) -> str:
        """Return the state that the children do not show."""
        return f"merged={self.merged}"


class WeightAdapter(Adapter):
    """An adapter that updates the weights of linear maps, with the factors of its method."""

    config: LortaConfig

    def __init__(self, config: LortaConfig, sites: list[Site], device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.config = config
        self.sites = {site.name: site for site in sites}
        self._sites_of: dict[str, list[Site]] = {}
        for site in sites:
            self._sites_of.setdefault(site.module, []).append(site)
        method = FACTORS[config.method]
        groups: dict[str, list[Site]] = {}
        for site in sites:
            groups.setdefault(method.group(site, config), []).append(site)
        self._group_of = {site.name: key for key, members in groups.items() for site in members}
        self.tensors = nn.ModuleDict({key: method(members, config, device, dtype) for key, members in groups.items()})
        self._freeze()
        self.reset_parameters()

    def _freeze(self) -> None:
        """Freeze the factors that the config names, which must be there and must not be all that start at zero."""
        names = {name for factors in self.tensors.values() for name, _ in factors.named_parameters()}
        for frozen in self.config.freeze:
            if not any(_is_or_under(name, frozen) for name in names):
                raise ValueError(
                    f"freeze: {self.config.method!r} has no factor {frozen!r}; it has {', '.join(sorted(names))}"
                )
        if self.config.freeze and not self.zero_factors:
            raise ValueError(f"freeze={self.config.freeze!r} holds all that starts at zero, so nothing could be learnt")
        trains = self.factors()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trains)

    def reset_parameters(self) -> None:
        """See ``Adapter``."""
        generator = self.generator()
        for _, factors in self.groups():
            factors.reset_parameters(generator)

    def update(self, site: Site) -> SiteUpdate:
        """Return the factored update of ``site`` with the scale alpha / r in it."""
        factors = self.tensors[self._group_of[site.name]]
        assert isinstance(factors, Factors)
        update = factors.update(site)
        return update if self.config.scaling == 1 else update._replace(up=update.up * self.config.scaling)

    def module_update(self, module: str, out_features: int) -> SiteUpdate | None:
        """Return the update of the module at the path ``module``, all its sites together; None without a site."""
        sites = self._sites_of.get(module)
        if sites is None:
            return None
        if sites[0].rows is None:
            return self.update(sites[0])
        return stack([(site, self.update(site)) for site in sites], out_features)

    def places(self) -> dict[str, str]:
        """See ``Adapter``."""
        return {
            site.name: f"{site.role} of layer {site.layer}, {site.own_heads} heads, "
            f"{site.in_features} to {site.out_features}"
            for site in self.sites.values()
        }

    @property
    def modules_adapted(self) -> tuple[str, ...]:
        """See ``Adapter``."""
        return tuple(self._sites_of)

    def factors(self) -> dict[str, nn.Parameter]:
        """See ``Adapter``."""
        return {
            f"tensors.{key}.{name}": parameter
            for key, factors in self.groups()
            for name, parameter in factors.named_parameters()
            if name not in factors.fixed and not self._frozen(name)
        }

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """See ``Adapter``."""
        return tuple(
            f"tensors.{key}.{name}" for key, factors in self.groups() for name in factors.zero if not self._frozen(name)
        )

    def groups(self) -> Iterator[tuple[str, Factors]]:
        """Yield the factors of every group of sites, by its key."""
        for key, factors in self.tensors.items():
            assert isinstance(factors, Factors)
            yield key, factors

    def _frozen(self, name: str) -> bool:
        return any(_is_or_under(name, frozen) for frozen in self.config.freeze)

    def extra_repr(self) -> str:
        """Return one line about the whole."""
        return f"{self.config.method}, r={self.config.r}, {len(self.sites)} sites, {self.num_parameters()} parameters"


def _is_or_under(name: str, factor: str) -> bool:
    return name == factor or name.startswith(f"{factor}.")


class AdaptedLinear(AdaptedModule):
    """A Linear (or Conv1D): y = base(x) + (alpha/r) up(core(down(x))) for every active adapter that has a site here."""

    def __init__(self, base_layer: nn.Module, name: str, adapters: AdapterSet):
        super().__init__(base_layer, name, adapters)
        self.in_features, self.out_features = features(base_layer, name)
        self._transposed = is_conv1d(base_layer)  # its weight is [in, out]

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] of x [..., in]. The update is computed in x's dtype from factors kept in theirs."""
        y = self.base_layer(x)
        if self._unmerged is not None:
            return y
        for adapter in self.adapters.active_adapters():
            update = self.update_of(adapter)
            if update is not None and isinstance(adapter, WeightAdapter):
                dropout = adapter.config.dropout
                y = y + apply_update(update, functional.dropout(x, dropout, self.training) if dropout else x)
        return y

    def update_of(self, adapter: Adapter) -> SiteUpdate | None:
        """Return what ``adapter`` adds to the weight; None: its places are elsewhere."""
        return adapter.module_update(self.name, self.out_features) if isinstance(adapter, WeightAdapter) else None

    def base_weight(self) -> Tensor:
        """Return the frozen weight, [out, in] or a Conv1D's [in, out], without any update, merged or not."""
        return self.base_layer.get_parameter("weight") if self._unmerged is None else self._unmerged

    def mergeable(self) -> Tensor:
        """See ``AdaptedModule``."""
        weight = self.base_layer.get_parameter("weight")
        if not weight.is_floating_point():
            raise ValueError(f"{self.name} is quantised ({weight.dtype}); its adapter cannot be merged")
        return weight

    def added(self, parameter: Tensor, adapter: Adapter) -> Tensor:
        """See ``AdaptedModule``."""
        update = self.update_of(adapter)
        if update is None:
            return parameter
        delta = update.dense().to(parameter)
        return parameter + (delta.T if self._transposed else delta)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"{self.__dict__.get('name')} is adapted and has no weight of its own; call the module, "
                "or read base_weight() for the frozen part"
            )
        return super().__getattr__(name)


def apply_update(update: SiteUpdate, x: Tensor) -> Tensor:
    """Return [..., out] of x [..., in], through the thin factors.

    Products of a long and a thin matrix run 2 to 5 times faster on a CPU when the thin side comes first and is
    contiguous, so the inner activations are kept transposed, [k, tokens]; autograd's products inherit the layout.
    """
    rows = x.reshape(-1, x.shape[-1])  # [tokens, in]
    inner = update.down.to(x.dtype).contiguous() @ rows.T  # [k, tokens]
    if update.core is not None:
        inner = update.core.to(x.dtype) @ inner  # [m, tokens]
    return (inner.T @ update.up.to(x.dtype).T.contiguous()).view(*x.shape[:-1], update.up.shape[0])
