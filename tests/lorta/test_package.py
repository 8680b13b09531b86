"""The finder that waits for PEFT; what follows when it comes is in test_peft_plugin.py."""

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import lorta
from lorta.on_import import _AfterPeft, watch


def test_it_finds_nothing_but_peft(monkeypatch):
    finder = _AfterPeft()
    assert finder.find_spec("json") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # PEFT is not installed
    assert finder.find_spec("peft") is None


def test_while_it_asks_the_others_it_is_none_of_them(monkeypatch):
    finder, asked = _AfterPeft(), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: asked.append(finder.find_spec(name)))
    finder.find_spec("peft")
    assert asked == [None]


def test_it_waits_once_however_often_it_is_told(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, _AfterPeft)])
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    before = len(sys.meta_path)
    watch()
    watch()
    assert len(sys.meta_path) == before + 1 and isinstance(sys.meta_path[0], _AfterPeft)


@pytest.mark.parametrize("name", ["peft_plugin", "peft_config"])
def test_a_module_imported_first_registers_the_tuner(name):
    """PEFT is imported from within; what it calls back must find the module whole."""
    pytest.importorskip("peft", reason="PEFT is not installed (lm extra)")
    code = f"import lorta.{name}, peft; assert 'LORTA' in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lorta", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, "LortaConfig is not available" in done.stderr) == (0, False), done.stderr


def test_every_module_can_be_imported_first():
    """Each in an interpreter without any other module of the package: forgotten here, as a new process would start."""
    names = [
        module.name for module in pkgutil.iter_modules(lorta.__path__, "lorta.") if module.name != "lorta.peft_plugin"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for loaded in [m for m in sys.modules if m.partition('.')[0] == 'lorta']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
