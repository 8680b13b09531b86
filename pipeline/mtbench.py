"""MT-Bench: answers of a language model to 80 questions of two turns, and their grades if there is a judge.

python -m pipeline.mtbench --run RUN --out OUT
"""

import argparse
import json
import os
import sys
from pathlib import Path

from data_prep.files.release import add_version_option, program
from data_prep.files.text import is_file_name
from data_prep.structure.structure_bytes import atomic_write
from pipeline.config.command import add_resume_option, make_console, run_command
from pipeline.config.device import pick_device
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, StageFailed, require_extra, system_errors
from pipeline.lm.mtbench.judge import check_endpoint


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.mtbench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Let a model answer MT-Bench and have the answers graded, in FastChat's files.\n\n"
            "examples:\n"
            "  python -m pipeline.mtbench --run RUN --out OUT                        # a run of pipeline.sft or .dpo\n"
            "  python -m pipeline.mtbench --model DIR --adapter ADAPTER --out OUT\n"
            "  OPENAI_API_KEY=... python -m pipeline.mtbench --run RUN --out OUT \\\n"
            "      --judge-url https://api.openai.com/v1 --judge-model gpt-4\n"
            "  python -m pipeline.mtbench --run RUN --out OUT --judge-local meta-llama/Llama-3.1-8B-Instruct\n\n"
            "OUT/model_answer/ID.jsonl has the answers, OUT/model_judgment/JUDGE_single.jsonl the judgments,\n"
            "OUT/scores.md and scores.json the means. The same command again goes on where it stopped; with a judge\n"
            "added, the answers are kept and graded. Compare only what one judge has graded."
        ),
        allow_abbrev=False,
    )
    add_version_option(p)
    p.add_argument("--out", type=Path, help="directory to write, or to go on with (default: runs/mtbench)")
    add_resume_option(p)
    p.add_argument("--run", type=Path, help="run directory of pipeline.sft or pipeline.dpo")
    p.add_argument("--model", help="in place of a run: hub name or directory of the model")
    p.add_argument("--adapter", type=Path, help="directory of an adapter for --model")
    p.add_argument("--model-id", help="name in the answer file (default: name of the run or model)")
    p.add_argument("--prompt", choices=["chat", "alpaca"], help="form of the prompts (default: that of the run)")
    p.add_argument("--questions", type=Path, metavar="FILE.jsonl", help="other questions, in FastChat's form")
    p.add_argument("--limit", type=int, help="only the first questions")
    p.add_argument("--max-new-tokens", type=int, default=1024, help="tokens of an answer (default 1024, FastChat's)")
    p.add_argument("--seed", type=int, default=0, help="of the sampled answers")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    p.add_argument("--judge-url", metavar="URL", help="base of an OpenAI-compatible endpoint, with /v1")
    p.add_argument("--judge-model", metavar="NAME", help="the judge's name at the endpoint")
    p.add_argument("--judge-key", metavar="VARIABLE", help="variable that has its key (default OPENAI_API_KEY)")
    p.add_argument("--judge-local", metavar="MODEL", help="a local chat model as judge: hub name or directory")
    return p


def check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, or cannot be."""
    if bool(arguments.run) == bool(arguments.model):
        raise ConfigError("give one of --run and --model")
    if arguments.run and arguments.adapter:
        raise ConfigError("--adapter goes with --model: a run has its own")
    if bool(arguments.judge_url) != bool(arguments.judge_model):
        raise ConfigError("--judge-url and --judge-model go together")
    if arguments.judge_url and arguments.judge_local:
        raise ConfigError("give one of --judge-url and --judge-local")
    if arguments.judge_key and arguments.judge_key not in os.environ:
        raise ConfigError(f"--judge-key {arguments.judge_key}: there is no such variable")
    if arguments.judge_url:
        check_endpoint(arguments.judge_url, key_of(arguments))
    if arguments.max_new_tokens < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise ConfigError("--max-new-tokens and --limit are at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise ConfigError(f"--seed {arguments.seed}: from 0 to 4294967295")


def key_of(arguments: argparse.Namespace) -> str:
    """The judge's key; empty: none is sent."""
    return os.environ.get(arguments.judge_key or "OPENAI_API_KEY", "").strip()


def as_file_name(name: str) -> str:
    """The name of a model as that of a file: of a path its end, of a hub name all, as FastChat has it.

    Raises ConfigError.
    """
    is_path = name.startswith((".", "/", "~")) or os.path.exists(name)
    name = Path(name).resolve().name if is_path else name.replace("/", "--")
    if not is_file_name(name):
        raise ConfigError(f"{name!r} cannot be the name of a file: give another name (--model-id, --judge-model)")
    return name


