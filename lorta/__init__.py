"""Tensor adapters for the attention matrices of a transformer. Imports nothing of the project."""

from lorta.adapterdrop import drop_lower
from lorta.attach import (
    Adapter,
    adapter_set,
    attach,
    delete,
    detach,
    disabled,
    merge,
    set_active,
    unmerge,
)
from lorta.config import LortaConfig
from lorta.export import export_lora
from lorta.factors import SiteUpdate
from lorta.insert_config import InsertConfig
from lorta.methods import METHODS, config_for
from lorta.official import load_official
from lorta.on_import import watch as _watch
from lorta.peft_config import PEFT_METHODS, after_step, peft_config
from lorta.sites import Site, find_sites
from lorta.storage import base_fingerprint, load, save

__all__ = [
    "METHODS",
    "PEFT_METHODS",
    "Adapter",
    "InsertConfig",
    "LortaConfig",
    "Site",
    "SiteUpdate",
    "adapter_set",
    "after_step",
    "attach",
    "base_fingerprint",
    "config_for",
    "delete",
    "detach",
    "disabled",
    "drop_lower",
    "export_lora",
    "find_sites",
    "load",
    "load_official",
    "merge",
    "peft_config",
    "save",
    "set_active",
    "unmerge",
]

_watch()
