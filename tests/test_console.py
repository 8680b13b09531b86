"""``lorta-fold`` and ``python -m pipeline``: what they list and run, whatever the working directory holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import data_prep
import evaluation
import lorta
import pipeline
from data_prep.files.command_line import release
from pipeline.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = "import sys; from pipeline.__main__ import main; sys.exit(main())"
"""The script that pip writes for ``lorta-fold``; with -P, because the directory of a script is not the working one."""


def test_packages_state_their_version():
    assert {package.__version__ for package in (data_prep, evaluation, lorta, pipeline)} == {release()}


def test_commands_are_listed_and_a_wrong_one_is_a_line(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"lorta-fold {release()}\n"
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: 'trian' is not a command: did you mean train?\n"


@pytest.mark.parametrize(
    ("words", "obstacle"),
    [
        (["-P", "-c", CONSOLE, "evaluate", "--version"], "pipeline.py"),
        (["-P", "-c", CONSOLE, "--version"], "lorta/__init__.py"),
        (["-m", "pipeline", "evaluate", "--version"], "evaluation/__init__.py"),
        (["-m", "pipeline.export", "--version"], "lorta/__init__.py"),
    ],
)
def test_what_is_in_the_working_directory_is_not_imported(tmp_path, words, obstacle):
    file = tmp_path / obstacle
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('imported from the working directory')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"lorta-fold {release()}\n"), result.stderr


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_help_needs_no_torch(module):
    """It takes two seconds to import; without it the help of every command takes less than 0.3 s."""
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, [name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: ") and result.stdout.endswith("\n0 []\n")


def test_commands_start_others_in_the_same_way(tmp_path, monkeypatch):
    from pipeline.config.command import child_environment

    (tmp_path / "pipeline.py").write_text("raise SystemExit('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], env=child_environment(), capture_output=True, text=True
    )
    assert result.stdout == f"lorta-fold {release()}\n", result.stderr
