from pathlib import Path

import pytest

from pipeline.prepare import main
from tests.pipeline.prepare_demo import demo_arguments


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    assert main(demo_arguments(out)) == 0
    return out


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of five files, so that the demo's structures are several."""
    monkeypatch.setattr("data_prep.dataset.blocks.FILES_PER_BLOCK", 5)
    monkeypatch.setattr("data_prep.dataset.build.FILES_PER_BLOCK", 5)
