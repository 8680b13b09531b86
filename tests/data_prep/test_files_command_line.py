import argparse
import errno

import pytest

from data_prep.files.command_line import CommandParser, command_name, release, renamed_option, run_command
from data_prep.files.errors import RunError, UserError


def parser(**options) -> CommandParser:
    p = CommandParser("pipeline.thing", "Do things. " * 30, common=("--out",), examples="examples:\n  x", **options)
    p.add_argument("--out", required=True, help="where to")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of draws")
    p.add_argument_group("rare").add_argument("--keep-all", action=argparse.BooleanOptionalAction, help="keep")
    return p


def printed(p, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        p.parse_args([option])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_short_page_and_the_long_one(capsys):
    p = parser(details=lambda: "fields:\n  a.b = 1\n")
    short, long = printed(p, capsys, "--help"), printed(p, capsys, "--help-all")
    assert "--out" in short and "--help-all" in short and "examples:\n  x" in short
    assert not any(text in short for text in ("--seeds", "rare", "--keep-all", "a.b"))
    assert all(text in long for text in ("--out", "--seeds SEEDS", "rare:", "--no-keep-all", "a.b = 1\n\nexamples:"))
    assert max(map(len, short.splitlines())) < 121
    assert printed(p, capsys, "-h") == short and p.format_help() == long
    assert printed(p, capsys, "--version") == f"lorta-fold {release()}\n"


def test_without_common_options_there_is_one_page(capsys):
    p = CommandParser("evaluation.lddt", "Score.")
    p.add_argument("--out", help="where to")
    page = printed(p, capsys, "--help")
    assert "--out" in page and "--help-all" not in page


def test_old_names_are_understood_and_the_new_one_is_named(capsys):
    p = parser()
    renamed_option(p, "--directory", "--out")
    renamed_option(p, "--seed-list", "--seeds", nargs=None, type=lambda text: [int(n) for n in text.split(",")])
    renamed_option(p, "--keep", "--keep-all")
    assert vars(p.parse_args(["--out", "a"])) == {"out": "a", "seeds": [0], "keep_all": None}
    assert capsys.readouterr().err == ""
    found = p.parse_args(["--directory", "a", "--seed-list", "1,2", "--keep"])
    assert vars(found) == {"out": "a", "seeds": [1, 2], "keep_all": True}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: --directory is now called --out; the old name goes with the next version"
    assert len(said) == 3 and "--directory" not in p.format_help()


def test_names_of_commands(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/lorta-fold"])
    assert command_name("pipeline.lm_compare") == "lorta-fold lm-compare"
    monkeypatch.setattr("sys.argv", ["/x/pipeline/train.py"])
    assert command_name("pipeline.train") == "python -m pipeline.train"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.toml: wrong"), 2, "error: x.toml: wrong"),
        (RunError("the loss is NaN"), 1, "error: the loss is NaN"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"a/b"), 2, "error: a/b: No such file"),
        (OSError(errno.ENOSPC, "No space left"), 1, "error: No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_foreseeable_errors_are_one_line(error, code, line, capsys):
    def body(arguments):
        raise error

    assert run_command(body, argparse.Namespace()) == code
    assert capsys.readouterr().err == line + "\n"


def test_other_errors_are_ours():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda arguments: 1 // 0, argparse.Namespace())
    assert run_command(lambda arguments: 7, argparse.Namespace()) == 7
