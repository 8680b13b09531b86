"""Records in the usual shapes to what trl's trainers take.

Instruction tuning: Alpaca (instruction, input, output), Dolly (instruction, context, response), prompt and completion
or response, messages (or ShareGPT's conversations), plain text. Preferences: prompt, chosen, rejected as texts or as
messages; chosen and rejected as whole dialogues, messages or text (hh-rlhf); question, chosen, rejected with an
optional system message (intel orca); LLaMA-Factory's two forms; OpenAI's preference format. A message's content is
text, or parts of text.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from trl.data_utils import extract_prompt

from pipeline.lm.errors import InputError
from pipeline.lm.records import Record
from pipeline.lm.settings import PairDataSettings

Message = dict[str, str]

ALPACA = (
    "Below is an instruction that describes a task{further}. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:"
)
"""Stanford Alpaca's prompt, also that of lit-gpt."""

SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def alpaca_prompt(instruction: str, text: str = "") -> str:
    """The prompt of an instruction and its input, if any."""
    further = ", paired with an input that provides further context" if text else ""
    return ALPACA.format(further=further, instruction=instruction, input=f"### Input:\n{text}\n\n" if text else "")


def messages(value: Any) -> list[Message]:
    """A conversation as role and content. Raises ValueError for anything else."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of messages expected, found {value!r:.80}")
    return [_message(message) for message in value]


def _message(value: Any) -> Message:
    """``{"role": ..., "content": ...}``, also from ShareGPT's ``from`` and ``value``."""
    if not isinstance(value, dict):
        raise ValueError(f"a message has role and content, found {value!r:.80}")
    role, content = value.get("role"), _content(value.get("content", value.get("value")))
    if role is None and "from" in value:
        role = SHAREGPT_ROLES.get(str(value["from"]))
        if role is None:
            raise ValueError(f"a message is from {', '.join(SHAREGPT_ROLES)}; found {value['from']!r:.80}")
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"a message has role and content, both text, found {value!r:.80}")
    return {"role": role, "content": content}


def _content(value: Any) -> Any:
    """The text of a content in parts, ``[{"type": "text", "text": ...}]``; another content as it is."""
    if not isinstance(value, list) or not value:
        return value
    for part in value:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"a part of a message's content has a text, found {kind!r:.80}: only text is read")
    return "".join(part["text"] for part in value)


def _dialogue(record: Record) -> list[Message]:
    """The ``messages`` or ``conversations`` of a record, after the ``system`` message beside them if there is one."""
    turns = messages(record.get("messages", record.get("conversations")))
    system = record.get("system")
    return [{"role": "system", "content": _text(record, "system")}, *turns] if system else turns


def instruction_example(record: Record) -> Record:
    """``prompt`` and ``completion``, or ``text``. Of a conversation the last answer is the completion."""
    for context, answer in (("input", "output"), ("context", "response")):  # Alpaca, Dolly
        if "instruction" in record and answer in record:
            return {"prompt": _instruction(record, context), "completion": _text(record, answer)}
    answer = "completion" if "completion" in record else "response"
    if "prompt" in record and answer in record:
        if isinstance(record["prompt"], list):
            return {"prompt": messages(record["prompt"]), "completion": messages(record[answer])}
        return {"prompt": _text(record, "prompt"), "completion": _text(record, answer)}
    if "messages" in record or "conversations" in record:
        turns = _dialogue(record)
        if turns[-1]["role"] != "assistant" or len(turns) < 2:
            raise ValueError("a conversation ends with an answer of the assistant")
        return {"prompt": turns[:-1], "completion": turns[-1:]}
    if "text" in record:
        return {"text": _text(record, "text")}
    found = ", ".join(map(str, record))
    raise ValueError(
        "instruction and output or response, prompt and completion or response, messages, or text expected, "
        f"found {found}"
    )


def _instruction(record: Record, context: str) -> str:
    """Alpaca's prompt of a record with ``instruction`` and perhaps ``context``. Raises ValueError for a history."""
    if record.get("history"):
        raise ValueError("has a history of earlier turns, which Alpaca's prompt has no place for: give it as messages")
    return alpaca_prompt(_text(record, "instruction"), _text(record, context) if record.get(context) else "")


