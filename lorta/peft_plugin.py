"""The PEFT tuner: ``get_peft_model(model, LortaConfig(r=8))`` and everything that follows from it.

Importing this module registers the tuner, which ``import lorta`` sees to once PEFT is imported (``lorta.on_import``).
PEFT has no public registry: its tables of configs, tuners and prefixes get entries under members of an enum of our
own, which PEFT treats as its own because both are strings. One tuner serves both kinds of configs.

The tuner owns the numbers of an adapter, as ``base_model.lorta.<adapter>...``; the layers refer to them without
registering them. Places are found by ``lorta``, so there is no ``target_modules``: ``targets=("q", "v")`` names roles.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import Any

import peft.mapping
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lorta.attach import ATTRIBUTE, AdapterSet, build
from lorta.config import LortaConfig
from lorta.insert_config import InsertConfig
from lorta.peft_layers import InsertLayer, LortaLayer, SharedSwitches
from lorta.storage import base_fingerprint, check_fingerprint, check_tensors, describe_difference

OLDEST_PEFT = (0, 21, 0)
"""The first PEFT that saves and loads tuners through hooks of the tuner class."""


HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
"""What PEFT trains whole and saves for these tasks, beside the config's ``modules_to_save``."""


class LortaPeftType(StrEnum):
    """Our members beside ``peft.PeftType``, which is a closed enum of strings."""

    LORTA = "LORTA"
    LORTA_INSERT = "LORTA_INSERT"


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
        """Last names of the modules that train whole."""
        return (*(self.modules_to_save or ()), *HEADS.get(self.task_type, ()))

    def to_dict(self) -> dict[str, Any]:
        """All fields, PEFT's too; PEFT writes them into ``adapter_config.json``."""
        return asdict(self)


@dataclass(kw_only=True, eq=False)
class PeftLortaConfig(LortaConfig, _PeftFields):
    """A ``LortaConfig`` that PEFT accepts. Made by calling ``LortaConfig``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._finish_peft(LortaPeftType.LORTA)


@dataclass(kw_only=True, eq=False)
class PeftInsertConfig(InsertConfig, _PeftFields):
    """An ``InsertConfig`` that PEFT accepts. Made by calling ``InsertConfig``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._finish_peft(LortaPeftType.LORTA_INSERT)


class LortaModel(BaseTuner):
    """The tuner. ``model`` is the adapted base, ``lorta`` the ``AdapterSet``."""

    prefix = ATTRIBUTE
    tuner_layer_cls = SharedSwitches
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - BaseTuner reads it; sites are found by role
    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self.add_module(ATTRIBUTE, AdapterSet())

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Build the numbers for ``model`` and wrap its places; a failure leaves no trace of the adapter."""
        adapters: AdapterSet = self._modules[ATTRIBUTE]
        config = self.peft_config[adapter_name]
        whole = config.saved_whole()
        own = [path for path, _ in model.named_modules() if path.endswith(whole)] if whole else []
        adapter = build(model, config, exclude=own).train(model.training)
        self._paths = frozenset(adapter.modules_adapted)
        adapters[adapter_name] = adapter
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception:
            del adapters[adapter_name]
            raise

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # nothing to infer: PEFT would look for target_modules here

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool:
        return key in self._paths

    def _create_and_replace(
        self, peft_config: PeftConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        kind = InsertLayer if isinstance(peft_config, InsertConfig) else LortaLayer
        if not isinstance(target, kind):
            self._replace_module(parent, target_name, kind(target, current_key, self._modules[ATTRIBUTE]), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own copies ``weight`` over, which a saved head of several layers does not have (peft #3114).
        setattr(parent, child_name, new_module)

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget the adapter; if it was active, PEFT activates one that is left."""
        adapters: AdapterSet = self._modules[ATTRIBUTE]
        kept = dict(adapters.items()).get(adapter_name)
        if kept is not None:
            del adapters[adapter_name]
        try:
            super().delete_adapter(adapter_name)
        except ValueError:  # unknown, or merged
            if kept is not None:
                adapters[adapter_name] = kept
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
    """Of the base in its own names, without modules that are saved whole (a head is new in every process)."""
    base = next((module.model for module in model.modules() if isinstance(module, LortaModel)), model)
    wrapped = [path for path, module in base.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    return base_fingerprint(base, exclude=wrapped)


def register() -> None:
    """Enter configs, tuner and prefix in PEFT's tables. ``ImportError`` in one line with a PEFT that is too old."""
    found = version("peft")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < OLDEST_PEFT:
        raise ImportError(f"the LoRTA tuner needs peft {'.'.join(map(str, OLDEST_PEFT))} or newer, found {found}")
    for kind, config in ((LortaPeftType.LORTA, PeftLortaConfig), (LortaPeftType.LORTA_INSERT, PeftInsertConfig)):
        peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config
        peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[kind] = LortaModel
        peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[kind] = ATTRIBUTE
    LortaConfig.with_peft = PeftLortaConfig
    InsertConfig.with_peft = PeftInsertConfig


register()
