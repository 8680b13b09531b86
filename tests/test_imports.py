"""Imports run one way; the evaluator starts without torch and scipy."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = {"data_prep.files", "data_prep.pages", "data_prep.structure", "data_prep.dataset"}
MODEL = {"data_prep.files", "data_prep.structure", "lorta", "pipeline.config", "pipeline.folding"}
RUNS = MODEL | DATA | {"evaluation", "pipeline.losses", "pipeline.runs"}
MAY_IMPORT = {
    "data_prep.files": set(),
    "data_prep.pages": {"data_prep.files"},
    "data_prep.structure": {"data_prep.files"},
    "data_prep.dataset": DATA,
    "lorta": set(),
    "evaluation": DATA,
    "pipeline.config": {"data_prep.files", "lorta"},
    "pipeline.folding": MODEL,
    "pipeline.losses": MODEL,
    "pipeline.runs": MODEL | {"pipeline.losses"},
    "pipeline.training": RUNS,
    "pipeline.prediction": RUNS,
    "pipeline.comparison": RUNS | {"pipeline.training", "pipeline.prediction"},
    "pipeline.preparation": DATA,
    "pipeline.lm": {"data_prep.files", "data_prep.pages", "lorta", "pipeline.config", "pipeline.folding"},
}
"""Rooms and the rooms that they may import from, besides themselves. Commands, the modules of ``pipeline`` itself, may
import from all rooms, and nothing imports a command."""

PROJECT = {"data_prep", "lorta", "evaluation", "pipeline", "workflows", "tests", "benchmarks"}


def room_of(module: str) -> str:
    """The room that a module is in, or the module itself where it is a command."""
    return next((room for room in MAY_IMPORT if module == room or module.startswith(f"{room}.")), module)


def project_imports(source: str) -> set[str]:
    """Modules of the project that a module imports, anywhere in it; names from a package count as its modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PROJECT}


def test_the_reader_of_imports_sees_all_kinds():
    source = "import lorta.attach as x\ndef f():\n    from pipeline.config.schema import y\nimport os"
    assert {room_of(name) for name in project_imports(source)} == {"lorta", "pipeline.config"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
    place = ROOT / room.replace(".", "/")
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files, f"no modules in {room}"
    for file in files:
        extra = {room_of(name) for name in project_imports(file.read_text())} - MAY_IMPORT[room] - {room}
        assert not extra, f"{file.relative_to(ROOT)} imports {', '.join(sorted(extra))}"


def test_nothing_imports_a_command_or_a_workflow():
    """A command may import a room; ``pipeline/__main__`` and the console command start commands by their names."""
    for file in sorted((ROOT / "pipeline").glob("*.py")):
        others = {room_of(name) for name in project_imports(file.read_text())} - MAY_IMPORT.keys()
        assert not others, f"{file.relative_to(ROOT)} imports {', '.join(sorted(others))}"


def modules() -> dict[str, Path]:
    """Modules of the four packages by their dotted names."""
    files = [f for package in ("data_prep", "lorta", "evaluation", "pipeline") for f in (ROOT / package).rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def test_there_is_no_circle_of_imports():
    """Over imports anywhere in a module; ``CycleError`` names a circle."""
    files = modules()
    edges = {}
    for name, file in files.items():
        targets = {t if t in files else t.rpartition(".")[0] for t in project_imports(file.read_text())}
        edges[name] = {t for t in targets if t in files and t != name and files[t].name != "__init__.py"}
    assert len(edges) > 100
    TopologicalSorter(edges).prepare()


def test_a_circle_is_seen():
    with pytest.raises(CycleError, match="in a cycle"):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"b"}}).prepare()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("data_prep.dataset.store", ("torch", "pipeline")),
        ("evaluation.lddt", ("torch", "scipy")),
        ("lorta", ("torch", "peft", "transformers")),
    ],
)
def test_start_up_leaves_heavy_packages_alone(module, unwanted):
    code = f"import sys, {module}; print([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
