"""What the commands of the pipeline share beside ``data_prep.files.command_line``."""

import argparse
import os
import sys

from rich.console import Console


def child_environment() -> dict[str, str]:
    """Return the environment in which ``python -m`` imports what this process does, whatever the working directory
    holds."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def make_console(quiet: bool = False) -> Console:
    """Where commands print: text as it is (a path may hold brackets), and long lines are left to the terminal."""
    return Console(highlight=False, markup=False, soft_wrap=True, quiet=quiet)


def add_resume_option(p: argparse._ActionsContainer) -> None:
    """Add ``--resume`` of the commands that do many things one by one, and go on with them without it too."""
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on if there is something in --out to go on with, which the command does without it too; the same "
        "options again are fine, others are refused",
    )


def add_checkpoint_option(p: argparse._ActionsContainer) -> None:
    """Add ``--checkpoint`` of the commands that read a run."""
    p.add_argument(
        "--checkpoint",
        type=_which_step,
        default="last",
        metavar="best|last|STEP",
        help="best: of the best round of validation; last: the newest; or a kept step, 0: untrained (default: last)",
    )


def _which_step(text: str) -> int | str:
    if text in ("best", "last"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: best, last or the number of a step expected")
    return int(text)
