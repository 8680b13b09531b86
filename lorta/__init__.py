"""Tensor adapters for the linear maps of a transformer. Imports nothing of the project."""

from lorta.adapterdrop import drop_lower
from lorta.arithmetic import combine, compress, scale
from lorta.attach import (
    Adapter,
    adapter_set,
    attach,
    delete,
    detach,
    disabled,
    install,
    merge,
    param_groups,
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
    "combine",
    "compress",
    "config_for",
    "delete",
    "detach",
    "disabled",
    "drop_lower",
    "export_lora",
    "find_sites",
    "install",
    "load",
    "load_official",
    "merge",
    "param_groups",
    "peft_config",
    "save",
    "scale",
    "set_active",
    "unmerge",
]

_watch()


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lorta-fold")
    except PackageNotFoundError:
        return "0+unknown"
