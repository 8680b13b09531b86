"""GLUE's files as they are published, and their damage."""

import pytest

from pipeline.config import ConfigError
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
    ],
)
def test_damaged_examples(task, record, message):
    with pytest.raises(InputError, match=r"^file, example 3: ") as caught:
        to_example(find_task(task), record, "file, example 3")
    assert message in str(caught.value)


def test_unknown_task_and_empty_directory(tmp_path):
    with pytest.raises(ConfigError, match="one of cola, sst2"):
        find_task("swag")
    with pytest.raises(InputError, match="nor a directory RTE"):
        load_task("rte", DataSettings(train=str(tmp_path)))
    assert list(TASKS)[:6] == ["cola", "sst2", "mrpc", "stsb", "qnli", "rte"]


def test_one_file_is_split(glue):
    train, held_out = load_task("rte", DataSettings(train=str(glue / "RTE" / "train.tsv"), validation_fraction=0.25))
    assert (len(train), len(held_out)) == (30, 10)
