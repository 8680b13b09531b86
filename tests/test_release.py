"""Every command states the version; what is in the metadata is what the files say."""

import runpy
import tomllib
from pathlib import Path

import pytest

from data_prep.release import release

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "pipeline.prepare", "pipeline.train", "pipeline.predict", "pipeline.export", "pipeline.weights", "pipeline.demo",
    "pipeline.compare", "pipeline.sweep", "pipeline.nlu", "pipeline.sft", "pipeline.dpo", "pipeline.lm_compare",
    "pipeline.mtbench", "evaluation.lddt", "evaluation.compare",
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
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert found == set(COMMANDS)


def test_release_is_one_number():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert release() == project
    assert f"\nversion: {project}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {project}" in (ROOT / "CHANGELOG.md").read_text()
