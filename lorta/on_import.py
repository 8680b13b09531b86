"""Register the PEFT tuner as soon as PEFT is imported, before ``lorta`` or after it, and never import PEFT for it.

PEFT pulls in transformers, seconds of start-up that a user of the bare engine must not pay; yet
``PeftModel.from_pretrained`` needs the tuner in PEFT's tables whatever the order of the imports. Python's documented
way is a finder on ``sys.meta_path``: ours finds nothing by itself, it lets the others find PEFT and adds one call
after PEFT's module has run.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _AfterPeft(MetaPathFinder):
    """Finds the module ``peft`` through the other finders."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of PEFT with a loader that registers the tuner after it; ``None`` for all other modules."""
        if name != "peft" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                register_tuner()

            spec.loader.exec_module = run_and_register
        return spec


def register_tuner() -> None:
    """Import ``lorta.peft_plugin``. A PEFT that cannot take the tuner stays usable: then this warns, in one line."""
    try:
        importlib.import_module("lorta.peft_plugin")
    except ImportError as error:
        warnings.warn(f"LortaConfig is not available in PEFT: {error}", stacklevel=2)


def watch() -> None:
    """Register now if PEFT is there already, else when it comes."""
    if "peft" in sys.modules:
        register_tuner()
    elif not any(isinstance(finder, _AfterPeft) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterPeft())
