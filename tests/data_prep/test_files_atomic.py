import os

import pytest

from data_prep.files.atomic import move_directory, write_bytes, write_text, writing, writing_directory, writing_path


def test_a_write_that_fails_names_the_file_and_leaves_the_one_before(tmp_path, small_files):
    path = tmp_path / "x.pdb"
    write_bytes(path, b"before")
    with small_files(1000), pytest.raises(OSError, match=rf"File too large: '{path}'"):
        write_bytes(path, b"x" * 2000)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    for wrong, reason in ((tmp_path / "none" / "x.pdb", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(OSError, match=rf"{reason}: '{wrong}'$"):
            write_bytes(wrong, b"x")


def test_nobody_sees_a_part_of_a_file(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old\r\n")
    with writing(path) as stream:
        stream.write("new: Å\r\n")
        assert path.read_bytes() == b"old\r\n"
    assert path.read_bytes() == "new: Å\r\n".encode()
    with pytest.raises(KeyError), writing(path, "wb") as stream:
        stream.write(b"half")
        raise KeyError("stopped")
    assert path.read_bytes() == "new: Å\r\n".encode() and os.listdir(tmp_path) == ["a.csv"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), writing(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()


def test_files_have_the_mode_of_other_files(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_path_for_a_library_that_opens_files_itself(tmp_path):
    with writing_path(tmp_path / "a.svg") as path:
        path.write_bytes(b"x")
        assert not (tmp_path / "a.svg").exists()
    assert os.listdir(tmp_path) == ["a.svg"]


def test_a_directory_comes_whole_and_replaces_one(tmp_path):
    target = tmp_path / "step"
    for content in ("old", "new"):
        with writing_directory(target) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / content).write_text(content)
            assert not (target / "deep" / content).exists()
    assert os.listdir(tmp_path) == ["step"] and os.listdir(target / "deep") == ["new"]
    with pytest.raises(ValueError), writing_directory(target) as folder:
        (folder / "half").touch()
        raise ValueError("stopped")
    assert os.listdir(tmp_path) == ["step"] and os.listdir(target) == ["deep"]
    nowhere = tmp_path / "none" / "x"
    with pytest.raises(OSError, match=rf"No such file or directory: '{nowhere}'"), writing_directory(nowhere):
        pass


def test_a_directory_that_cannot_be_moved_leaves_the_one_before(tmp_path):
    (tmp_path / "target").mkdir()
    with pytest.raises(FileNotFoundError):
        move_directory(tmp_path / "none", tmp_path / "target")
    assert os.listdir(tmp_path) == ["target"]
