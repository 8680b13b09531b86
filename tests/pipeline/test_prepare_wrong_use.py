"""What cannot be used is one line and exit status 2, and nothing is destroyed."""

import re
import shutil

import pytest

from pipeline.prepare import main
from tests.pipeline.prepare_demo import DEMO, files_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--pdb-dir", "{tmp}/no"], r"--pdb-dir .*/no: no such directory"),
        (["--pdb-dir", "{tmp}/file"], r"--pdb-dir .*/file: is not a directory"),
        (["--pdb-dir", "{tmp}/empty"], r".*/empty: is empty, expected structure files"),
        (["--pdb-dir", "{tmp}/notes"], r"no structure files among 1 entries, as file: not a structure file"),
        (
            ["--pdb-dir", "{tmp}/bad"],
            r"no usable protein chain in 1 structure files; nothing written \(x.pdb: empty file",
        ),
        (
            ["--out", "{tmp}/empty/../bad"],
            r"/bad: is not a dataset \(no dataset\.json\), so it is not overwritten; give another --out",
        ),
        (["--out", "{tmp}/bad", "--overwrite"], r"is not a dataset \(no dataset\.json\), so it is not overwritten"),
        (["--out", "{tmp}/file/data"], r"cannot be written \(Not a directory\)"),
        (["--val-ids", "{tmp}/no"], r"/no: cannot be read \(No such file or directory\)"),
        (["--val-ids", "{tmp}/file"], r"validation ids are not in the dataset: nonsense"),
        (["--identity", "30"], r"identity is 30.0, expected more than 0 and at most 1"),
        (["--val-fraction", "1"], r"val_fraction is 1.0"),
        (["--pdb-dir", "{tmp}/good/2igd_A.pdb.gz", "--list", "{tmp}/file"], r"--list names files of a directory"),
        (["--out", "{tmp}/done"], r"/done: is a finished dataset; --update adds what is new .*, --overwrite makes"),
        (["--out", "{tmp}/bad", "--update"], r"/bad: is not a dataset"),
        (["--update", "--overwrite"], r"--update with --overwrite: an update keeps what is in"),
        (["--update", "--shard", "1/2"], r"--update with --shard"),
        (["--jobs", "0"], r"--jobs 0: expected 1 or more"),
        (["--shard", "3/2"], r"--shard 3/2: expected I/N with I from 1 to N"),
        (["--shard", "half"], r"--shard half: expected I/N"),
        (["--merge", "--shard", "1/2"], r"--merge finishes what --shard runs have read: give one of the two"),
        (["--method", "guess"], r"guess"),
        (["--max-length", "5"], r"max_length 5 is below min_length 20"),
        (["--min-length", "-1"], r"min_length is -1, expected 0 or more"),
        (["--max-resolution", "nan"], r"max_resolution is nan, expected more than 0"),
        (["--released-before", "2020-02-30"], r"released_before is 2020-02-30, expected a date as 2020-05-01"),
        (["--recipe", "boltz", "--released-from", "2022-01-01"], r"expected a day after released_from, 2022-01-01"),
        (["--val-from", "2020-13-01"], r"val_from is 2020-13-01, expected a date"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_2(tmp_path, capsys, change, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.pdb").touch()
    (tmp_path / "file").write_text("nonsense\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/file").touch()
    (tmp_path / "good").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "done/dataset.json").write_text("{}")
    shutil.copy(DEMO / "2igd_A.pdb.gz", tmp_path / "good")
    before = files_of(tmp_path)
    change = [part.format(tmp=tmp_path) for part in change]
    usual = {"--pdb-dir": f"{tmp_path}/good", "--out": f"{tmp_path}/out", "--jobs": "1"}
    arguments = [word for name, value in usual.items() if name not in change for word in (name, value)]
    assert main([*arguments, *change]) == 2
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert last.startswith("error: ") and re.search(message, last), last
    after = {name: data for name, data in files_of(tmp_path).items() if not name.startswith(".out.work/")}
    assert after == before, "nothing but work that a corrected command goes on with"


@pytest.mark.parametrize("words", [[], ["--out", "D"], ["--pdb-dir", "D"]])
def test_what_is_needed_is_said(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and "--pdb-dir and --out are needed" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--pdb-dir", "--out", "--list", "--ids", "--val-ids", "--test-ids"])
def test_a_path_given_twice_is_not_dropped(capsys, option):
    with pytest.raises(SystemExit) as stop:
        main(["--pdb-dir", "D", "--out", "O", option, "one", option, "two"])
    assert stop.value.code == 2 and f"{option} is given twice" in capsys.readouterr().err


def test_a_directory_in_the_place_of_the_work_is_not_removed(tmp_path, capsys):
    (tmp_path / ".data.work").mkdir()
    (tmp_path / ".data.work/thesis.tex").write_text("mine")
    arguments = ["--pdb-dir", str(DEMO / "2igd_A.pdb.gz"), "--out", str(tmp_path / "data"), "--jobs", "1"]
    for more in ([], ["--overwrite"]):
        assert main([*arguments, *more]) == 2
        assert "has no work.json, so it is no work directory; remove it" in capsys.readouterr().err
    assert files_of(tmp_path) == {".data.work/thesis.tex": b"mine"}
