from data_prep.files.checksums import CHECKSUMS, changed_files, checksums, damaged_files, write_checksums


def test_any_changed_byte_is_found(tmp_path):
    """Every byte of a file and of the list itself, also where it becomes what Python takes for a line break."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"xy")
    write_checksums(tmp_path)
    assert damaged_files(tmp_path) == []
    for name in ("a/b", CHECKSUMS):
        sound = (tmp_path / name).read_bytes()
        for place, byte in enumerate(sound):
            for value in {byte ^ 1, byte ^ 7, byte ^ 32, byte ^ 128, 0x1C} - {byte}:
                (tmp_path / name).write_bytes(sound[:place] + bytes([value]) + sound[place + 1 :])
                found = damaged_files(tmp_path)
                assert found and all(problem.isprintable() for problem in found), (name, place, value)
        (tmp_path / name).write_bytes(sound)
    assert damaged_files(tmp_path) == []


def test_files_by_the_digests_they_were_written_with(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b").write_bytes(b"b")
    sums = checksums(tmp_path)
    assert list(sums) == ["a", "deep/b"] and sums == checksums(tmp_path, ["a", "deep/b"])
    assert sums["a"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert changed_files(tmp_path, sums) == []
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "deep/b").unlink()
    changed, missing = changed_files(tmp_path, sums)
    assert "checksum differs" in changed and missing == f"{tmp_path}/deep/b: cannot be read (No such file or directory)"
