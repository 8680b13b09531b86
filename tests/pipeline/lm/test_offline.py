"""A stage with local files opens no connection, not even to report what it is used for."""

from pathlib import Path

import pytest

from tests.offline import run_offline

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "workflows" / "example_data"


def test_nothing_is_asked_of_the_network(tmp_path):
    pytest.importorskip("trl", reason="needs the extra: pip install 'lorta-fold[lm]'")
    words = [
        "--init-config",
        "tiny-llama",
        "--data",
        EXAMPLES / "instructions.json",
        "--adapter",
        "lora",
        "--rank",
        "1",
    ]
    words += ["--training.max_steps", "1", "--out", tmp_path / "run", "--training.device", "cpu"]
    result = run_offline("pipeline.sft", *words, cwd=ROOT)
    assert result.returncode == 0, result.stderr
