"""The output directory: what killed commands left, and commands at the same time."""

import csv
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.prediction import directory as module
from pipeline.prediction.directory import PredictionDirectory, Shard
from pipeline.prediction.rows import PredictionRow
from pipeline.prediction.sequences import InputError

SETTINGS = {"model": "m"}
LEFTOVERS = (".a.pdb.12.partial", ".predictions.csv.12.partial", "relaxed/.a.cif.12.partial")


@pytest.fixture
def folder(tmp_path):
    """What a killed command leaves: half-written files, and a lock that no one has."""
    (tmp_path / "relaxed").mkdir()
    for name in (*LEFTOVERS, ".mine.partial", ".predictions.2-of-3.csv.lock", "relaxed/a.pdb"):
        (tmp_path / name).write_text("half")
    return tmp_path


def open_directory(path, shard=None, *, overwrite=False):
    directory = PredictionDirectory(path, shard)
    directory.open(SETTINGS, {}, overwrite=overwrite)
    return directory


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_killed_commands_left_is_removed(folder):
    with open_directory(folder):
        pass
    assert names(folder) == {"predictions.csv", "predictions.json", ".mine.partial", "relaxed/a.pdb"}


def test_while_another_command_is_at_work_nothing_is_removed(folder):
    pytest.importorskip("fcntl")
    with open_directory(folder, Shard(2, 3)):
        (folder / LEFTOVERS[0]).write_text("of the command at work")
        with open_directory(folder):
            assert LEFTOVERS[0] in names(folder)
        with pytest.raises(InputError, match="another command is writing in it"), PredictionDirectory(folder) as one:
            one.open(SETTINGS, {}, overwrite=True)
    with open_directory(folder, overwrite=True):
        assert "predictions.2-of-3.csv" not in names(folder) and LEFTOVERS[0] not in names(folder)


def test_one_of_many_commands_that_begin_at_once_gets_the_table(folder, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)

    def begin(_):
        try:
            return open_directory(folder)
        except InputError as error:
            assert "another command is writing it" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [directory for directory in pool.map(begin, range(8)) if directory is not None]
    assert len(found) == 1
    with found[0]:
        pass
    with open_directory(folder):
        pass


def test_a_table_with_a_row_twice_has_it_once_from_the_start(tmp_path):
    with open_directory(tmp_path) as directory:
        for row in (PredictionRow("a", status="failed"), PredictionRow("b"), PredictionRow("a", "a.pdb")):
            directory.add(row)
    with open_directory(tmp_path), (tmp_path / "predictions.csv").open(newline="") as stream:
        assert [(row["name"], row["status"]) for row in csv.DictReader(stream)] == [("a", "done"), ("b", "done")]
