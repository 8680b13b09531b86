"""Shapes of instruction and preference data."""

import pytest

from pipeline.lm.errors import InputError
from pipeline.lm.examples import (
    alpaca_prompt,
    convert,
    filter_pairs,
    instruction_example,
    preference_example,
    texts_of,
)
from pipeline.lm.settings import PairDataSettings

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "yes"), ("assistant", "no")))


def test_alpacas_prompt_is_word_for_word():
    """From Stanford Alpaca's train.py."""
    assert alpaca_prompt("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert alpaca_prompt("Add.") == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Response:"
    )


def test_instruction_shapes():
    alpaca = instruction_example({"instruction": "Add.", "input": "", "output": "3"})
    assert alpaca == {"prompt": alpaca_prompt("Add."), "completion": "3"}
    assert instruction_example({"prompt": "P", "completion": "C", "id": 1}) == {"prompt": "P", "completion": "C"}
    chat = {"prompt": [USER], "completion": [GOOD]}
    assert instruction_example({"messages": [USER, GOOD]}) == chat
    assert (
        instruction_example({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "yes"}]})
        == chat
    )
    assert instruction_example({"text": "T"}) == {"text": "T"}


def test_preference_shapes_agree():
    chat = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    assert preference_example(chat) == chat
    assert preference_example({"chosen": [USER, GOOD], "rejected": [USER, BAD], "prompt": "Q"}) == chat
    assert preference_example({"question": "Q", "chosen": "yes", "rejected": "no", "system": ""}) == chat
    openai = {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
    assert preference_example(openai) == chat
    with_system = preference_example({"system": "S", "input": "Q", "chosen": "yes", "rejected": "no"})
    assert with_system["prompt"] == [{"role": "system", "content": "S"}, USER]
    plain = {"prompt": "P", "chosen": "a", "rejected": "b"}
    assert preference_example(plain) == plain


@pytest.mark.parametrize(
    ("shape", "record", "message"),
    [
        (instruction_example, {"question": "x"}, "instruction and output"),
        (instruction_example, {"instruction": "x", "output": None}, "output must be text, found NoneType"),
        (instruction_example, {"messages": [USER]}, "ends with an answer"),
        (instruction_example, {"messages": [{"role": "user"}]}, "role and content"),
        (preference_example, {"prompt": "x", "chosen": "y"}, "chosen and rejected"),
        (preference_example, {"chosen": [USER, GOOD], "rejected": [BAD]}, "do not begin alike"),
        (preference_example, {"chosen": "y", "rejected": "x"}, "prompt must be text"),
    ],
)
def test_damage_names_the_example(shape, record, message):
    with pytest.raises(InputError, match=r"^f\.json, example 1: ") as caught:
        convert([record], shape, "f.json")
    assert message in str(caught.value)


def test_two_shapes_in_one_file_are_refused():
    records = [{"instruction": "a", "output": "b"}, {"text": "c"}]
    with pytest.raises(InputError, match="example 2: not of the shape of the first"):
        convert(records, instruction_example, "f.json")


def test_filters_of_the_published_script():
    rows = [
        {"status": "unchanged", "chosen_score": 9.0, "in_gsm8k_train": False, "n": 0},
        {"status": "tie", "chosen_score": 9.0, "in_gsm8k_train": False, "n": 1},
        {"status": "unchanged", "chosen_score": 7.0, "in_gsm8k_train": False, "n": 2},
        {"status": "unchanged", "chosen_score": 8.0, "in_gsm8k_train": True, "n": 3},
        {"status": "swapped", "chosen_score": None, "in_gsm8k_train": False, "n": 4},
    ]
    assert len(filter_pairs(rows, PairDataSettings())) == 5
    strict = PairDataSettings(drop_ties=True, min_chosen_score=8.0, drop_gsm8k=True)
    assert [row["n"] for row in filter_pairs(rows, strict)] == [0]
    with pytest.raises(InputError, match="needs the column status"):
        filter_pairs([{"chosen": "x"}], strict)
    with pytest.raises(InputError, match="leave none of 1 pairs"):
        filter_pairs(rows[1:2], strict)


def test_texts_of_both_kinds():
    assert texts_of([{"prompt": [USER], "completion": [GOOD]}, {"text": "T"}]) == ["Q", "yes", "T"]
