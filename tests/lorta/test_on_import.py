"""The finder that waits for PEFT; what follows when it comes is in test_peft_plugin.py."""

import importlib.util
import sys

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
