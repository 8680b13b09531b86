import inspect
import os
import sys

import pytest

from data_prep.dataset.inputs import find_structures


def test_every_entry_is_found_once(tmp_path):
    for name in ("b.pdb", "a.CIF.gz", "sub/dir/c.ent", "notes.txt", ".hidden.pdb", ".git/d.pdb", "e.pdb.bz2", "Z.pdb1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    os.mkfifo(tmp_path / "pipe.pdb")
    (tmp_path / "dir.pdb").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.pdb").symlink_to(tmp_path / "b.pdb")
    (tmp_path / "broken.pdb").symlink_to(tmp_path / "nowhere")
    files, rows, groups = find_structures(tmp_path)
    assert files == ["Z.pdb1", "a.CIF.gz", "b.pdb", "e.pdb.bz2", "link.pdb", "sub/dir/c.ent"] and groups == []
    assert {(row.file, row.chain, row.status): row.reason for row in rows} == {
        (".git", "", "rejected"): "hidden directory, not entered: ignored",
        (".hidden.pdb", "", "rejected"): "hidden file: ignored",
        ("broken.pdb", "", "unreadable"): "cannot be read: No such file or directory",
        ("dir.pdb", "", "rejected"): "a directory, and named like a structure file: what is in it is read",
        ("loop", "", "rejected"): "link to a directory: not followed",
        (
            "notes.txt",
            "",
            "rejected",
        ): "not a structure file: its name does not end in .pdb .ent .cif .mmcif .bcif (.gz)",
        ("pipe.pdb", "", "unreadable"): "cannot be read: a pipe, socket or device",
    }


def test_directories_below_each_other_deeper_than_a_stack(tmp_path):
    (tmp_path / "/".join("d" * 150)).mkdir(parents=True)
    (tmp_path / "/".join("d" * 150) / "a.pdb").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        files = find_structures(tmp_path)[0]
    finally:
        sys.setrecursionlimit(limit)
    assert files == ["d/" * 150 + "a.pdb"]


def test_a_list_names_each_file_once(tmp_path):
    """However its path is written; what lies elsewhere keeps the path that was given."""
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("in/a.pdb", "in/sub/b.pdb", "c.pdb"):
        (tmp_path / name).write_text("x")
    listed = [
        "./a.pdb",
        "a.pdb",
        "sub/../a.pdb",
        str(tmp_path / "in/a.pdb"),
        "sub//b.pdb",
        str(tmp_path / "c.pdb"),
        "no",
    ]
    files, rows, groups = find_structures(tmp_path / "in", listed)
    assert files == [str(tmp_path / "c.pdb"), "a.pdb", "sub/b.pdb"] and groups == []
    assert [(row.file, row.reason) for row in rows] == [("no", "cannot be read: No such file or directory")]


def test_the_output_is_no_input(tmp_path):
    for name in (
        "a.pdb",
        "data/index.parquet",
        ".data.work/work.json",
        ".data.12.old/x",
        ".data.x.old/y",
        "data2/b.pdb",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files, rows, _ = find_structures(tmp_path, out=tmp_path / "data")
    assert files == ["a.pdb", "data2/b.pdb"] and [row.file for row in rows] == [".data.x.old"]


def test_a_name_that_is_no_text(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"a\xff.pdb")).touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    files, (row,), _ = find_structures(tmp_path)
    assert files == [] and (row.status, row.reason[:44]) == (
        "unreadable",
        "cannot be read: its path is not valid UTF-8;",
    )


def test_files_that_share_a_stem_are_grouped(tmp_path):
    for name in ("x.pdb", "x.cif.gz", "sub/X.ent", "y.pdb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files, rows, groups = find_structures(tmp_path)
    assert (files, rows, groups) == (["sub/X.ent", "y.pdb"], [], [["x.cif.gz", "x.pdb"]])


def test_a_directory_that_may_not_be_listed(tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    try:
        os.listdir(tmp_path / "shut")
    except PermissionError:
        (row,) = find_structures(tmp_path)[1]
        assert (row.file, row.status, row.reason) == ("shut", "unreadable", "cannot be listed: Permission denied")
    else:
        pytest.skip("this user may list every directory")
    finally:
        (tmp_path / "shut").chmod(0o700)
