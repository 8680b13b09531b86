"""PEFT: the tuner for ``get_peft_model(model, LortaConfig(r=8))``, and ``peft_config`` of any method by its name.

Importing this module registers the tuner, which ``import lorta`` sees to where PEFT is imported, before or after.
PEFT has no public registry: its tables of configs, tuners and prefixes get entries under members of an enum of our
own, which PEFT treats as its own because both are strings. One tuner serves both kinds of configs.

The tuner owns the parameters of an adapter, as ``base_model.lorta.<adapter>...``; the layers refer to them without
registering them. Places are found by ``lorta``, so there is no ``target_modules``: ``targets=("q", "v")`` names roles.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import peft.mapping
import torch
from peft import AdaLoraConfig, AdaLoraModel, LoraConfig, PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lorta.arithmetic import combine
from lorta.attaching import ATTRIBUTE, build
from lorta.config import METHODS_OF_PEFT, PEFT_METHODS, ROLES, LortaConfig, OutputAdapterConfig, config_for, one_of
from lorta.layer import AdaptedLinear, AdaptedModule, AdapterSet
from lorta.outputs import AdaptedOutput
from lorta.sites import find_sites
from lorta.storage import base_fingerprint, check_fingerprint, check_tensors, describe_difference

OLDEST_PEFT = (0, 21, 0)
"""The first PEFT that saves and loads tuners through hooks of the tuner class."""

HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
"""What PEFT trains whole and saves for these tasks, beside the config's ``modules_to_save``."""

LOADING = """## Loading

PEFT reads this adapter once the package `lorta` (of lorta-fold) is imported; without it there is a `KeyError`.

```python
import lorta
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this directory")
```
"""
"""Section of the README.md beside a saved adapter."""


class LortaPeftType(StrEnum):
    """Our members beside ``peft.PeftType``, which is a closed enum of strings."""

    LORTA = "LORTA"
    LORTA_INSERT = "LORTA_INSERT"


class SharedSwitches(AdaptedModule, BaseTunerLayer):
    """A layer with PEFT's switches, which act on the ``AdapterSet`` that all layers share."""

    def __init__(self, base_layer: nn.Module, name: str, adapters: AdapterSet):
        super().__init__(base_layer, name, adapters)
        self.merged_adapters: list[str] = []

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

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the named updates (default: the active ones) to the weight; non-finite ones are always refused."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.adapters]
        names = [name for name in names if self.name in self.adapters[name].modules_adapted]
        if names:
            self.add_to_base([self.adapters[name] for name in names])
            self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put back the very weight that was there before the first merge."""
        if self.merged:
            super().unmerge()
            self.merged_adapters.clear()

    def _get_available_adapters(self) -> set[str]:
        return {name for name, adapter in self.adapters.items() if self.name in adapter.modules_adapted}

    def _all_available_adapter_names(self) -> list[str]:
        return sorted(self.adapters)


class LortaLayer(AdaptedLinear, SharedSwitches):
    """A linear map with updates."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return dW in the weight's own layout, for PEFT's conversion to LoRA."""
        update = self.update_of(self.adapters[adapter])
        if update is None:  # another adapter has its place here
            return torch.zeros_like(self.base_weight())
        return update.dense().T if self._transposed else update.dense()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return True: updates are sums to the weight."""
        return True


class OutputLayer(AdaptedOutput, SharedSwitches):
    """A module whose output is changed; never merged, because that is not an update of its weight."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse; ``unload`` takes the adapter off."""
        methods = {adapter.config.method for adapter in self.adapters.values()}
        raise ValueError(f"{', '.join(sorted(methods))} acts on outputs and cannot be merged; unload() takes it off")

    def unmerge(self) -> None:
        """Do nothing: nothing is merged."""


@dataclass(kw_only=True)
class _PeftFields(PeftConfig):
    """PEFT's fields that both configs have."""

    modules_to_save: list[str] | None = None
    """Names of modules that train whole and are saved beside the adapter, such as a classification head."""
    target_modules: set[str] | None = None
    """Not a setting, and always empty: PEFT's conversion to LoRA adds the names of modules to a copy of it."""
    base_weights: dict[str, Any] | None = field(default=None, repr=False)
    """Fingerprint of the frozen weights, written when the adapter is saved."""

    def _finish_peft(self, peft_type: LortaPeftType) -> None:
        PeftConfig.__post_init__(self)
        self.peft_type = peft_type
        if self.target_modules:
            raise ValueError("target_modules is not a setting here; lorta finds its places, targets=('q', 'v') by role")
        self.target_modules = set()

    def saved_whole(self) -> tuple[str, ...]:
        """Return the last names of the modules that train whole."""
        return (*(self.modules_to_save or ()), *HEADS.get(self.task_type or "", ()))

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the config, and into README.md beside it what a process that loads it must import."""
        super().save_pretrained(save_directory, **kwargs)
        card = Path(save_directory) / "README.md"
        text = card.read_text(encoding="utf-8") if card.exists() else ""
        if "import lorta" not in text:
            card.write_text(f"{text}\n{LOADING}" if text else LOADING, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, PEFT's too; PEFT writes them into ``adapter_config.json``."""
        return asdict(self)


