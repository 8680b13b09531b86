"""The bundled structures, as the tests of ``pipeline.prepare`` use them."""

from pathlib import Path

DEMO = Path(__file__).parents[2] / "pipeline" / "demo_structures"


def files_of(directory: Path) -> dict[str, bytes]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def demo_arguments(out: Path, *more: str) -> list[str]:
    return ["--pdb-dir", str(DEMO), "--out", str(out), "--identity", "0.4", "--jobs", "1", *more]
