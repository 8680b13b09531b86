"""A dataset of four real chains, for tests that train."""

from pathlib import Path

import pytest

from data_prep.dataset.store import Placement
from data_prep.structure.io import read_structure
from pipeline.train import main
from tests.datasets import write_dataset
from tests.pipeline.training.small import ROOT

FILES = ("2igd_A.pdb.gz", "1cyo_A.pdb.gz", "1paz_A.pdb.gz", "d1ecaa_.pdb.gz")
SPLITS = ("train", "train", "train", "val")


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    records = [read_structure(ROOT / "pipeline" / "demo_structures" / name)[0] for name in FILES]
    split_of = dict(zip([record.id for record in records], SPLITS, strict=True))
    placements = {name: Placement(split, cluster=i) for i, (name, split) in enumerate(split_of.items())}
    write_dataset(path, records, placements=placements)
    return path


@pytest.fixture
def train_here(small_dataset, monkeypatch):
    """Train in this process; returns the exit code."""
    monkeypatch.setenv("WORLD_SIZE", "1")

    def train(run: Path, *options: object) -> int:
        return main(["--data", str(small_dataset), "--out", str(run), *map(str, options)])

    return train
