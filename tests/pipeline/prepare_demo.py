"""The bundled structures, as the tests of ``pipeline.prepare`` use them."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline import prepare

DEMO = Path(__file__).parents[2] / "pipeline" / "demo_structures"


def files_of(directory: Path) -> dict[str, bytes]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def demo_arguments(out: Path, *more: str) -> list[str]:
    return ["--pdb-dir", str(DEMO), "--out", str(out), "--identity", "0.4", "--jobs", "1", *more]


def dataset_of(names: Iterable[str], folder: Path, val_fraction: float) -> Path:
    """A dataset of some of them, in ``folder / "dataset"``."""
    (folder / "files").mkdir()
    for name in names:
        shutil.copy(DEMO / name, folder / "files")
    arguments = ("--pdb-dir", folder / "files", "--out", folder / "dataset", "--val-fraction", val_fraction)
    assert prepare.main([str(argument) for argument in arguments]) == 0
    return folder / "dataset"
