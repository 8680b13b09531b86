"""Real weights of ESM-2 8M, where this machine has them: ``python -m pipeline.demo_weights`` fetches them."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.folding.demo_weights import find_demo_stem


@pytest.fixture(scope="session")
def weights() -> Path:
    """As ``--esm-weights`` takes it."""
    found = find_demo_stem(Console(file=io.StringIO()), fetch=False)
    if found.path is None:
        pytest.skip("no weights of ESM-2 8M here: python -m pipeline.demo_weights fetches them")
    return found.path
