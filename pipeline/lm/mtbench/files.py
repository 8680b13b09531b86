"""FastChat's JSONL files: questions, reference answers, judge prompts, and files that grow line by line."""

import json
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.files.bounded_reading import parse_json, read_table_bytes
from pipeline.config.bundled import bundled_text
from pipeline.lm.errors import InputError
from pipeline.lm.records import read_records


@dataclass(frozen=True)
class Question:
    """One question of two turns."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    """Reference answers per turn; judges see those of math, reasoning and coding."""


def _bundled(name: str) -> list[dict[str, Any]]:
    text = bundled_text("pipeline.lm.mtbench", f"{name}.jsonl")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def read_questions(path: Path | None = None) -> list[Question]:
    """The 80 questions with their reference answers, or those of a file in the same form. Raises InputError."""
    rows = _bundled("question") if path is None else read_records(path)
    references = {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in _bundled("reference_answer_gpt-4")}
    questions: dict[int, Question] = {}
    for number, row in enumerate(rows, 1):
        try:
            question = _question(row, references)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, question {number}: question_id (a number), category and one or two turns expected: {error}"
            ) from error
        if question.question_id in questions:
            raise InputError(f"{path}, question {number}: question_id {question.question_id} is there already")
        questions[question.question_id] = question
    return list(questions.values())


def _question(row: dict[str, Any], references: dict[int, tuple[str, ...]]) -> Question:
    number = row["question_id"]
    if not isinstance(number, int):
        raise TypeError(f"question_id is {number!r}")
    # The file has short notes as "reference" for some questions; the judge is given the whole answers.
    reference = references.get(number) or _texts(row.get("reference") or [])
    turns = _texts(row["turns"])
    if len(turns) not in (1, 2):
        raise ValueError(f"{len(turns)} turns")
    return Question(number, str(row["category"]), turns, reference)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"a list of texts expected, found {values!r:.80}")
    return tuple(values)


def judge_prompts() -> dict[str, dict[str, str]]:
    """FastChat's prompts by name."""
    return {row["name"]: row for row in _bundled("judge_prompts")}


def answer_key(row: dict[str, Any]) -> int:
    """Of an answer: its question. Raises KeyError, TypeError, IndexError for what is none."""
    _texts(row["choices"][0]["turns"])
    return int(row["question_id"])


def judgment_key(row: dict[str, Any]) -> tuple[str, int, int]:
    """Of a judgment: model, question, turn. Raises KeyError, TypeError, ValueError for what is none."""
    float(row["score"])
    return str(row["model"]), int(row["question_id"]), int(row["turn"])


class GrowingFile:
    """A JSONL file that gets a line per finished item, so that an interrupted command loses none.

    A last line that was cut off (no line end) is dropped when the file is opened. ``done`` has the key of every row.
    """

    def __init__(self, path: Path, key: Callable[[dict[str, Any]], Hashable]) -> None:
        self.path, self.key = path, key
        path.parent.mkdir(parents=True, exist_ok=True)
        data = read_table_bytes(path) if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(path, len(whole))
        self.rows: list[dict[str, Any]] = []
        self.done: set[Hashable] = set()
        for number, line in enumerate(whole.split(b"\n"), 1):
            try:
                if line:
                    self._keep(parse_json(line.decode()))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"{path}, line {number}: not what this command writes ({reason})") from error

    def _keep(self, row: dict[str, Any]) -> None:
        self.done.add(self.key(row))
        self.rows.append(row)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; it is on disk when this returns. Raises OSError."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._keep(row)
