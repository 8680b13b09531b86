"""Attach an adapter to any model: wrap its linear maps, own the factors, merge, switch, take off.

    adapter = attach(model, r=8)          # freezes the model; only the factors train
    merge(model); unmerge(model)          # into the weights and exactly back
    with disabled(model): ...             # the base model
    detach(model)                         # the base model again, wrappers gone

``model`` may also be a module that contains the one that was given to ``attach``.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorta.config import LortaConfig
from lorta.factors import Factors, SiteUpdate, stack
from lorta.insert import Behind, Insert
from lorta.insert_config import InsertConfig
from lorta.layer import AdaptedLinear
from lorta.methods import DECOMPOSITIONS, INSERTS, config_for
from lorta.sites import Site, base_linear, find_sites

ATTRIBUTE = "lorta"
"""The root model gets its ``AdapterSet`` under this name."""


class Adapter(nn.Module):
    """All factors of one adapter, registered once. ``state_dict()`` is the whole adapter."""

    def __init__(self, config: LortaConfig, sites: list[Site], device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.config = config
        self.sites = {site.name: site for site in sites}
        self._sites_of: dict[str, list[Site]] = {}
        for site in sites:
            self._sites_of.setdefault(site.module, []).append(site)
        decomposition = DECOMPOSITIONS[config.method]
        groups: dict[str, list[Site]] = {}
        for site in sites:
            groups.setdefault(decomposition.group(site, config), []).append(site)
        self._group_of = {site.name: key for key, members in groups.items() for site in members}
        self.tensors = nn.ModuleDict(
            {key: decomposition(members, config, device, dtype) for key, members in groups.items()}
        )
        self._freeze()
        self.reset_parameters()

    def _freeze(self) -> None:
        """The factors that the config freezes, which must be there and must not be all that start at zero."""
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
        """Draw the initial factors again, from ``config.seed``."""
        seed = self.config.seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for factors in self.tensors.values():
            factors.reset_parameters(self.config, generator)

    def update(self, site: Site) -> SiteUpdate:
        """The factored update of ``site`` with the scale alpha / r in it."""
        factors: Factors = self.tensors[self._group_of[site.name]]
        update = factors.update(site)
        return update if self.config.scaling == 1 else update._replace(up=update.up * self.config.scaling)

    def places(self) -> dict[str, str]:
        """Name of every site, and the site in words; saved with the adapter."""
        return {
            site.name: f"{site.role} of layer {site.layer}, {site.own_heads} heads, "
            f"{site.in_features} to {site.out_features}"
            for site in self.sites.values()
        }

    @property
    def modules_adapted(self) -> tuple[str, ...]:
        """Paths of the modules that have a site, in order."""
        return tuple(self._sites_of)

    def module_update(self, module: str, out_features: int) -> SiteUpdate | None:
        """The update of the module at the path ``module``, all its sites together; None if it has no site."""
        sites = self._sites_of.get(module)
        if sites is None:
            return None
        if sites[0].rows is None:
            return self.update(sites[0])
        return stack([(site, self.update(site)) for site in sites], out_features)

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.factors().values())

    def factors(self) -> dict[str, nn.Parameter]:
        """Trainable factors by their name in ``state_dict()``, e.g. ``tensors.all.A``.

        Those that the method or the config keeps fixed are left out; one that somebody froze later is still there.
        """
        return {
            f"tensors.{key}.{name}": parameter
            for key, factors in self.tensors.items()
            for name, parameter in factors.named_parameters()
            if name not in factors.fixed and not self._frozen(name)
        }

    def _frozen(self, name: str) -> bool:
        return any(_is_or_under(name, frozen) for frozen in self.config.freeze)

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """The factors that start at zero. At step 0 of a fresh adapter they alone have a non-zero gradient;
        all others have one as soon as these are off zero."""
        return tuple(
            f"tensors.{key}.{name}"
            for key, factors in self.tensors.items()
            for name in factors.zero
            if not self._frozen(name)
        )

    def extra_repr(self) -> str:
        """One line about the whole."""
        return f"{self.config.method}, r={self.config.r}, {len(self.sites)} sites, {self.num_parameters()} parameters"


def _is_or_under(name: str, factor: str) -> bool:
    return name == factor or name.startswith(f"{factor}.")


class AdapterSet(nn.ModuleDict):
    """The adapters of one model by name, and which of them act."""

    def __init__(self) -> None:
        super().__init__()
        self.active: tuple[str, ...] = ()
        self.enabled = True

    def active_adapters(self) -> list[Adapter | Insert]:
        """Adapters that the layers add now."""
        return [self[name] for name in self.active] if self.enabled else []


def attach(
    model: nn.Module, config: LortaConfig | InsertConfig | None = None, *, name: str = "default", **settings
) -> Adapter | Insert:
    """Wrap the linear maps of ``model`` that the config targets and return the new adapter, which is active.

    ``settings`` are fields of ``LortaConfig`` (``attach(model, r=8)``), or of ``InsertConfig`` where ``method`` is one
    that acts behind modules (``attach(model, method="houlsby", size=64)``); give them or a config. The model's own
    parameters lose ``requires_grad``: set it again on those that shall train too, such as a head. Factors are
    float32 (float64 for a float64 model) on the device of the projections, and the output is unchanged until they
    train. A second call with another ``name`` adds an adapter beside the first and makes it the only active one.

    Raises ``ValueError`` in one line, and changes nothing: no projection that is known, shapes that one tensor
    cannot span, a name that is taken.
    """
    if config is None:
        config = config_for(**settings)
    elif settings:
        raise ValueError(f"give a config or settings, not both: got a config and {', '.join(settings)}")
    adapter = build(model, config)
    install(model, adapter, name)
    return adapter


def build(model: nn.Module, config: LortaConfig | InsertConfig, exclude: Iterable[str] = ()) -> Adapter | Insert:
    """The fresh adapter that fits ``model``, which is only looked at.

    What acts behind modules leaves out those at the paths ``exclude`` and below: heads that train whole by other means.
    """
    if isinstance(config, InsertConfig):
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError(f"{type(model).__name__} has no parameters; there is nothing to adapt")
        dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
        return INSERTS[config.method](model, config, first.device, dtype, tuple(exclude))
    sites = find_sites(model, config.targets)
    weight = base_linear(model.get_submodule(sites[0].module)).weight
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32  # quantised weights are integers
    return Adapter(config, sites, weight.device, dtype)


def install(model: nn.Module, adapter: Adapter | Insert, name: str) -> None:
    """Put ``adapter``, built for ``model``, in place: freeze, register, wrap, activate."""
    adapters = getattr(model, ATTRIBUTE, None)
    if not name or "." in name:
        raise ValueError(f"an adapter's name must be non-empty and hold no dot, got {name!r}")
    if adapters is None and any(isinstance(module, AdapterSet) for module in model.modules()):
        raise ValueError(f"a part of this {type(model).__name__} has an adapter already; attach to that part")
    if adapters is not None and not isinstance(adapters, AdapterSet):
        raise ValueError(f"this {type(model).__name__} has an attribute {ATTRIBUTE!r} of its own; attach to a part")
    if adapters is not None and name in adapters:
        raise ValueError(f"there is an adapter {name!r} already; choose another name or delete it first")
    if any(layer.merged for layer in _layers(model)):
        raise ValueError("an adapter is merged into the weights; unmerge it before attaching another")

    for other in () if adapters is None else adapters.values():
        if isinstance(other, Insert) != isinstance(adapter, Insert):  # one would wrap the other's wrappers
            raise ValueError(f"{adapter.config.method!r} cannot stand beside {other.config.method!r} on one model")

    if adapters is None:
        model.requires_grad_(False)
        adapters = AdapterSet()
        model.add_module(ATTRIBUTE, adapters)
    adapters[name] = adapter.train(model.training)
    adapters.active = (name,)
    wrapper = Behind if isinstance(adapter, Insert) else AdaptedLinear
    for path in adapter.modules_adapted:
        module = model.get_submodule(path)
        if not isinstance(module, wrapper):
            model.set_submodule(path, wrapper(module, path, adapters))


def adapter_set(model: nn.Module) -> AdapterSet:
    """The adapters of ``model`` or of the one part of it that has some; ``ValueError`` where there are none."""
    found = [module for module in model.modules() if isinstance(module, AdapterSet)]
    if len(found) != 1:
        what = "no adapter is" if not found else f"{len(found)} parts have adapters"
        raise ValueError(f"{what} attached to this {type(model).__name__}; one part must have them, see lorta.attach")
    return found[0]


def model_part(model: nn.Module, adapters: AdapterSet) -> nn.Module:
    """The module whose parts the sites name: what ``attach`` was given, or what PEFT's tuner wraps."""
    root = next(module for module in model.modules() if module._modules.get(ATTRIBUTE) is adapters)
    return root.model if getattr(root, "tuner_layer_cls", None) is not None else root


