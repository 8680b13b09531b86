"""The package itself: names at their first use, every module alone, and PEFT imported before it or after it."""

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import types

import pytest

import lorta

pytestmark = pytest.mark.slow

MODULES = ["lorta", *(module.name for module in pkgutil.iter_modules(lorta.__path__, "lorta."))]


def in_a_new_process(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lorta", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, "LortaConfig is not available" in done.stderr) == (0, False), done.stderr


def test_every_module_can_be_imported_first():
    """Each in a process of its own, which forks from one that has imported torch alone, to save seconds."""
    have_peft = importlib.util.find_spec("peft") is not None
    names = [name for name in MODULES if have_peft or name != "lorta.peft"]
    in_a_new_process(
        "import importlib, os, sys, torch\n"
        f"for name in {names!r}:\n"
        "    assert 'lorta' not in sys.modules\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        importlib.import_module(name)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
    )


def test_every_public_name_is_there():
    assert sorted(lorta.__all__) == sorted(set(lorta.__all__))
    for name in lorta.__all__:
        if name not in ("peft_config", "after_step") or importlib.util.find_spec("peft"):
            assert getattr(lorta, name) is not None
    assert not isinstance(lorta.attach, types.ModuleType)  # no module has the name of a function
    with pytest.raises(AttributeError, match="module 'lorta' has no attribute 'attached'"):
        _ = lorta.attached
    with pytest.warns(DeprecationWarning, match=r"InsertConfig is now lorta.OutputAdapterConfig"):
        assert lorta.InsertConfig is lorta.OutputAdapterConfig


def test_configs_need_neither_torch_nor_peft():
    in_a_new_process(
        "import sys, lorta.config\n"
        "assert lorta.config_for(method='houlsby').size == 64 and 'bitfit' in lorta.METHODS\n"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules)\n"
        "lorta.attach\n"
        "assert not {'peft', 'transformers'} & set(sys.modules)"
    )


def test_the_hook_finds_nothing_but_peft(monkeypatch):
    hook = lorta._PeftHook()
    monkeypatch.setattr(sys, "meta_path", [hook])
    assert hook.find_spec("json", None) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: hook.find_spec(name, None))
    assert hook.find_spec("peft", None) is None  # nobody else finds it: PEFT is not installed
    assert sys.meta_path == [hook]


@pytest.mark.parametrize("order", ["import lorta, peft", "import peft, lorta", "import lorta.peft, peft"])
def test_the_tuner_is_registered_whichever_comes_first(order):
    pytest.importorskip("peft", reason="PEFT is not installed (lm extra)")
    in_a_new_process(
        f"{order}\n"
        "import sys\n"
        "assert isinstance(lorta.LortaConfig(r=2), peft.PeftConfig)\n"
        "assert {'LORTA', 'LORTA_INSERT'} <= set(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)\n"
        "assert not [finder for finder in sys.meta_path if type(finder).__module__ == 'lorta']"
    )
