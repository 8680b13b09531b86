import pytest

from data_prep.files.journal import Journal, JournalError, differences


def test_rows_outlive_the_process(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with Journal(path, {"seed": 1, "names": ("a", "b")}) as journal:
        journal.append({"name": "Cα"}, {"name": "b"})
        assert path.read_text() == '{"seed": 1, "names": ["a", "b"]}\n{"name": "Cα"}\n{"name": "b"}\n'
    with Journal(path, {"seed": 1, "names": ("a", "b")}, sync=True) as journal:
        assert [row["name"] for row in journal.rows] == ["Cα", "b"]
        journal.append({"name": "c"})
        journal.rewrite(reversed(journal.rows))
        journal.append({"name": "d"})
    assert [row["name"] for row in Journal(path, {"seed": 1, "names": ["a", "b"]}).open().rows] == ["c", "b", "Cα", "d"]


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path, {}) as journal:
        journal.append({"n": 1}, {"n": 2})
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with Journal(path, {}) as journal:
            assert [row["n"] for row in journal.rows] == [1, 2][: max(0, whole[:size].count(b"\n") - 1)]
            journal.append({"n": 3})
        assert path.read_bytes().endswith(b'{"n": 3}\n') and path.read_bytes().startswith(b"{}\n")


def test_rows_of_other_settings_are_refused_or_begun_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path, {"seed": 1, "size": 2}) as journal:
        journal.append({"n": 1})
    with pytest.raises(JournalError, match=rf"^{path}: belongs to .*\(seed was 1, now 7\)$") as error:
        Journal(path, {"seed": 7, "size": 2}).open()
    assert error.value.exit_code == 2
    with Journal(path, {"seed": 7}).open(resume=False) as journal:
        assert journal.rows == []
    assert path.read_text() == '{"seed": 7}\n'


def test_a_file_without_header(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}\n')
    with Journal(path) as journal:
        assert [row["n"] for row in journal.rows] == [1, 2]
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.append({"n": float("nan")})
    assert path.read_text() == '{"n": 1}\n\n{"n": 2}\n'


@pytest.mark.parametrize("damage", ["{]", "3", "\udcff", "[" * 100_000])
def test_damage_is_named_with_its_line(tmp_path, damage):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{}}\n{{"n": 1}}\n{damage}\n', errors="surrogateescape")
    with pytest.raises(JournalError, match=rf"^{path}: line 3 is damaged \([^\n]*\)$"):
        Journal(path, {}).open()


def test_differences():
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == "b was 2, now None, c was None, now 3"
    assert differences({"a": [1]}, {"a": [1]}) == ""
