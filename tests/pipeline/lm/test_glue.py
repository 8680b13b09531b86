"""GLUE's files as they are published, and their damage."""

import json

import pytest

from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError
from pipeline.lm.glue import TASKS, Example, find_task, load_task, to_example
from pipeline.lm.settings import DataSettings


def test_the_four_local_tasks(glue):
    for name, folder, texts, labels in (
        ("rte", "RTE", 2, {0.0, 1.0}),
        ("mrpc", "MRPC", 2, {0.0, 1.0}),
        ("cola", "CoLA", 1, {0.0, 1.0}),
    ):
        train, held_out = load_task(name, DataSettings(train=str(glue)))
        assert (len(train), len(held_out)) == (40, 12), name
        assert {example.label for example in train} == labels
        assert all(len(example.texts) == texts for example in train)
        assert load_task(name, DataSettings(train=str(glue / folder))) == (train, held_out)
    train, _ = load_task("STS-B", DataSettings(train=str(glue)))
    assert all(0 <= example.label <= 5 for example in train)
    assert train[0].texts[1].startswith('" The')  # a quote is a character


def test_labels_by_name_by_number_and_of_the_hub():
    rte = find_task("rte")
    record = {"sentence1": "a", "sentence2": "b"}
    assert to_example(rte, record | {"label": "not_entailment"}, "x") == Example(("a", "b"), 1.0)
    assert to_example(rte, record | {"label": 0}, "x") == Example(("a", "b"), 0.0)
    hub_mrpc = record | {"label": 1, "idx": 0}
    assert to_example(find_task("mrpc"), hub_mrpc, "x").label == 1.0
    premise = {"premise": "a", "hypothesis": "b", "label": "neutral"}
    assert to_example(find_task("mnli"), premise, "x").label == 1.0


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        (
            "rte",
            {"sentence1": "a", "label": 0},
            "sentence1, sentence2 and label expected, found sentence1, label",
        ),
        ("rte", {"sentence1": "a", "sentence2": "b", "label": "maybe"}, "label 'maybe' is not one of entailment"),
        ("rte", {"sentence1": "a", "sentence2": "b", "label": -1}, "label -1 is not one of"),  # the hub's test split
        ("rte", {"sentence1": "a", "sentence2": None, "label": 0}, "must be text"),
        ("stsb", {"sentence1": "a", "sentence2": "b", "score": "nan"}, "is not a number"),
        ("cola", {"sentence": "a", "label": "2"}, "label '2' is not one of 0, 1"),
        ("cola", {"sentence": "half \ud800", "label": "1"}, "not Unicode text"),
    ],
)
def test_damaged_examples(task, record, message):
    with pytest.raises(InputError, match=r"^file, example 3: ") as caught:
        to_example(find_task(task), record, "file, example 3")
    assert message in str(caught.value)


def test_unknown_task_and_empty_directory(tmp_path):
    with pytest.raises(ConfigError, match="one of cola, sst2"):
        find_task("swag")
    for make in (lambda: None, (tmp_path / "RTE").mkdir, lambda: (tmp_path / "RTE" / "dev.tsv").write_text("x\n")):
        make()
        with pytest.raises(InputError, match="nor in a directory RTE"):
            load_task("rte", DataSettings(train=str(tmp_path)))
    assert list(TASKS)[:6] == ["cola", "sst2", "mrpc", "stsb", "qnli", "rte"]


def test_one_file_is_split(glue):
    train, held_out = load_task("rte", DataSettings(train=str(glue / "RTE" / "train.tsv"), validation_fraction=0.25))
    assert (len(train), len(held_out)) == (30, 10)


def test_files_that_cannot_be_read(glue, tmp_path):
    (tmp_path / "cola.tsv").write_bytes(b"x\t1\t\tcaf\xe9\n" * 20)
    with pytest.raises(InputError, match=r"cola.tsv: not UTF-8 text \(byte 8\)"):
        load_task("cola", DataSettings(train=str(tmp_path / "cola.tsv")))
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        load_task("rte", DataSettings(train=str(glue), validation=str(tmp_path / "none.tsv")))


def test_a_validation_file_goes_before_that_of_the_directory(glue):
    other = DataSettings(train=str(glue), validation=str(glue / "RTE" / "train.tsv"))
    assert len(load_task("rte", other)[1]) == 40


MNLI = [{"premise": "a", "hypothesis": "b", "label": 0, "idx": n} for n in range(10)]


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        (
            {"train": MNLI, "validation_matched": MNLI[:4], "validation_mismatched": MNLI[:3], "test_matched": []},
            (10, 4),
        ),
        ({"train": MNLI}, (9, 1)),
    ],
)
def test_the_hub_gives_splits_by_their_names(splits, counts, glue, monkeypatch):
    import datasets

    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return datasets.Dataset.from_list(splits[split])

    monkeypatch.setattr("pipeline.lm.errors.ask_hub", lambda: True)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: list(splits))
    monkeypatch.setattr(datasets, "load_dataset", load)
    train, held_out = load_task("MNLI", DataSettings())
    assert (len(train), len(held_out)) == counts
    assert asked[0] == ("nyu-mll/glue", "mnli", "train")
    file = glue / "mnli.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in MNLI[:2]))
    assert len(load_task("mnli", DataSettings(validation=str(file)))[1]) == 2


def test_the_hub_without_examples(monkeypatch):
    monkeypatch.setattr("pipeline.lm.records.load_split", lambda *given: None)
    with pytest.raises(InputError, match="nyu-mll/glue: no training examples: a split train"):
        load_task("rte", DataSettings())
