"""The benchmark of the stem times only what gives the same hidden states."""

import json

import pytest
import torch

pytest.importorskip("transformers", reason="a rival is transformers' EsmModel: pip install '.[lm]'")

from benchmarks import stem

OPTIONS = ["--models", "esm2_t6_8M", "--lengths", "12", "--batches", "2", "--padded", "--rounds", "1"]


def test_all_three_are_timed_and_ours_keeps_least(tmp_path, capsys):
    stem.main([*OPTIONS, "--out", str(tmp_path / "figures.json")])
    forward, training = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert forward["pass"] == "forward" and set(training["times"]) == {"fair-esm", "transformers"}
    assert training["kept_mb"]["ours"] < 0.8 * min(training["kept_mb"][name] for name in stem.RIVALS)
    assert max(training["differ"].values()) < 1e-5


def test_other_hidden_states_are_not_timed(monkeypatch):
    exact = torch.nn.functional.gelu
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x: 1.001 * exact(x))
    with pytest.raises(SystemExit, match="hidden states differ"):
        stem.main(OPTIONS)
