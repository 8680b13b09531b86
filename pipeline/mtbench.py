"""MT-Bench: answers of a language model to 80 questions of two turns, for FastChat to grade.

python -m pipeline.mtbench --run RUN --out OUT
"""

import argparse
import os
import sys
from pathlib import Path

from data_prep.files.command_line import CommandParser, run_command
from data_prep.files.text import is_file_name
from pipeline.lm.errors import InputError, require_extra, system_errors


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = CommandParser(
        "pipeline.mtbench",
        "Let a model answer MT-Bench, in FastChat's files.\n\n"
        "OUT/model_answer/ID.jsonl has the answers. The same command again goes on where it stopped. FastChat's\n"
        "llm_judge grades them: docs/language-models.md has the commands.",
        examples=(
            "examples:\n"
            "  python -m pipeline.mtbench --run RUN --out OUT                        # a run of pipeline.sft or .dpo\n"
            "  python -m pipeline.mtbench --model DIR --adapter ADAPTER --out OUT"
        ),
        allow_abbrev=False,
    )
    p.add_argument("--out", type=Path, default=Path("runs/mtbench"), help="directory to write, or to go on with")
    p.add_argument("--resume", action="store_true", help="go on with what is in --out, as it does without it too")
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
    return p


def as_file_name(name: str) -> str:
    """The name of a model as that of a file: of a path its end, of a hub name all, as FastChat has it.

    Raises InputError.
    """
    is_path = name.startswith((".", "/", "~")) or os.path.exists(name)
    name = Path(name).resolve().name if is_path else name.replace("/", "--")
    if not is_file_name(name):
        raise InputError(f"{name!r} cannot be the name of a file: give another name by --model-id")
    return name


def body(arguments: argparse.Namespace) -> int:
    """Answer the questions; return the exit code."""
    require_extra("pipeline.mtbench")
    if bool(arguments.run) == bool(arguments.model):
        raise InputError("give one of --run and --model")
    if arguments.run and arguments.adapter:
        raise InputError("--adapter goes with --model: a run has its own")
    if arguments.max_new_tokens < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise InputError("--max-new-tokens and --limit are at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise InputError(f"--seed {arguments.seed}: from 0 to 4294967295")
    from pipeline.config.command import make_console
    from pipeline.config.device import pick_device
    from pipeline.lm.engine import memory_errors, quiet
    from pipeline.lm.mtbench import read_questions, subject, write_answers

    quiet()
    with memory_errors("lower --max-new-tokens, or take a device with more"), system_errors(arguments.out):
        device, console = pick_device(arguments.device), make_console()
        questions = read_questions(arguments.questions)[: arguments.limit]
        about = subject(arguments.run, arguments.model, arguments.adapter, arguments.prompt)
        model_id = as_file_name(arguments.model_id or about.name)
        write_answers(
            about, questions, arguments.out / "model_answer" / f"{model_id}.jsonl", model_id, device, console,
            max_new_tokens=arguments.max_new_tokens, seed=arguments.seed,
        )  # fmt: skip
    console.print("Next: FastChat's llm_judge grades them; docs/language-models.md has the commands")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(body, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
