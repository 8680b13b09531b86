"""Imports run one way; the evaluator starts without torch and scipy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "data_prep": set(),
    "lorta": set(),
    "evaluation": {"data_prep"},
    "pipeline": {"data_prep", "lorta", "evaluation"},
}
PROJECT = {*MAY_IMPORT, "workflows", "tests", "benchmarks"}


def project_imports(source: str) -> set[str]:
    """Top-level packages of the project that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found & PROJECT


def test_the_reader_of_imports_sees_all_kinds():
    source = "import lorta.attach as x\ndef f():\n    from pipeline.config.schema import y\nimport os"
    assert project_imports(source) == {"lorta", "pipeline"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no modules in {package}"
    for file in files:
        extra = project_imports(file.read_text()) - MAY_IMPORT[package] - {package}
        assert not extra, f"{file.relative_to(ROOT)} imports {', '.join(sorted(extra))}"


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
