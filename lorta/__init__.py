"""Tensor adapters for the linear maps of a transformer. Imports nothing of the project.

Configs and names of methods are here at once; what needs torch is imported at its first use.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lorta.config import OUTPUT_METHODS, PEFT_METHODS, WEIGHT_METHODS, LortaConfig, OutputAdapterConfig, config_for

if TYPE_CHECKING:
    from lorta.arithmetic import combine, compress, scale
    from lorta.attaching import (
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
    from lorta.export import export_lora
    from lorta.factors import SiteUpdate
    from lorta.layer import Adapter, WeightAdapter
    from lorta.outputs import OutputAdapter, drop_lower
    from lorta.peft import after_step, peft_config
    from lorta.sites import Site, find_sites
    from lorta.storage import base_fingerprint, load, save

METHODS = (*WEIGHT_METHODS, *OUTPUT_METHODS)
"""Every name that ``lorta.attach(model, method=...)`` takes."""

__all__ = [
    "METHODS", "PEFT_METHODS", "Adapter", "LortaConfig", "OutputAdapter", "OutputAdapterConfig", "Site", "SiteUpdate",
    "WeightAdapter", "adapter_set", "after_step", "attach", "base_fingerprint", "combine", "compress", "config_for",
    "delete", "detach", "disabled", "drop_lower", "export_lora", "find_sites", "install", "load", "merge",
    "param_groups", "peft_config", "save", "scale", "set_active", "unmerge",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the module that has the public ``name``; PEFT's comes last, because it imports PEFT."""
    if name == "__version__":
        try:
            return version("lorta-fold")
        except PackageNotFoundError:
            return "0+unknown"
    if name == "InsertConfig":
        warnings.warn("lorta.InsertConfig is now lorta.OutputAdapterConfig", DeprecationWarning, stacklevel=2)
        return OutputAdapterConfig
    if name in __all__:
        for home in ("sites", "factors", "layer", "outputs", "attaching", "arithmetic", "storage", "export", "peft"):
            module = importlib.import_module(f"lorta.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'lorta' has no attribute {name!r}")


class _PeftHook:
    """Registers the tuner with PEFT right after PEFT is imported, for ``import lorta`` before ``import peft``.

    A finder on ``sys.meta_path``: it finds PEFT through the others, and has its loader register the tuner too. Why
    nothing simpler serves is said in docs/architecture.md.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return None for all modules but PEFT."""
        if name != "peft" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # for the time of the search; a search alone, without import, is no end to it
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                sys.meta_path.remove(self)
                register_tuner()

            setattr(spec.loader, "exec_module", run_and_register)  # noqa: B010 - an assignment to a method
        return spec


def register_tuner() -> None:
    """Import ``lorta.peft``, which registers the tuner. A PEFT that is too old for it stays usable, with a warning."""
    try:
        importlib.import_module("lorta.peft")
    except ImportError as error:
        warnings.warn(f"LortaConfig is not available in PEFT: {error}", stacklevel=2)


if "peft" in sys.modules:
    register_tuner()
else:
    sys.meta_path.insert(0, _PeftHook())
