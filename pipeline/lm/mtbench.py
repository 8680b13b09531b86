"""MT-Bench (Zheng et al., arXiv 2306.05685): questions of two turns, and a model's answers in FastChat's files."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

import lorta  # noqa: F401 - its tuner is registered with PEFT
from data_prep.files.checksums import sha256
from data_prep.files.command_line import program
from data_prep.files.journal import Journal
from pipeline.config.bundled import bundled_text
from pipeline.lm.errors import InputError, named, one_line
from pipeline.lm.examples import Message, alpaca_prompt
from pipeline.lm.models import check_causal, check_tokens, ensure_chat_template, load_tokenizer
from pipeline.lm.records import read_records
from pipeline.lm.run import LanguageRun, first_difference

TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""FastChat's, by category; 0 is greedy. Other categories: 0.7."""


@dataclass(frozen=True)
class Question:
    """One question of one or two turns."""

    question_id: int
    category: str
    turns: tuple[str, ...]


def read_questions(path: Path | None = None) -> list[Question]:
    """The 80 questions of MT-Bench, or those of a file in the same form. Raises InputError."""
    if path is None:
        lines = bundled_text("pipeline.lm", "questions", "question.jsonl").split("\n")
        rows = [json.loads(line) for line in lines if line]
    else:
        rows = read_records(path)
    questions: dict[int, Question] = {}
    for number, row in enumerate(rows, 1):
        try:
            question = Question(row["question_id"], str(row["category"]), _texts(row["turns"]))
            if not isinstance(question.question_id, int) or len(question.turns) not in (1, 2):
                raise ValueError(f"question_id is {question.question_id!r}, with {len(question.turns)} turns")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, question {number}: question_id (a number), category and one or two turns expected: {error}"
            ) from error
        if question.question_id in questions:
            raise InputError(f"{path}, question {number}: question_id {question.question_id} is there already")
        questions[question.question_id] = question
    return list(questions.values())


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"a list of texts expected, found {values!r:.80}")
    return tuple(values)


@dataclass(frozen=True)
class Subject:
    """What answers."""

    name: str
    base: str
    """Hub name or directory of the model."""
    adapter: str
    """Directory of its adapter; empty: none."""
    tokenizer: str
    prompt: str
    """``chat``, the tokenizer's template; ``alpaca``, what models tuned on Alpaca have seen."""
    dtype: str = "float32"

    def settings(self) -> dict[str, Any]:
        """What decides its answers, as kept with each of them: a run that was trained again has another adapter."""
        weights = Path(self.adapter or self.base) / "adapter_model.safetensors"
        checksum = sha256(weights) if weights.is_file() else ""
        return {"model": self.base, "adapter": self.adapter, "adapter_sha256": checksum, "prompt": self.prompt}


def subject(run: Path | None, model: str | None, adapter: Path | None, prompt: str | None) -> Subject:
    """The model of a run, or a model with perhaps an adapter. Raises InputError."""
    if run is None:
        assert model is not None, "one of the two is given"
        if adapter is not None and not (adapter / "adapter_config.json").is_file():
            raise InputError(f"{adapter}: not the directory of an adapter: it has no adapter_config.json")
        folder = str(adapter) if adapter and (adapter / "tokenizer_config.json").is_file() else model
        name = Path(model).name or Path(model).resolve().name  # of "." too
        return Subject(name, model, str(adapter or ""), folder, prompt or "chat")
    directory = LanguageRun(run)
    if not directory.results_file.is_file():
        raise InputError(f"{run}: not a complete run of pipeline.sft or pipeline.dpo: it has no results.json")
    results = directory.results()
    if results["stage"] not in ("sft", "dpo"):
        raise InputError(f"{run}: a run of pipeline.{results['stage']}, which writes no text")
    whole = directory.model.is_dir()
    place = directory.model if whole else directory.adapter
    try:
        dtype = directory.settings()["model"]["dtype"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory.config_file}: damaged: it has no model.dtype") from error
    base = str(directory.base) if directory.base.is_dir() else results["base"]  # the run may have been moved
    return Subject(
        run.resolve().name, str(place) if whole else base, "" if whole else str(place), str(place),
        prompt or results["prompt"], dtype,
    )  # fmt: skip


