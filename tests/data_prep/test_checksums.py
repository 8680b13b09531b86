from data_prep.files.checksums import CHECKSUMS, damaged_files, write_checksums


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
