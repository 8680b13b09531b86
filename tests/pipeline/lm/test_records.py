"""Files of examples: every format gives the same records; damage is named with file and line."""

import json
from functools import partial

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.lm.errors import InputError
from pipeline.lm.examples import convert, instruction_example
from pipeline.lm.records import load_split, read_records, split_off, train_and_validation
from pipeline.lm.settings import DataSettings

RECORDS = [{"a": "one", "b": 'with "quotes", commas'}, {"a": "zwei ü", "b": "x"}]


def test_all_formats_give_the_same_records(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(RECORDS))
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(record) for record in RECORDS) + "\n\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "x.parquet")
    (tmp_path / "x.tsv").write_text("a\tb\n" + "".join(f"{r['a']}\t{r['b']}\n" for r in RECORDS))
    (tmp_path / "x.csv").write_text('a,b\none,"with ""quotes"", commas"\r\nzwei ü,x\r\n')
    (tmp_path / "bom.tsv").write_bytes(b"\xef\xbb\xbfa\tb\nc\td\n")
    for name in ("x.json", "x.jsonl", "x.parquet", "x.tsv", "x.csv"):
        assert read_records(tmp_path / name) == RECORDS, name
    assert read_records(tmp_path / "bom.tsv") == [{"a": "c", "b": "d"}]


def test_a_csv_cell_may_have_lines(tmp_path):
    (tmp_path / "x.csv").write_text('a,b\n"one\ntwo",3\n4\n')
    with pytest.raises(InputError, match="line 4: 1 columns"):
        read_records(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text('a,b\n"one\ntwo",3\n')
    assert read_records(tmp_path / "x.csv") == [{"a": "one\ntwo", "b": "3"}]


def test_a_line_separator_inside_a_json_string_ends_no_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": "one\u2028two"}\n{"a": "x\\u0085y"}\n')
    assert [record["a"] for record in read_records(tmp_path / "x.jsonl")] == ["one\u2028two", "x\x85y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"[{]", "x.json, line 1: not JSON"),
        ("x.jsonl", b'{"a": 1}\n{"a": \n', "x.jsonl, line 2: not JSON"),
        ("x.jsonl", b'{"a": 1}\n[1]\n', "line 2: an example is an object with named fields, found list"),
        ("x.json", b'["text"]', "entry 1: an example is an object"),
        ("x.json", b"[]", "no examples"),
        ("x.jsonl", b"\n", "no examples"),
        ("x.tsv", b"a\tb\n1\t2\n3\n", "line 3: 1 columns, expected 2: a, b"),
        ("x.tsv", b"a\tb\n", "no examples"),
        ("x.json", b"\xff\xfe", "not UTF-8"),
        ("x.parquet", b"PAR", "not Parquet"),
        ("x.docx", b"", "ends in one of .jsonl"),
        ("x.tsv", b"a\ta\n1\t2\n", "line 1: two columns of one name: a, a"),
        ("x.csv", b'a,b\n"' + b"x" * 200_000, "line 2: field larger than field limit (131072): an open quote"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_damage_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_records(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_named(tmp_path):
    file = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["text"] * 50}), file)
    whole = file.read_bytes()
    for content in (whole[:100], whole[:10] + b"\xff" * 60 + whole[70:], whole[:-40] + b"\xee" * 30 + whole[-10:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.parquet: not Parquet: ") as caught:
            read_records(file)
        assert "\n" not in str(caught.value)
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), file)
    with pytest.raises(InputError, match=r"x\.parquet: no examples"):
        read_records(file)
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.parquet")


def as_read(records: list[dict], source: str) -> list[dict]:
    return records


def test_splits_of_a_directory_and_of_one_file(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": "1"}\n{"a": "2"}\n')
    (tmp_path / "dev.csv").write_text("a\n3\n")
    assert train_and_validation(DataSettings(train=str(tmp_path)), as_read) == ([{"a": "1"}, {"a": "2"}], [{"a": "3"}])
    one = str(tmp_path / "train.jsonl")
    train, held_out = train_and_validation(DataSettings(train=one, validation_fraction=0.5), as_read)
    assert sorted(r["a"] for r in train + held_out) == ["1", "2"] and len(held_out) == 1
    assert load_split(one, "validation") is None
    named = train_and_validation(DataSettings(train=one, validation=str(tmp_path / "dev.csv")), as_read)
    assert named[1] == [{"a": "3"}]


def test_a_directory_of_datasets(tmp_path):
    import datasets

    parts = {"train": datasets.Dataset.from_list([{"a": "1"}]), "validation": datasets.Dataset.from_list([{"a": "2"}])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    parts["train"].save_to_disk(str(tmp_path / "one"))
    assert train_and_validation(DataSettings(train=str(tmp_path / "both")), as_read) == ([{"a": "1"}], [{"a": "2"}])
    assert load_split(str(tmp_path / "one"), "train") == ([{"a": "1"}], str(tmp_path / "one"))
    assert load_split(str(tmp_path / "one"), "validation") is None


def test_what_cannot_be_split_or_found(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"a": "1"}\n')
    for settings, message in (
        (DataSettings(train=str(tmp_path / "one.jsonl")), "leaves an empty set"),
        (DataSettings(train=str(tmp_path)), "a file train.*"),
        (DataSettings(train=str(tmp_path / "no.jsonl")), "no such file or directory"),
        (DataSettings(train="no.jsonl"), "no.jsonl: no such file"),
        (DataSettings(), "give --data"),
        (DataSettings(train=str(tmp_path / "one.jsonl"), validation=str(tmp_path)), "no file train.* with examples"),
    ):
        with pytest.raises(InputError, match=message.replace("*", r"\*")):
            train_and_validation(settings, as_read)


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_a_hub_that_gives_no_examples(empty, monkeypatch):
    monkeypatch.setattr(
        "pipeline.lm.records.load_split",
        lambda source, split, *more: ([] if split == empty else [{"text": "a"}], source),
    )
    with pytest.raises(InputError, match="org/name: no examples in it"):
        train_and_validation(DataSettings(train="org/name"), as_read)


def test_examples_are_counted_as_in_the_file(tmp_path):
    """What is wrong with line 3 is said of line 3, whichever part the split puts it in."""
    (tmp_path / "x.jsonl").write_text(
        "".join(f'{{"text": {json.dumps("a" if n != 3 else n)}}}\n' for n in range(1, 21))
    )
    for fraction in (0.1, 0.5, 0.9):
        with pytest.raises(InputError, match=r"x.jsonl, example 3: text must be text, found int"):
            train_and_validation(
                DataSettings(train=str(tmp_path / "x.jsonl"), validation_fraction=fraction),
                partial(convert, shape=instruction_example),
            )


def test_the_split_is_fixed_and_disjoint():
    records = [{"n": n} for n in range(50)]
    first, again = split_off(records, 0.2), split_off(records, 0.2)
    assert first == again
    assert len(first[1]) == 10
    assert sorted(r["n"] for part in first for r in part) == list(range(50))


def test_limits(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(20)))
    settings = DataSettings(train=str(tmp_path / "x.jsonl"), validation_fraction=0.5, limit=3, validation_limit=2)
    assert [len(part) for part in train_and_validation(settings, as_read)] == [3, 2]