def load_for_chat(about: Subject, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model with its adapter, and tokenizer with a chat template. Raises InputError."""
    tokenizer = load_tokenizer(about.tokenizer)
    ensure_chat_template(tokenizer)
    with named(about.base, "model"):
        model: Any = AutoModelForCausalLM.from_pretrained(about.base, dtype=about.dtype, trust_remote_code=False)
    check_causal(model, about.base)
    check_tokens(model, tokenizer)
    if about.adapter:
        with named(about.adapter, "adapter"):
            model = PeftModel.from_pretrained(model, about.adapter)
    return model.to(device).eval(), tokenizer


def chat_prompt(tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], form: str) -> str:
    """The text to continue, of a conversation that ends with the user's turn; for ``form`` see ``Subject.prompt``.

    Raises InputError: a template that is wrong, or refuses.
    """
    if form == "chat":
        try:
            text: Any = tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tokenize=False)
            return text
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
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, *, temperature: float, max_new_tokens: int
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
    text: Any = tokenizer.decode(output[0, kept.shape[1] :], skip_special_tokens=True)
    return text.strip(), kept.shape != ids.shape


def answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, question: Question, form: str, max_new_tokens: int,
    seed: int,
) -> tuple[list[str], int]:  # fmt: skip
    """The answer to each turn, and how many prompts were cut. Sampling depends on seed and question alone."""
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
    return [message["content"] for message in conversation if message["role"] == "assistant"], cuts


def open_answers(path: Path, settings: dict[str, Any]) -> Journal:
    """The file of answers, to go on with; a row of FastChat's own has no settings and is taken as it is.

    Raises InputError for rows of other settings, or that are no answers; JournalError, OSError.
    """
    journal = Journal(path, sync=True).open()
    for number, row in enumerate(journal.rows, 1):
        try:
            int(row["question_id"])
            _texts(row["choices"][0]["turns"])
            differs = first_difference(row["settings"], settings) if "settings" in row else ""
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            journal.close()
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}, answer {number}: damaged, not what this command writes ({reason})") from error
        if differs:
            journal.close()
            raise InputError(f"{path}: holds answers of {differs}: give another --out or --model-id")
    return journal


def write_answers(
    about: Subject, questions: Sequence[Question], file: Path, model_id: str, device: torch.device, console: Console,
    *, max_new_tokens: int, seed: int,
) -> None:  # fmt: skip
    """Answer what ``file`` has no answer to yet; each answer is on disk before the next question. Raises InputError."""
    settings = {**about.settings(), "max_new_tokens": max_new_tokens, "seed": seed}
    with open_answers(file, settings) as journal:
        done = {row["question_id"] for row in journal.rows}
        left = [question for question in questions if question.question_id not in done]
        cuts = 0
        if left:
            model, tokenizer = load_for_chat(about, device)
        for number, question in enumerate(left, len(questions) - len(left) + 1):
            turns, cut = answer(model, tokenizer, question, about.prompt, max_new_tokens, seed)
            cuts += cut
            journal.append(
                {
                    "question_id": question.question_id,
                    "answer_id": uuid.uuid4().hex[:22],
                    "model_id": model_id,
                    "program": program(),
                    "settings": settings,
                    "choices": [{"index": 0, "turns": turns}],
                    "tstamp": time.time(),
                }
            )
            console.print(f"answered {number}/{len(questions)} ({question.category})")
        if cuts:
            console.print(f"{cuts} prompts were longer than the model's context; their beginning was cut off.")
        console.print(f"Wrote {file}: {len(journal.rows)} answers")