def preference_example(record: Record) -> Record:
    """``prompt``, ``chosen`` and ``rejected``, all three texts or all three messages."""
    if "preferred_output" in record:
        asked = record.get("input")
        return {
            "prompt": messages(asked.get("messages") if isinstance(asked, dict) else asked),
            "chosen": messages(record["preferred_output"]),
            "rejected": messages(record.get("non_preferred_output")),
        }
    if not {"chosen", "rejected"} <= set(record):
        raise ValueError(f"chosen and rejected, with prompt or question, expected, found {', '.join(map(str, record))}")
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, dict):  # LLaMA-Factory: one message each, after the conversation
        if "conversations" not in record and "messages" not in record:
            raise ValueError("chosen and rejected are one message each, and there are no conversations before them")
        return {"prompt": _dialogue(record), "chosen": messages([chosen]), "rejected": messages([rejected])}
    if isinstance(chosen, list):
        chosen, rejected = messages(chosen), messages(rejected)
        if isinstance(record.get("prompt"), list):
            return {"prompt": messages(record["prompt"]), "chosen": chosen, "rejected": rejected}
        whole = extract_prompt({"chosen": chosen, "rejected": rejected})  # conversations: what both begin with
        if not whole["prompt"]:
            raise ValueError("chosen and rejected are conversations that do not begin alike, and there is no prompt")
        return whole
    if "instruction" in record:  # LLaMA-Factory's other form
        return {"prompt": _instruction(record, "input"), **{key: _text(record, key) for key in ("chosen", "rejected")}}
    if not {"prompt", "question", "input"} & set(record):
        return _split_dialogues(_text(record, "chosen"), _text(record, "rejected"))
    question = next((key for key in ("question", "input") if key in record and "prompt" not in record), None)
    if question is None:
        return {key: _text(record, key) for key in ("prompt", "chosen", "rejected")}
    system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    return {
        "prompt": [*system, {"role": "user", "content": _text(record, question)}],
        "chosen": [{"role": "assistant", "content": _text(record, "chosen")}],
        "rejected": [{"role": "assistant", "content": _text(record, "rejected")}],
    }


def _split_dialogues(chosen: str, rejected: str) -> Record:
    """Two dialogues as text into what both begin with, up to the last turn of an assistant (hh-rlhf), and the rest."""
    unlike = (place for place, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = chosen[: next(unlike, min(len(chosen), len(rejected)))]
    turn = "\n\nAssistant:"
    if turn in shared:
        shared = shared[: shared.rindex(turn) + len(turn)]
    else:  # whole words
        shared = re.sub(r"\s+\S*$", "", shared) if re.search(r"\s", shared) else ""
    if not shared:
        raise ValueError("chosen and rejected are texts that do not begin alike, and there is no prompt")
    return {"prompt": shared, "chosen": chosen[len(shared) :], "rejected": rejected[len(shared) :]}


def _text(record: Record, key: str) -> str:
    if key not in record:
        raise ValueError(f"no field {key}; there are {', '.join(map(str, record))}")
    if not isinstance(record.get(key), str):
        raise ValueError(f"{key} must be text, found {type(record.get(key)).__name__}")
    return record[key]


def prompt_form(example: Record) -> str:
    """``alpaca`` for a converted example with Alpaca's prompt, else ``chat``: how to ask a model tuned on it."""
    prompt = example.get("prompt")
    return "alpaca" if isinstance(prompt, str) and prompt.startswith(ALPACA.partition("{")[0]) else "chat"


def convert(records: Sequence[Record], source: str, shape: Callable[[Record], Record]) -> list[Record]:
    """All records in one shape. Raises InputError that names the record; so do records of two shapes."""
    converted = []
    for number, record in enumerate(records, 1):
        try:
            converted.append(shape(record))
            for text in texts_of(converted[-1:]):
                text.encode()  # half of a surrogate pair, which JSON can hold and no tokenizer takes, is a ValueError
        except ValueError as error:
            raise InputError(f"{source}, example {number}: {error}") from error
        kinds = [{key: type(value) for key, value in one.items()} for one in (converted[0], converted[-1])]
        if kinds[0] != kinds[1]:
            raise InputError(f"{source}, example {number}: not of the shape of the first example; convert one of them")
    return converted


def convert_pairs(
    records: Sequence[Record], source: str, data: PairDataSettings, say: Callable[[str], None]
) -> list[Record]:
    """All pairs in one shape, without those that the filters of ``data`` leave out, and those of two equal answers.

    ``say`` is told how many are left out. Raises InputError: as ``convert``; a pair lacks the column of a filter; none
    is left.
    """
    examples = convert(records, source, preference_example)
    chosen = [
        example
        for number, (record, example) in enumerate(zip(records, examples, strict=True), 1)
        if _passes(record, data, f"{source}, example {number}")
    ]
    if not chosen:
        raise InputError(f"{source}: the filters leave none of {len(records)} pairs")
    distinct = [example for example in chosen if example["chosen"] != example["rejected"]]
    if not distinct:
        raise InputError(f"{source}: chosen and rejected are the same in all {len(chosen)} pairs: nothing to learn")
    for left_out, reason in (
        (len(records) - len(chosen), "by the filters"),
        (len(chosen) - len(distinct), "because their two answers are the same"),
    ):
        if left_out:
            say(f"{source}: {left_out} of {len(records)} pairs are left out {reason}.")
    return distinct


def _passes(record: Record, data: PairDataSettings, where: str) -> bool:
    """Whether the filters leave a pair. Raises InputError when it lacks the column of one."""
    try:
        return not (
            (data.drop_ties and record["status"] == "tie")
            or (data.min_chosen_score > 0 and float(record["chosen_score"] or 0) < data.min_chosen_score)
            or (data.drop_gsm8k and record["in_gsm8k_train"])
        )
    except KeyError as error:
        raise InputError(f"{where}: has no column {error.args[0]}, which a filter needs: switch that off") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: chosen_score is no number: {error}") from error


def texts_of(examples: Sequence[Record]) -> list[str]:
    """All texts of converted examples, to train a tokenizer on."""
    found = []
    for example in examples:
        for value in example.values():
            found += [value] if isinstance(value, str) else [message["content"] for message in value]
    return found
