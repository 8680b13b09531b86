"""Records in the usual shapes to what trl's trainers take.

Instruction tuning: Alpaca (instruction, input, output), prompt and completion, messages (or ShareGPT's conversations),
plain text. Preferences: prompt, chosen, rejected as texts or as messages; chosen and rejected as whole conversations;
question, chosen, rejected with an optional system message (intel orca); OpenAI's preference format.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
    found = []
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of messages expected, found {type(value).__name__}")
    for message in value:
        role = message.get("role") or SHAREGPT_ROLES.get(message.get("from"))
        content = message.get("content", message.get("value"))
        if role is None or not isinstance(content, str):
            raise ValueError(f"a message has role and content (text), found {', '.join(message)}")
        found.append({"role": role, "content": content})
    return found


def instruction_example(record: Record) -> Record:
    """``prompt`` and ``completion``, or ``text``. Of a conversation the last answer is the completion."""
    if "instruction" in record and "output" in record:
        prompt = alpaca_prompt(_text(record, "instruction"), _text(record, "input") if record.get("input") else "")
        return {"prompt": prompt, "completion": _text(record, "output")}
    if "prompt" in record and "completion" in record:
        if isinstance(record["prompt"], list):
            return {"prompt": messages(record["prompt"]), "completion": messages(record["completion"])}
        return {"prompt": _text(record, "prompt"), "completion": _text(record, "completion")}
    if "messages" in record or "conversations" in record:
        turns = messages(record.get("messages", record.get("conversations")))
        if turns[-1]["role"] != "assistant" or len(turns) < 2:
            raise ValueError("a conversation ends with an answer of the assistant")
        return {"prompt": turns[:-1], "completion": turns[-1:]}
    if "text" in record:
        return {"text": _text(record, "text")}
    found = ", ".join(map(str, record))
    raise ValueError(f"instruction and output, prompt and completion, messages, or text expected, found {found}")


def preference_example(record: Record) -> Record:
    """``prompt``, ``chosen`` and ``rejected``, all three texts or all three messages."""
    if "preferred_output" in record:
        return {
            "prompt": messages(record["input"]["messages"]),
            "chosen": messages(record["preferred_output"]),
            "rejected": messages(record["non_preferred_output"]),
        }
    if not {"chosen", "rejected"} <= set(record):
        raise ValueError(f"chosen and rejected, with prompt or question, expected, found {', '.join(map(str, record))}")
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, list):
        chosen, rejected = messages(chosen), messages(rejected)
        if isinstance(record.get("prompt"), list):
            return {"prompt": messages(record["prompt"]), "chosen": chosen, "rejected": rejected}
        shared = 0  # whole conversations: the prompt is what both begin with
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise ValueError("chosen and rejected are conversations that do not begin alike, and there is no prompt")
        return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    question = next((key for key in ("question", "input") if key in record and "prompt" not in record), None)
    if question is None:
        return {key: _text(record, key) for key in ("prompt", "chosen", "rejected")}
    system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    return {
        "prompt": [*system, {"role": "user", "content": _text(record, question)}],
        "chosen": [{"role": "assistant", "content": _text(record, "chosen")}],
        "rejected": [{"role": "assistant", "content": _text(record, "rejected")}],
    }


def _text(record: Record, key: str) -> str:
    if not isinstance(record.get(key), str):
        raise ValueError(f"{key} must be text, found {type(record.get(key)).__name__}")
    return record[key]


def prompt_form(example: Record) -> str:
    """``alpaca`` for a converted example with Alpaca's prompt, else ``chat``: how to ask a model tuned on it."""
    prompt = example.get("prompt")
    return "alpaca" if isinstance(prompt, str) and prompt.startswith(ALPACA.partition("{")[0]) else "chat"


def convert(records: Sequence[Record], shape: Callable[[Record], Record], source: str) -> list[Record]:
    """All records in one shape. Raises InputError that names the record; so do records of two shapes."""
    converted = []
    for number, record in enumerate(records, 1):
        try:
            converted.append(shape(record))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{source}, example {number}: {error}") from error
        kinds = [{key: type(value) for key, value in one.items()} for one in (converted[0], converted[-1])]
        if kinds[0] != kinds[1]:
            raise InputError(f"{source}, example {number}: not of the shape of the first example; convert one of them")
    return converted


def filter_pairs(records: Sequence[Record], data: PairDataSettings) -> list[Record]:
    """The pairs that the filters of ``data`` leave. Raises InputError when a column of a filter is missing."""
    needed = {"status": data.drop_ties, "chosen_score": data.min_chosen_score > 0, "in_gsm8k_train": data.drop_gsm8k}
    for column, wanted in needed.items():
        if wanted and records and column not in records[0]:
            raise InputError(f"{data.train}: a filter needs the column {column}, which is not there: switch it off")
    kept = [
        record
        for record in records
        if not (data.drop_ties and record["status"] == "tie")
        and not (data.min_chosen_score and (record["chosen_score"] or 0) < data.min_chosen_score)
        and not (data.drop_gsm8k and record["in_gsm8k_train"])
    ]
    if not kept:
        raise InputError(f"{data.train}: the filters leave none of {len(records)} pairs")
    return kept


def texts_of(examples: Sequence[Record]) -> list[str]:
    """All texts of converted examples, to train a tokenizer on."""
    found = []
    for example in examples:
        for value in example.values():
            found += [value] if isinstance(value, str) else [message["content"] for message in value]
    return found
