"""FastChat's JSONL files: questions, reference answers, judge prompts, and files that grow line by line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from data_prep.bounded_reading import read_table_bytes
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
    text = (resources.files("pipeline.lm.mtbench") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def read_questions(path: Path | None = None) -> list[Question]:
    """The 80 questions with their reference answers, or those of a file in the same form. Raises InputError."""
    rows = _bundled("question") if path is None else read_records(path)
    references = {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in _bundled("reference_answer_gpt-4")}
    questions = []
    for number, row in enumerate(rows, 1):
        try:
            # The file has short notes as "reference" for some questions; the judge is given the whole answers.
            reference = references.get(row["question_id"]) or tuple(row.get("reference") or ())
            questions.append(Question(int(row["question_id"]), str(row["category"]), tuple(row["turns"]), reference))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}, question {number}: question_id, category and turns expected: {error}") from error
    return questions


def judge_prompts() -> dict[str, dict[str, str]]:
    """FastChat's prompts by name."""
    return {row["name"]: row for row in _bundled("judge_prompts")}


class GrowingFile:
    """A JSONL file that gets a line per finished item, so that an interrupted command loses none.

    A last line that was cut off (no line end) is dropped when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        data = read_table_bytes(path) if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            path.write_bytes(whole)
        try:
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole.decode().split("\n") if line]
        except ValueError as error:
            raise InputError(f"{path}: not JSON lines: {error}") from error

    def done(self, keys: Sequence[str]) -> set[tuple]:
        """The values of ``keys`` of the rows that are there."""
        return {tuple(row[key] for key in keys) for row in self.rows}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows.append(row)
