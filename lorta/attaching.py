"""Attach an adapter to any model: wrap its linear maps, own the factors, merge, switch, take off.

    adapter = attach(model, r=8)          # freezes the model; only the factors train
    merge(model); unmerge(model)          # into the weights and exactly back
    with disabled(model): ...             # the base model
    detach(model)                         # the base model again, wrappers gone

``model`` may also be a module that contains the one that was given to ``attach``.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lorta.config import LortaConfig, OutputAdapterConfig, config_for
from lorta.layer import AdaptedLinear, AdaptedModule, Adapter, AdapterSet, WeightAdapter
from lorta.outputs import OUTPUT_ADAPTERS, AdaptedOutput, OutputAdapter
from lorta.sites import base_linear, find_sites

ATTRIBUTE = "lorta"
"""The root model gets its ``AdapterSet`` under this name."""


def attach(
    model: nn.Module,
    config: LortaConfig | OutputAdapterConfig | None = None,
    *,
    name: str = "default",
    **settings: Any,
) -> Adapter:
    """Wrap the linear maps of ``model`` that the config targets and return the new adapter, which is active.

    ``settings`` are fields of ``LortaConfig`` (``attach(model, r=8)``), or of ``OutputAdapterConfig`` where ``method``
    acts on outputs (``attach(model, method="houlsby", size=64)``); give them or a config. The model's own
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


def build(model: nn.Module, config: LortaConfig | OutputAdapterConfig, exclude: Iterable[str] = ()) -> Adapter:
    """Return the fresh adapter that fits ``model``, which is only looked at.

    What acts on outputs leaves out the modules at the paths ``exclude`` and below: heads that train whole by other
    means.
    """
    if isinstance(config, OutputAdapterConfig):
        like = next(model.parameters(), None)
        if like is None:
            raise ValueError(f"{type(model).__name__} has no parameters; there is nothing to adapt")
    else:
        sites = find_sites(model, config.targets)
        like = base_linear(model.get_submodule(sites[0].module)).get_parameter("weight")
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32  # quantised weights are integers
    if isinstance(config, OutputAdapterConfig):
        return OUTPUT_ADAPTERS[config.method](model, config, like.device, dtype, tuple(exclude))
    return WeightAdapter(config, sites, like.device, dtype)


def install(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Put ``adapter``, built for ``model``, in place: freeze, register, wrap, activate."""
    found = getattr(model, ATTRIBUTE, None)
    if not name or "." in name:
        raise ValueError(f"an adapter's name must be non-empty and hold no dot, got {name!r}")
    if found is None and any(isinstance(module, AdapterSet) for module in model.modules()):
        raise ValueError(f"a part of this {type(model).__name__} has an adapter already; attach to that part")
    if found is not None and not isinstance(found, AdapterSet):
        raise ValueError(f"this {type(model).__name__} has an attribute {ATTRIBUTE!r} of its own; attach to a part")
    adapters = AdapterSet() if found is None else found
    if name in adapters:
        raise ValueError(f"there is an adapter {name!r} already; choose another name or delete it first")
    if any(layer.merged for layer in _layers(model)):
        raise ValueError("an adapter is merged into the weights; unmerge it before attaching another")

    for other in adapters.values():
        if isinstance(other, OutputAdapter) != isinstance(adapter, OutputAdapter):  # wrappers around wrappers
            raise ValueError(f"{adapter.config.method!r} cannot stand beside {other.config.method!r} on one model")
    if found is None:
        model.requires_grad_(False)
        model.add_module(ATTRIBUTE, adapters)
    adapters[name] = adapter.train(model.training)
    adapters.active = (name,)
    wrapper = AdaptedOutput if isinstance(adapter, OutputAdapter) else AdaptedLinear
    for path in adapter.modules_adapted:
        module = model.get_submodule(path)
        if not isinstance(module, wrapper):
            model.set_submodule(path, wrapper(module, path, adapters))


def adapter_set(model: nn.Module) -> AdapterSet:
    """Return the adapters of ``model`` or of the one part of it that has some; ``ValueError`` where there are none."""
    found = [module for module in model.modules() if isinstance(module, AdapterSet)]
    if len(found) != 1:
        what = "no adapter is" if not found else f"{len(found)} parts have adapters"
        raise ValueError(f"{what} attached to this {type(model).__name__}; one part must have them, see lorta.attach")
    return found[0]


def model_part(model: nn.Module, adapters: AdapterSet) -> nn.Module:
    """Return the module whose parts the sites name: what ``attach`` was given, or what PEFT's tuner wraps."""
    root = next(module for module in model.modules() if module._modules.get(ATTRIBUTE) is adapters)
    return root.get_submodule("model") if getattr(root, "tuner_layer_cls", None) is not None else root


def adapter_named(model: nn.Module, name: str) -> Adapter:
    """Return the adapter ``name`` of ``model``. Raises ValueError: there is none."""
    adapters = adapter_set(model)
    if name not in adapters:
        raise ValueError(f"no adapter {name!r}; there are {', '.join(adapters)}")
    return adapters[name]


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
    for name in names:
        adapter_named(model, name)
    if any(layer.merged for layer in _layers(model)):
        raise ValueError("adapters are merged into the weights; unmerge before switching")
    adapter_set(model).active = tuple(dict.fromkeys(names))


def delete(model: nn.Module, name: str) -> None:
    """Forget one adapter; the wrappers stay (``detach`` takes them off)."""
    adapter_named(model, name)
    adapters = adapter_set(model)
    set_active(model, *(other for other in adapters.active if other != name))
    del adapters[name]


def merge(model: nn.Module) -> None:
    """Add the active updates to the weights or, of BitFit, to the biases, so that the model runs at base speed.

    Keeps what was there. All or nothing. ``ValueError``: a weight that is quantised, an update that is not finite, what
    is merged already, a bottleneck.
    """
    for name, adapter in adapter_set(model).items():
        if isinstance(adapter, OutputAdapter) and not adapter.constant:
            raise ValueError(f"adapter {name!r} is {adapter.config.method!r}, which acts on outputs; cannot merge")
    done: list[AdaptedModule] = []
    try:
        for layer in _layers(model):
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
        if isinstance(module, AdaptedModule):
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


def _layers(model: nn.Module) -> list[AdaptedModule]:
    return [module for module in model.modules() if isinstance(module, AdaptedModule)]