def param_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict]:
    """Return groups for an optimizer as LoRA+ has them (arXiv 2402.12354): ``ratio`` times ``lr`` for what starts at 0.

    That is B of LoRA and A of LoRTA's default start. All else that trains, heads too, has ``lr``. PEFT's own
    ``create_loraplus_optimizer`` looks for parameters named ``lora_B`` and would give the whole adapter ``lr``.
    """
    adapters = adapter_set(model)
    zero = {
        id(parameter)
        for adapter in adapters.values()
        for name, parameter in adapter.factors().items()
        if name in adapter.zero_factors
    }
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trains if id(parameter) not in zero], "lr": lr},
        {"params": [parameter for parameter in trains if id(parameter) in zero], "lr": lr * ratio},
    ]


def set_active(model: nn.Module, *names: str) -> None:
    """Make the named adapters the ones that act; several add up; none leaves the base model."""
    adapters = adapter_set(model)
    for name in names:
        if name not in adapters:
            raise ValueError(f"no adapter {name!r}; there are {', '.join(adapters)}")
    if any(layer.merged for layer in _layers(model)):
        raise ValueError("adapters are merged into the weights; unmerge before switching")
    adapters.active = tuple(dict.fromkeys(names))


def delete(model: nn.Module, name: str) -> None:
    """Forget one adapter; the wrappers stay (``detach`` takes them off)."""
    adapters = adapter_set(model)
    if name not in adapters:
        raise ValueError(f"no adapter {name!r}; there are {', '.join(adapters)}")
    set_active(model, *(other for other in adapters.active if other != name))
    del adapters[name]