@dataclass(kw_only=True, eq=False)
class PeftLortaConfig(LortaConfig, _PeftFields):
    """A ``LortaConfig`` that PEFT accepts. Made by calling ``LortaConfig``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._finish_peft(LortaPeftType.LORTA)


@dataclass(kw_only=True, eq=False)
class PeftOutputAdapterConfig(OutputAdapterConfig, _PeftFields):
    """An ``OutputAdapterConfig`` that PEFT accepts. Made by calling ``OutputAdapterConfig``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._finish_peft(LortaPeftType.LORTA_INSERT)


class LortaModel(BaseTuner):
    """The tuner. ``model`` is the adapted base, ``lorta`` the ``AdapterSet``."""

    prefix = ATTRIBUTE
    tuner_layer_cls = SharedSwitches
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - BaseTuner reads it; sites are found by role
    uses_shared_state = True

    lorta: AdapterSet
    peft_config: dict[str, PeftLortaConfig | PeftOutputAdapterConfig]  # type: ignore[assignment]  # narrower

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self.add_module(ATTRIBUTE, AdapterSet())

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Build the factors for ``model`` and wrap its places; a failure leaves no trace of the adapter."""
        config = self.peft_config[adapter_name]
        whole = config.saved_whole()
        own = [path for path, _ in model.named_modules() if path.endswith(whole)] if whole else []
        adapter = build(model, config, exclude=own).train(model.training)
        self._paths = frozenset(adapter.modules_adapted)
        self.lorta[adapter_name] = adapter
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception:
            del self.lorta[adapter_name]
            raise

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # nothing to infer: PEFT would look for target_modules here

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool:  # type: ignore[override]
        return key in self._paths  # PEFT's is static; it calls it on the instance

    def _create_and_replace(
        self, peft_config: PeftConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        kind = OutputLayer if isinstance(peft_config, OutputAdapterConfig) else LortaLayer
        if not isinstance(target, kind):
            self._replace_module(parent, target_name, kind(target, current_key, self.lorta), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own copies ``weight`` over, which a saved head of several layers does not have (peft #3114).
        setattr(parent, child_name, new_module)

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "cat"
    ) -> None:
        """Add the adapter ``adapter_name``, the weighted sum of ``adapters`` (``lorta.combine``), beside them.

        Its rank is the sum of theirs. Raises ValueError: adapters that have no such sum, a name that is taken or
        unknown, another combination.
        """
        if combination_type not in ("cat", "linear"):
            raise ValueError(f"combination_type {combination_type!r}: only the exact sum is there, 'cat' or 'linear'")
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already; choose another name")
        for name in adapters:
            if name not in self.lorta:
                raise ValueError(f"no adapter {name!r}; there are {', '.join(self.lorta)}")
        total = combine(*(self.lorta[name] for name in adapters), weights=weights)
        first = self.peft_config[adapters[0]]
        common = dict[str, Any](task_type=first.task_type, modules_to_save=first.modules_to_save)
        self.peft_config[adapter_name] = type(first)(**total.config.settings(), **common)
        self.inject_adapter(self.model, adapter_name)
        self.lorta[adapter_name].load_state_dict(total.state_dict())

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget the adapter; if it was active, PEFT activates one that is left."""
        kept = dict(self.lorta.items()).get(adapter_name)
        if kept is not None:
            del self.lorta[adapter_name]
        try:
            super().delete_adapter(adapter_name)
        except ValueError:  # unknown, or merged
            if kept is not None:
                self.lorta[adapter_name] = kept
            raise

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT drops this argument before a tuner that does not know it, and would run the active adapter instead.
        if kwargs.get("adapter_names") is not None:
            raise ValueError("adapter_names: a batch of several adapters is not supported; use set_adapter per batch")
        yield

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, mark, tail = key.partition(f"{ATTRIBUTE}.{adapter_name}.")
        return f"{head}{ATTRIBUTE}.{tail}" if mark and (not head or head.endswith(".")) else key

    @classmethod
    def _get_adapter_state_dict(cls, model, config, adapter_name, state_dict, unwanted_adapter_names) -> dict:
        if config.base_weights is None:  # hashed once; what is frozen does not change
            config.base_weights = _fingerprint(model)
        chosen = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        return {key: value.contiguous() for key, value in chosen.items()}

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict) -> dict[str, Tensor]:
        """Names, shapes and base must fit: PEFT itself loads leniently, and a key left out would leave B = 0."""
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        mark = f"{ATTRIBUTE}.{adapter_name}."
        expected = {key: value for key, value in model.state_dict().items() if mark in key and "base_layer" not in key}
        found = {key: value for key, value in remapped.items() if ATTRIBUTE in key.split(".")}
        check_tensors("the saved adapter", found, expected)
        if config.base_weights is not None:
            check_fingerprint("the saved adapter", config.base_weights)
            difference = describe_difference(config.base_weights["tensors"], _fingerprint(model)["tensors"])
            if difference:
                warnings.warn(f"not the base that this adapter was trained on: {difference}", stacklevel=2)
                config.base_weights = None  # if it is saved again, then with this base
        return remapped


