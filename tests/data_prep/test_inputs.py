import os

import pytest

from data_prep.inputs import find_structures


def test_every_entry_is_found_once(tmp_path):
    for name in ("b.pdb", "a.CIF.gz", "sub/dir/c.ent", "notes.txt", ".hidden.pdb", ".git/d.pdb", "e.pdb.bz2", "Z.pdb1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    os.mkfifo(tmp_path / "pipe.pdb")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.pdb").symlink_to(tmp_path / "b.pdb")
    (tmp_path / "broken.pdb").symlink_to(tmp_path / "nowhere")
    files, rows, groups = find_structures(tmp_path)
    assert files == ["Z.pdb1", "a.CIF.gz", "b.pdb", "e.pdb.bz2", "link.pdb", "sub/dir/c.ent"] and groups == []
    assert {(row.file, row.chain, row.status): row.reason for row in rows} == {
        (".git", "", "rejected"): "hidden directory, not entered: ignored",
        (".hidden.pdb", "", "rejected"): "hidden file: ignored",
        ("broken.pdb", "", "unreadable"): "cannot be read: No such file or directory",
        ("loop", "", "rejected"): "link to a directory: not followed",
        (
            "notes.txt",
            "",
            "rejected",
        ): "not a structure file: its name does not end in .pdb .ent .cif .mmcif .bcif (.gz)",
        ("pipe.pdb", "", "unreadable"): "cannot be read: a pipe, socket or device",
    }


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
    assert (files, rows, groups) == (["y.pdb"], [], [["sub/X.ent", "x.cif.gz", "x.pdb"]])


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