def merge(model: nn.Module) -> None:
    """Add the active updates to the weights or, of BitFit, to the biases, so that the model runs at base speed.

    Keeps what was there. All or nothing. ``ValueError``: a weight that is quantised, an update that is not finite, what
    is merged already, a bottleneck.
    """
    for name, adapter in adapter_set(model).items():
        if isinstance(adapter, Insert) and not adapter.constant:
            raise ValueError(f"adapter {name!r} is {adapter.config.method!r}, which acts behind modules; cannot merge")
    layers = _layers(model)
    done: list[AdaptedLinear | Behind] = []
    try:
        for layer in layers:
            layer.merge()
            done.append(layer)
    except ValueError:
        for merged in done:  # all or nothing
            merged.unmerge()
        raise


def unmerge(model: nn.Module) -> None:
    """Undo ``merge`` exactly."""
    adapter_set(model)
    for layer in _layers(model):
        layer.unmerge()


def detach(model: nn.Module) -> None:
    """Take wrappers and adapters off ``model``: the base model again, or the merged one if it is merged.

    ``requires_grad`` of the base parameters stays as it is.
    """
    adapters = adapter_set(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, (AdaptedLinear, Behind)):
            model.set_submodule(path, module.base_layer)
        elif module._modules.get(ATTRIBUTE) is adapters:  # getattr: PEFT's models forward it to what they wrap
            delattr(module, ATTRIBUTE)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its base; a merged one is unmerged for the time."""
    adapters = adapter_set(model)
    merged = any(layer.merged for layer in _layers(model))
    before = adapters.enabled
    if merged:
        unmerge(model)
    adapters.enabled = False
    try:
        yield
    finally:
        adapters.enabled = before
        if merged:
            merge(model)


def _layers(model: nn.Module) -> list[AdaptedLinear | Behind]:
    return [module for module in model.modules() if isinstance(module, (AdaptedLinear, Behind))]
