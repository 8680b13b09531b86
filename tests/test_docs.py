"""Command lines of the README and the docs: every module, option, make target and file in them exists.

What the commands do is tested elsewhere (tests/test_main_job.py runs those of the main job); this finds the lines that
an option's new name has left behind.
"""

import argparse
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.layers import dotted_layer, resolve
from pipeline.config.schema import RunConfig
from pipeline.lm.settings import STAGES
from pipeline.training.options import parser as train_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = {"I/N": "1/2", "i/n": "1/2", "N": "1", "STEP": "1", "DATE": "2020-01-01", "...": ""}
"""Words of the pages that stand for a value of a certain form."""


def command_lines(page: Path) -> Iterator[str]:
    """Commands of ours in code blocks, indented or fenced (continued lines joined), and in inline code."""
    fenced, pending = False, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not (fenced or line.startswith("    ") or pending):
            yield from re.findall(r"`((?:python -m|snakemake|make) [^`]+)`", line)
            continue
        text = pending + line.strip().removeprefix("$ ")
        if text.endswith("\\"):
            pending = text[:-1]
            continue
        pending = ""
        if re.match(r"(python -m|torchrun|srun|snakemake|make) ", text):
            yield text


LINES = [pytest.param(line, id=f"{page.name}: {line[:70]}") for page in PAGES for line in command_lines(page)]


DOTTED = {
    "pipeline.train": RunConfig, "pipeline.compare": RunConfig, "pipeline.learning_curve": RunConfig,
    "pipeline.nlu": STAGES["nlu"], "pipeline.sft": STAGES["sft"], "pipeline.dpo": STAGES["dpo"],
    "pipeline.lm_compare": STAGES["nlu"],
}  # fmt: skip
"""Commands that take any field of a configuration by its dotted name."""


class ParsedError(Exception):
    """The arguments were accepted; nothing else of the command should run."""


def words(line: str) -> list[str]:
    text = re.sub(r"\s\(.*\)\s*$|[\[\]]", "", line)
    found = (PLACEHOLDERS.get(word, word).split("|")[0] for word in shlex.split(text, comments=True))
    return [word for word in found if word]


def check_module(module: str, arguments: list[str], monkeypatch) -> None:
    """Run a module until it has parsed its arguments; argparse exits with 2 if it does not take them."""
    known = argparse.ArgumentParser.parse_known_args

    def parse(self, args=None, namespace=None):
        namespace, rest = known(self, args, namespace)
        if module in ("pipeline.compare", "pipeline.learning_curve"):  # hand on what they do not know
            _, rest = known(train_parser(), rest)
        if rest:
            assert module in DOTTED, f"{module} does not know {rest}"
            resolve(dotted_layer(rest), kind=DOTTED[module])
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.raises((ParsedError, SystemExit)) as stopped:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    if stopped.type is SystemExit:
        assert (stopped.value.code, "--help" in arguments) == (0, True)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize("line", LINES)
def test_command_line_is_one_that_works(line, monkeypatch):
    found = words(line)
    if found[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert found[1] in targets
    elif found[0] == "snakemake":
        for option in ("-s", "--configfile", "--profile"):
            if option in found:
                assert (ROOT / found[found.index(option) + 1]).exists()
    elif "-m" in found:
        module = found[found.index("-m") + 1]
        if module.split(".")[0] in ("pipeline", "evaluation", "benchmarks"):
            check_module(module, found[found.index("-m") + 2 :], monkeypatch)
        else:
            assert module in ("venv", "pip", "pytest"), f"what is {module}?"
    else:
        pytest.fail(f"no rule for {line!r}")


def test_pages_have_command_lines():
    assert len(LINES) > 20


def test_links_of_the_pages_lead_somewhere():
    dead = []
    for page in (*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                dead.append(f"{page.name}: {target}")
    assert dead == []


def anchors(page: Path) -> set[str]:
    """Of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def modules_of_the_table() -> list[str]:
    """Paths below ``pipeline`` that the table names; a name without a folder is in the folder of the one before."""
    found = []
    for row in re.findall(r"^\| (`.+?) \|", ARCHITECTURE, flags=re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", row):
            folder = name.rpartition("/")[0] if "/" in name else folder
            found.append(name if "/" in name or not folder else f"{folder}/{name}")
    return found


def test_architecture_names_modules_that_exist():
    names = modules_of_the_table()
    assert len(names) > 50
    pipeline = ROOT / "pipeline"
    assert [n for n in names if not ((pipeline / f"{n}.py").is_file() or (pipeline / n).is_dir())] == []


def test_architecture_leaves_out_no_package_and_no_command():
    names = modules_of_the_table()
    pipeline = ROOT / "pipeline"
    packages = {str(path.parent.relative_to(pipeline)) for path in pipeline.rglob("*.py")} - {"."}
    assert {package for package in packages if not any(f"{name}/".startswith(f"{package}/") for name in names)} == set()
    commands = {path.stem for path in pipeline.glob("*.py") if "\nif __name__ ==" in path.read_text(encoding="utf-8")}
    assert commands - set(names) == set()


def test_arrows_of_the_architecture_are_commands():
    """What its first picture draws: each stage takes what the one before it writes."""
    picture = ARCHITECTURE.split("Every arrow")[0]
    arrows = re.findall(r"^    (.+?) --(?:([\w.]+)--)?> (.+?)(?: --([\w.]+)--> (.+))?$", picture, flags=re.MULTILINE)
    stages = [name for arrow in arrows for name in (arrow[1], arrow[3]) if name]
    assert stages == ["data_prep", "pipeline.prepare", "pipeline.train", "pipeline.predict", "evaluation.lddt"]
    for name in stages[1:]:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file()
