"""Runs that stop before they are done, and runs that share their work."""

import os
import re
import shutil
import signal

import pytest

from data_prep.dataset import blocks, clusters
from data_prep.dataset.store import StructureDataset
from data_prep.files.lock import locked
from pipeline.prepare import main
from tests.pipeline.prepare_demo import demo_arguments, files_of

pytestmark = pytest.mark.slow


def test_output_depends_on_neither_processes_nor_the_order_of_files(demo, tmp_path, monkeypatch):
    scandir = os.scandir

    class Reversed(list):
        def __init__(self, path="."):
            super().__init__(sorted(scandir(path), key=lambda entry: entry.name, reverse=True))

        __enter__ = list.copy

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    monkeypatch.setattr("data_prep.dataset.build.MIN_CHAINS_PER_PROCESS", 5)
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--jobs", "2")) == 0
    assert files_of(out) == files_of(demo)


@pytest.mark.parametrize(("where", "overwrite"), [("reading", False), ("reading", True), ("comparing", False)])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    demo, tmp_path, monkeypatch, small_blocks, capsys, where, overwrite
):
    """Ctrl-C after some of the files, or some of the alignments: what was done is not done again."""
    calls = []

    def counted(call):
        def wrapped(*arguments):
            calls.append(call)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return call(*arguments)

        return wrapped

    module, name = (blocks, "_make_block") if where == "reading" else (clusters, "_compare_rows")
    monkeypatch.setattr(module, name, counted(getattr(module, name)))
    out = tmp_path / "data"
    options = ["--overwrite"] if overwrite else []
    assert main(demo_arguments(out, *options)) == 130
    assert "the same command goes on" in capsys.readouterr().err and not out.exists()
    assert main(demo_arguments(out, *options)) == 0
    assert files_of(out) == files_of(demo)
    total = 7 if where == "reading" else 5
    assert len(calls) == (1 + total if where == "reading" else 1 + 3 + total), "kept alignments are only loaded"
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "no work is left behind"


def test_what_a_killed_run_leaves_is_no_hindrance(demo, tmp_path, small_blocks):
    """A block cut while it was written, its shard without the rest, and a dataset half written."""
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--shard", "1/2")) == 0
    work = tmp_path / ".data.work"
    (work / "000001.4711.partial").write_bytes(b"half a sha")
    (work / "000001.safetensors").write_bytes(b"a shard without its JSON file")
    (work / "lock").touch()
    (work / "dataset/shards").mkdir(parents=True)
    (work / "dataset/shards/00007.safetensors").write_bytes(b"of a dataset never finished")
    assert main(demo_arguments(out)) == 0
    assert files_of(out) == files_of(demo)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_damaged_work_is_named_and_made_again(demo, tmp_path, small_blocks, capsys):
    """What a lost write leaves: an empty block, or half of its shard."""
    out = tmp_path / "data"
    for name, damaged in (("000002.json", "000002.json"), ("000003.safetensors", "000003.json")):
        assert main(demo_arguments(out, "--shard", "1/1")) == 0
        whole = (tmp_path / ".data.work" / name).read_bytes()
        (tmp_path / ".data.work" / name).write_bytes(whole[: len(whole) // 2])
        assert main(demo_arguments(out)) == 2
        assert re.search(rf"/{damaged}: damaged .*; remove it, and its files are read again", capsys.readouterr().err)
        (tmp_path / ".data.work" / damaged).unlink()
        assert main(demo_arguments(out)) == 0
        assert files_of(out) == files_of(demo)
        shutil.rmtree(out)


def test_a_killed_process_is_told_and_the_work_goes_on(demo, tmp_path, small_blocks, monkeypatch, capsys):
    """As where the system ends the process that takes the most memory."""
    monkeypatch.setattr(blocks, "_make_block", die)
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--jobs", "2")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: a worker process was killed") and "the same command goes on" in last
    monkeypatch.undo()
    assert main(demo_arguments(out, "--overwrite")) == 0
    assert files_of(out) == files_of(demo)


def test_the_same_command_twice_at_once(demo, tmp_path, capsys):
    """The second must not take away what the first writes."""
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--shard", "1/1")) == 0
    with locked(tmp_path / ".data.work/lock") as is_alone:
        assert is_alone and main(demo_arguments(out)) == 2
    assert capsys.readouterr().err.endswith("/.data.work: another run is making this dataset\n")
    assert main(demo_arguments(out)) == 0
    assert files_of(out) == files_of(demo)


def die(*arguments) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_parts_in_any_order_and_merge(demo, tmp_path, small_blocks, capsys):
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--merge")) == 2
    for part in ("3/3", "1/3"):
        assert main(demo_arguments(out, "--shard", part)) == 0
    assert main(demo_arguments(out, "--merge")) == 2
    assert "2 of 7 blocks of files have not been read" in capsys.readouterr().err
    assert main(demo_arguments(out, "--shard", "2/3")) == 0
    assert "--merge in place of --shard" in capsys.readouterr().out and not out.exists()
    assert main(demo_arguments(out, "--merge")) == 0
    assert files_of(out) == files_of(demo)
    for part in ("1/2", "2/2"):
        assert main(demo_arguments(out, "--overwrite", "--val-fraction", "0", "--shard", part)) == 0
    assert files_of(out) == files_of(demo)
    assert main(demo_arguments(out, "--overwrite", "--val-fraction", "0", "--merge")) == 0
    assert StructureDataset(out).ids("val") == [], "each part kept what the others had read"


def test_unfinished_work_with_other_settings_is_not_mixed_in(tmp_path, capsys):
    out = tmp_path / "data"
    assert main(demo_arguments(out, "--shard", "1/1")) == 0
    before = files_of(tmp_path)
    assert main(demo_arguments(out, "--min-length", "100")) == 2
    assert "holds unfinished work on other files or with other settings" in capsys.readouterr().err
    assert files_of(tmp_path) == before
    assert main(demo_arguments(out, "--min-length", "100", "--overwrite")) == 0
    assert min(row["length"] for row in StructureDataset(out).table.to_pylist()) >= 100


@pytest.mark.parametrize("limit", [10_000, 400_000])
def test_a_file_that_cannot_be_written_is_one_line_and_the_old_dataset_stays(
    tmp_path, capsys, small_blocks, small_files, limit
):
    """The system refuses to write on, as on a full disk: first the blocks, then the dataset."""
    out = tmp_path / "data"
    assert main(demo_arguments(out)) == 0
    before = files_of(out)
    assert max(map(len, before.values())) > limit
    with small_files(limit):
        status = main(demo_arguments(out, "--overwrite"))
    assert status == 2
    assert re.fullmatch(r"error: .*: File too large", capsys.readouterr().err.rstrip().splitlines()[-1])
    assert files_of(out) == before
    assert main(demo_arguments(out, "--overwrite")) == 0 and files_of(out) == before
