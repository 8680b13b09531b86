"""Shapes of instruction and preference data."""

import pytest

from pipeline.lm.errors import InputError
from pipeline.lm.examples import (
    alpaca_prompt,
    convert,
    convert_pairs,
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


def test_forms_that_the_field_uses():
    """Dolly; prompt and response; content in parts; LLaMA-Factory's system beside its conversations."""
    dolly = {"instruction": "Add.", "context": "1 2", "response": "3", "category": "closed_qa"}
    assert instruction_example(dolly) == {"prompt": alpaca_prompt("Add.", "1 2"), "completion": "3"}
    assert instruction_example({"prompt": "P", "response": "C"}) == {"prompt": "P", "completion": "C"}
    parts = {"role": "user", "content": [{"type": "text", "text": "Q"}]}
    assert instruction_example({"messages": [parts, GOOD]}) == {"prompt": [USER], "completion": [GOOD]}
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "yes"}]
    system = {"role": "system", "content": "S"}
    assert instruction_example({"conversations": turns, "system": "S"})["prompt"] == [system, USER]


def test_preferences_that_the_field_uses():
    answers = {"chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}
    factory = preference_example({"conversations": [{"from": "human", "value": "Q"}], **answers})
    assert factory == {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    flat = {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}
    assert preference_example(flat) == {"prompt": alpaca_prompt("Add.", "1 2"), "chosen": "3", "rejected": "4"}
    asked = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    whole = {"chosen": f"{asked} It is so.", "rejected": f"{asked} It is not."}
    assert preference_example(whole) == {"prompt": asked, "chosen": " It is so.", "rejected": " It is not."}
    plain = {"chosen": "Why? Because.", "rejected": "Why? No."}
    assert preference_example(plain) == {"prompt": "Why?", "chosen": " Because.", "rejected": " No."}


@pytest.mark.parametrize(
    ("shape", "record", "message"),
    [
        (instruction_example, {"question": "x"}, "instruction and output"),
        (instruction_example, {"instruction": "x", "output": None}, "output must be text, found NoneType"),
        (instruction_example, {"messages": [USER]}, "ends with an answer"),
        (instruction_example, {"messages": [{"role": "user"}]}, "role and content"),
        (instruction_example, {"messages": "x"}, "a list of messages expected, found 'x'"),
        (instruction_example, {"messages": []}, "a list of messages expected, found []"),
        (instruction_example, {"messages": ["x", "y"]}, "role and content, found 'x'"),
        (instruction_example, {"messages": [{"role": 1, "content": "x"}]}, "both text"),
        (instruction_example, {"conversations": [{"from": "bing", "value": "x"}]}, "found 'bing'"),
        (instruction_example, {"instruction": "half \ud800", "output": "x"}, "surrogates not allowed"),
        (preference_example, {"prompt": "x", "chosen": "y"}, "chosen and rejected"),
        (preference_example, {"input": {}, "preferred_output": [GOOD]}, "a list of messages expected, found None"),
        (preference_example, {"input": "Q", "preferred_output": [GOOD]}, "a list of messages expected, found 'Q'"),
        (preference_example, {"input": {"messages": [USER]}, "preferred_output": [GOOD]}, "found None"),
        (preference_example, {"chosen": [USER, GOOD], "rejected": [BAD]}, "do not begin alike"),
        (preference_example, {"chosen": "y", "rejected": "x"}, "do not begin alike, and there is no prompt"),
        (preference_example, {"chosen": {"from": "gpt", "value": "y"}, "rejected": {}}, "no conversations before them"),
        (preference_example, {"chosen": None, "rejected": "x"}, "chosen must be text, found NoneType"),
        (instruction_example, {"prompt": None, "response": "x"}, "prompt must be text, found NoneType"),
        (instruction_example, {"instruction": "x", "output": "y", "history": [["a", "b"]]}, "give it as messages"),
        (instruction_example, {"messages": [{"role": "user", "content": [{"type": "image"}]}, GOOD]}, "found 'image'"),
    ],
)
def test_damage_names_the_example(shape, record, message):
    with pytest.raises(InputError, match=r"^f\.json, example 1: ") as caught:
        convert([record], "f.json", shape)
    assert message in str(caught.value)


def test_two_shapes_in_one_file_are_refused():
    records = [{"instruction": "a", "output": "b"}, {"text": "c"}]
    with pytest.raises(InputError, match="example 2: not of the shape of the first"):
        convert(records, "f.json", instruction_example)


def pairs(*rows: dict) -> list[dict]:
    return [{"prompt": "P", "chosen": f"good {n}", "rejected": "bad", **row} for n, row in enumerate(rows)]


ORCA = pairs(
    {"status": "unchanged", "chosen_score": 9.0, "in_gsm8k_train": False},
    {"status": "tie", "chosen_score": 9.0, "in_gsm8k_train": False},
    {"status": "unchanged", "chosen_score": 7.0, "in_gsm8k_train": False},
    {"status": "unchanged", "chosen_score": 8.0, "in_gsm8k_train": True},
    {"status": "swapped", "chosen_score": None, "in_gsm8k_train": False},
)
STRICT = PairDataSettings(drop_ties=True, min_chosen_score=8.0, drop_gsm8k=True)


def test_filters_of_the_published_script():
    said = []
    assert len(convert_pairs(ORCA, "f", PairDataSettings(), said.append)) == 5 and said == []
    assert [row["chosen"] for row in convert_pairs(ORCA, "f", STRICT, said.append)] == ["good 0"]
    assert said == ["f: 4 of 5 pairs are left out by the filters."]


def test_pairs_of_equal_answers_are_left_out_and_said():
    said = []
    rows = pairs({}, {"chosen": "bad"}, {"chosen": "", "rejected": ""})
    assert [row["chosen"] for row in convert_pairs(rows, "f", PairDataSettings(), said.append)] == ["good 0"]
    assert said == ["f: 2 of 3 pairs are left out because their two answers are the same."]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ORCA[:2], *pairs({"chosen_score": 9.0})], "f, example 3: has no column status"),
        (pairs({"status": "x", "chosen_score": "high"}), "f, example 1: chosen_score is no number"),
        (pairs({"status": "x", "chosen_score": [1]}), "f, example 1: chosen_score is no number"),
        (ORCA[1:2], "f: the filters leave none of 1 pairs"),
        ([*ORCA[:1], {"prompt": "P"}], "f, example 2: chosen and rejected"),
        ([{**ORCA[0], "chosen": "bad"}], "the same in all 1 pairs"),
    ],
)
def test_pairs_that_cannot_be_used(rows, message):
    with pytest.raises(InputError, match=message):
        convert_pairs(rows, "f", STRICT, print)


def test_texts_of_both_kinds():
    assert texts_of([{"prompt": [USER], "completion": [GOOD]}, {"text": "T"}]) == ["Q", "yes", "T"]
