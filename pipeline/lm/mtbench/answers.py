"""Answers of a causal language model to questions of two turns."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_prep.files.release import program
from pipeline.lm.errors import InputError, one_line
from pipeline.lm.examples import Message, alpaca_prompt
from pipeline.lm.mtbench.files import Question

TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""FastChat's, by category; 0 is greedy. Other categories: 0.7."""


def chat_prompt(tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], form: str) -> str:
    """The text to continue.

    Args:
        tokenizer: with a chat template, for ``form`` chat.
        conversation: ends with the user's turn.
        form: ``chat``, the tokenizer's template; ``alpaca``, what models tuned on Alpaca have seen, turns one after
            the other.

    Raises InputError: a template that is wrong, or refuses.
    """
    if form == "chat":
        try:
            return tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise InputError(f"the tokenizer's chat template does not take the question: {one_line(error)}") from error
    first = alpaca_prompt(conversation[0]["content"])
    later = (
        f" {m['content']}\n\n" if m["role"] == "assistant" else f"### Instruction:\n{m['content']}\n\n### Response:"
        for m in conversation[1:]
    )
    return first + "".join(later)


@torch.no_grad()
def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, *, temperature: float, max_new_tokens: int
) -> tuple[str, bool]:
    """The continuation of ``prompt``, and whether its beginning was cut to fit the model's context."""
    context = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    new = min(max_new_tokens, context // 2)
    # A chat template writes the begin token itself; the tokenizer must not add a second one.
    special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
    ids = tokenizer(prompt, add_special_tokens=special, return_tensors="pt")["input_ids"]
    kept = ids[:, -(context - new) :].to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 1e-4 else {"do_sample": False}
    output = model.generate(
        input_ids=kept,
        attention_mask=torch.ones_like(kept),
        max_new_tokens=new,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    return tokenizer.decode(output[0, kept.shape[1] :], skip_special_tokens=True).strip(), kept.shape != ids.shape


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    *,
    model_id: str,
    form: str,
    max_new_tokens: int,
    seed: int,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], int]:
    """FastChat's answer record with ``settings``, and how many prompts were cut.

    Sampling depends on seed and question alone.
    """
    torch.manual_seed(seed * 100_003 + question.question_id)
    temperature = TEMPERATURES.get(question.category, 0.7)
    conversation: list[Message] = []
    cuts = 0
    for turn in question.turns:
        conversation.append({"role": "user", "content": turn})
        prompt = chat_prompt(tokenizer, conversation, form)
        text, cut = generate(model, tokenizer, prompt, temperature=temperature, max_new_tokens=max_new_tokens)
        conversation.append({"role": "assistant", "content": text})
        cuts += cut
    turns = [message["content"] for message in conversation if message["role"] == "assistant"]
    record = {
        "question_id": question.question_id,
        "answer_id": uuid.uuid4().hex[:22],
        "model_id": model_id,
        "program": program(),
        "settings": settings,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": time.time(),
    }
    return record, cuts
