"""Checkpoints are complete when they have checksums, and whole when these are right."""

import pytest

from pipeline.lm.errors import InputError
from pipeline.lm.run import SUMS, newest_whole, seal


def make(folder, step: int, keep: int = 9, sealed: bool = True):
    path = folder / f"checkpoint-{step}"
    (path / "ref").mkdir(parents=True, exist_ok=True)
    (path / "weights").write_text(f"weights {step}")
    (path / "ref" / "state").write_text("state")
    if sealed:
        seal(path, keep)
    return path


def steps(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir() if path.is_dir())


def test_the_newest_whole_one_is_taken_by_its_number(tmp_path):
    said = []
    assert newest_whole(tmp_path / "none", said.append) is None
    for step in (2, 9, 10):
        make(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "README.md").write_text("of PEFT")
    assert newest_whole(tmp_path, said.append) == tmp_path / "checkpoint-10" and said == []


def test_one_without_checksums_was_being_written(tmp_path):
    said = []
    make(tmp_path, 2, sealed=False)
    assert newest_whole(tmp_path, said.append) is None  # nothing was ever complete
    seal(tmp_path / "checkpoint-2", 1)
    make(tmp_path, 4, sealed=False)
    assert newest_whole(tmp_path, said.append).name == "checkpoint-2"
    assert said == [
        f"{tmp_path}/checkpoint-{step}: was being written when the run ended, and is passed over" for step in (2, 4)
    ]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "weights").write_text("weights 5"), "weights has not the checksum"),
        (lambda path: (path / "ref" / "state").write_text(""), "ref/state has not the checksum"),
        (lambda path: (path / "weights").unlink(), "weights is missing"),
        (lambda path: (path / SUMS).write_text("{"), f"{SUMS} cannot be read"),
        (lambda path: (path / SUMS).write_text("3"), f"{SUMS} cannot be read"),
    ],
)
def test_a_damaged_one_is_passed_over(damage, reason, tmp_path):
    said = []
    make(tmp_path, 2)
    damage(make(tmp_path, 4))
    assert newest_whole(tmp_path, said.append).name == "checkpoint-2"
    assert len(said) == 1 and reason in said[0]
    damage(tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match="all 2 checkpoints are damaged: remove the directory to begin anew"):
        newest_whole(tmp_path, said.append)


def test_older_ones_go_only_when_a_new_one_is_complete(tmp_path):
    make(tmp_path, 1, keep=1)
    make(tmp_path, 2, sealed=False)
    assert steps(tmp_path) == [1, 2]
    seal(tmp_path / "checkpoint-2", 1)
    assert steps(tmp_path) == [2]
    for step in (3, 4, 5):
        make(tmp_path, step, keep=2)
    assert steps(tmp_path) == [4, 5]


def test_what_was_passed_over_goes_and_takes_no_good_one_along(tmp_path):
    for step in (2, 6):
        make(tmp_path, step)
    make(tmp_path, 3, sealed=False)
    make(tmp_path, 4, keep=2)  # a run that went on from 2, because 6 was damaged
    assert steps(tmp_path) == [2, 4]