def _fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return that of the base in its own names, without what is saved whole (a head is new in every process)."""
    base = next((module.model for module in model.modules() if isinstance(module, LortaModel)), model)
    wrapped = [path for path, module in base.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    return base_fingerprint(base, exclude=wrapped)


def register() -> None:
    """Enter configs, tuner and prefix in PEFT's tables. ``ImportError`` in one line with a PEFT that is too old."""
    found = version("peft")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < OLDEST_PEFT:
        raise ImportError(f"the LoRTA tuner needs peft {'.'.join(map(str, OLDEST_PEFT))} or newer, found {found}")
    for kind, config in ((LortaPeftType.LORTA, PeftLortaConfig), (LortaPeftType.LORTA_INSERT, PeftOutputAdapterConfig)):
        key = cast(PeftType, kind)  # a closed enum of strings, for which a string serves
        peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[key] = config
        peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[key] = LortaModel
        peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[key] = ATTRIBUTE
    LortaConfig.with_peft = PeftLortaConfig
    OutputAdapterConfig.with_peft = PeftOutputAdapterConfig


def peft_config(
    method: str = "lorta",
    *,
    model: nn.Module | None = None,
    task_type: str | None = None,
    modules_to_save: list[str] | None = None,
    **settings: Any,
) -> PeftConfig:
    """Return a config for ``peft.get_peft_model`` and for ``peft_config=`` of trl's trainers.

        model = get_peft_model(model, lorta.peft_config("dora", model=model, r=8, task_type="CAUSAL_LM"))

    ``settings`` are those of ``LortaConfig`` or ``OutputAdapterConfig``. ``adalora`` and ``dora`` take r, alpha
    (default r), targets (roles), dropout, and need ``model``: PEFT wants names of modules, which are found here by
    role. ``adalora`` also needs ``total_step``; r is its final mean rank, ``init_r`` (default 3 r / 2, as PEFT's 12
    for 8) the one at the start; call ``after_step`` in every training step.

    Raises a one-line ``ValueError`` for an unknown method, a setting that it does not have, and a wrong value;
    ``ImportError`` without PEFT.
    """
    one_of("method", method, PEFT_METHODS)
    common = dict[str, Any](task_type=task_type, modules_to_save=modules_to_save)
    if method not in METHODS_OF_PEFT:
        config = config_for(method=method, **settings)
        kind = PeftOutputAdapterConfig if isinstance(config, OutputAdapterConfig) else PeftLortaConfig
        return kind(**config.settings(), **common)
    if model is None:
        raise ValueError(f"{method!r} comes from PEFT, which names modules: give the model too, peft_config(model=...)")
    own = {name: settings.pop(name) for name in ("r", "alpha", "targets", "dropout") if name in settings}
    for name in settings:
        if name not in METHODS_OF_PEFT[method]:
            others = ", ".join(("r", "alpha", "targets", "dropout", *METHODS_OF_PEFT[method]))
            raise ValueError(f"{name!r} is no setting of {method!r}; there are {others}")
    checked = LortaConfig(method="lora", **own)
    common |= {"target_modules": _modules_of(model, checked), "lora_dropout": checked.dropout}
    common["lora_alpha"] = checked.alpha
    if method == "dora":
        return LoraConfig(r=checked.r, use_dora=True, **common)
    if "total_step" not in settings:
        raise ValueError("adalora needs total_step, the number of training steps: it spreads its pruning over them")
    start = settings.pop("init_r", None) or max(checked.r + 1, 3 * checked.r // 2)
    return AdaLoraConfig(target_r=checked.r, init_r=start, **settings, **common)


def _modules_of(model: nn.Module, config: LortaConfig) -> list[str]:
    """Return the paths of the modules that hold the targets; one that holds other roles too is refused."""
    held: dict[str, set[str]] = {}
    for site in find_sites(model):
        held.setdefault(site.module, set()).add(site.role)
    wanted = set(config.targets)
    for path, roles in held.items():
        extra = sorted(roles - wanted, key=ROLES.index)
        if extra and roles & wanted:
            raise ValueError(
                f"{path} holds {', '.join(extra)} too, and PEFT adapts whole modules: target all its roles"
            )
    return [path for path, roles in held.items() if roles & wanted]


def after_step(model: nn.Module, step: int) -> None:
    """Do what ``model``'s method does after every optimizer step ``step``, from 0, and before ``zero_grad``.

    AdaLoRA moves its budget of ranks, by the gradients that are still there; every other method does nothing.
    """
    for module in model.modules():
        if isinstance(module, AdaLoraModel):
            module.update_and_allocate(step)


register()