def answer_and_grade(arguments: argparse.Namespace) -> int:
    """What the command does, with options that are in order; returns the exit code."""
    from pipeline.lm.mtbench.answers import answer
    from pipeline.lm.mtbench.files import GrowingFile, answer_key, judge_prompts, judgment_key, read_questions
    from pipeline.lm.mtbench.judge import endpoint_judge, grade, summarise
    from pipeline.lm.mtbench.loading import load_for_chat, local_judge, subject
    from pipeline.lm.run import first_difference
    from pipeline.lm.tables import markdown

    device, console = pick_device(arguments.device), make_console()
    questions = read_questions(arguments.questions)[: arguments.limit]
    about = subject(arguments.run, arguments.model, arguments.adapter, arguments.prompt)
    model_id = as_file_name(arguments.model_id or about.name)
    settings = {**about.settings(), "max_new_tokens": arguments.max_new_tokens, "seed": arguments.seed}
    answers = GrowingFile(arguments.out / "model_answer" / f"{model_id}.jsonl", answer_key)
    for row in answers.rows:
        differs = first_difference(row["settings"], settings) if "settings" in row else ""
        if differs:
            raise InputError(f"{answers.path}: holds answers of {differs}: give another --out or --model-id")
    left = [question for question in questions if question.question_id not in answers.done]
    if left:
        model, tokenizer = load_for_chat(about, device)
        cuts = 0
        for number, question in enumerate(left, 1):
            record, cut = answer(
                model, tokenizer, question, model_id=model_id, form=about.prompt,
                max_new_tokens=arguments.max_new_tokens, seed=arguments.seed, settings=settings,
            )  # fmt: skip
            answers.add(record)
            cuts += cut
            console.print(f"answered {len(questions) - len(left) + number}/{len(questions)} ({question.category})")
        if cuts:
            console.print(f"{cuts} prompts were longer than the model's context; their beginning was cut off.")
    console.print(f"Wrote {answers.path}: {len(answers.rows)} answers")
    if not arguments.judge_url and not arguments.judge_local:
        console.print(
            "No grades: that needs a judge. Again with --judge-url URL --judge-model NAME (an OpenAI-compatible "
            "endpoint), or --judge-local MODEL; the answers are kept."
        )
        return 0
    judge_name = as_file_name(arguments.judge_model or arguments.judge_local)
    if arguments.judge_url:
        judge = endpoint_judge(arguments.judge_url, arguments.judge_model, key_of(arguments))
    else:
        judge = local_judge(arguments.judge_local, device)
    judgments = GrowingFile(arguments.out / "model_judgment" / f"{judge_name}_single.jsonl", judgment_key)
    prompts, by_id = judge_prompts(), {row["question_id"]: row for row in answers.rows}
    for question in questions:
        record = by_id[question.question_id]
        if len(record["choices"][0]["turns"]) != len(question.turns):
            raise InputError(f"{answers.path}: the answer to question {question.question_id} has other turns than it")
        for turn in range(1, len(question.turns) + 1):
            if (model_id, question.question_id, turn) not in judgments.done:
                judgments.add(grade(judge, judge_name, prompts, question, record, turn))
        console.print(f"graded question {question.question_id} ({question.category})")
    rows = summarise(questions, [row for row in judgments.rows if row["model"] == model_id])
    summary = {"program": program(), "model": model_id, "judge": judge_name, "prompt": about.prompt, "scores": rows}
    atomic_write(arguments.out / "scores.json", (json.dumps(summary, indent=1) + "\n").encode())
    table = markdown(list(rows[0]), [["" if cell is None else cell for cell in row.values()] for row in rows])
    text = f"Judge: {judge_name}. Model: {model_id}. {program()}.\n\n{table}"
    atomic_write(arguments.out / "scores.md", text.encode())
    console.print(table)
    console.print(f"Wrote {judgments.path}, {arguments.out}/scores.md, scores.json")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        require_extra("pipeline.mtbench")
        check(arguments)
        arguments.out = arguments.out or Path("runs") / "mtbench"
        from pipeline.lm.engine import memory_errors, quiet

        quiet()
        with memory_errors("lower --max-new-tokens, or take a device with more"), system_errors(arguments.out):
            return answer_and_grade(arguments)

    return run_command(body, arguments, usage_errors=(InputError,), failures=(StageFailed,))


if __name__ == "__main__":
    sys.exit(main())
