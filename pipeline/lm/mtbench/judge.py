"""Single-answer grading (Zheng et al., section 3.1) by any judge that answers a chat: an endpoint or a local model."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from data_prep.files.bounded_reading import MAX_DOCUMENT_BYTES, bounded, parse_json
from data_prep.files.release import program
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import StageFailed
from pipeline.lm.mtbench.files import Question

Judge = Callable[[str, str], str]
"""(system message, user message) -> answer."""

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
WITHOUT_RATING = -1.0
"""FastChat's score of a judgment that holds no rating."""

HIGHEST_RATING = 10.0

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged against a reference answer."""

ATTEMPTS = 4
TIMEOUT_SECONDS = 120.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: following it would send the key to another place."""

    def redirect_request(self, *args: Any) -> None:
        return None


def check_endpoint(url: str, key: str) -> None:
    """Raise ConfigError, without the key in it, for an address or a key that no request can have."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # brackets that do not close, a port that is none
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ConfigError(f"--judge-url {url}: an address such as https://api.openai.com/v1 is expected")
    if parts.username is not None:
        raise ConfigError("--judge-url: an address without a user; the key is given by --judge-key")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("--judge-key: its variable holds characters that no key has")


def endpoint_judge(url: str, model: str, key: str = "", *, first_wait: float = 2.0) -> Judge:
    """A judge behind an OpenAI-compatible endpoint.

    Args:
        url: base, such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``.
        model: its name there.
        key: bearer token; empty: none is sent.
        first_wait: seconds before the second attempt, doubled for each further one.

    The judge raises StageFailed in one line when the endpoint refuses, or does not answer in ``ATTEMPTS`` attempts.
    """
    place = url.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(_NoRedirect)

    def judge(system: str, prompt: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 2048}
        request = urllib.request.Request(place, json.dumps(body).encode(), headers)
        wait, problem = first_wait, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                with opener.open(request, timeout=TIMEOUT_SECONDS) as reply:
                    answer = parse_json(bounded(reply, place, MAX_DOCUMENT_BYTES).decode())
                text = answer["choices"][0]["message"]["content"]
                if isinstance(text, str):
                    return text
                problem = f"its answer holds no text, but {text!r:.80}"
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.reason}: {error.read(300).decode(errors='replace').strip()}"
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"its answer is not of the form of chat completions ({type(error).__name__}: {error})"
        raise StageFailed(
            f"the judge at {place} gives no judgment: {' '.join(problem.split())}; what is done is kept, and the same "
            "command goes on"
        )

    return judge


def judge_prompt(
    prompts: dict[str, dict[str, str]], question: Question, answers: Sequence[str], turn: int
) -> tuple[str, str, str]:
    """Name of FastChat's prompt, system message and user message for grading ``turn`` (1 or 2)."""
    math = question.category in WITH_REFERENCE and len(question.reference) >= turn
    name = ("single-math-v1" if math else "single-v1") + ("-multi-turn" if turn == 2 else "")
    prompt = prompts[name]
    values = {"question": question.turns[0], "answer": answers[0]}
    for number, text in enumerate(question.turns, 1):
        values[f"question_{number}"] = text
    for number, text in enumerate(answers, 1):
        values[f"answer_{number}"] = text
    for number, text in enumerate(question.reference, 1):
        values[f"ref_answer_{number}"] = text
    return name, prompt["system_prompt"], prompt["prompt_template"].format(**values)


def rating(judgment: str) -> float:
    """The score in a judgment, ``WITHOUT_RATING`` when there is none or, unlike FastChat, one beyond the scale."""
    found = RATING.search(judgment) or RATING_BACKUP.search(judgment)
    score = float(found.group(1)) if found else WITHOUT_RATING
    return score if score <= HIGHEST_RATING else WITHOUT_RATING


def grade(
    judge: Judge,
    judge_name: str,
    prompts: dict[str, dict[str, str]],
    question: Question,
    record: dict[str, Any],
    turn: int,
) -> dict[str, Any]:
    """FastChat's judgment record of one turn of one answer."""
    name, system, prompt = judge_prompt(prompts, question, record["choices"][0]["turns"], turn)
    judgment = judge(system, prompt)
    return {
        "question_id": question.question_id,
        "model": record["model_id"],
        "program": program(),
        "judge": [judge_name, name],
        "user_prompt": prompt,
        "judgment": judgment,
        "score": rating(judgment),
        "turn": turn,
        "tstamp": time.time(),
    }


def summarise(questions: Sequence[Question], judgments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean score per category and over all, by turn and together; judgments without a rating are counted apart."""
    category = {question.question_id: question.category for question in questions}
    rows = []
    for name in (*dict.fromkeys(category.values()), "all"):
        own = [j for j in judgments if name in ("all", category.get(j["question_id"]))]
        rated = [j for j in own if j["score"] != WITHOUT_RATING]
        row: dict[str, Any] = {"category": name}
        for column, turns in (("turn_1", (1,)), ("turn_2", (2,)), ("mean", (1, 2))):
            scores = [j["score"] for j in rated if j["turn"] in turns]
            row[column] = round(sum(scores) / len(scores), 3) if scores else None
        rows.append(row | {"judgments": len(own), "without_rating": len(own) - len(rated)})
    return rows
