"""What the stage commands share: one line for errors that a user can cause, exit codes, devices."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from pipeline.config.schema import ConfigError
from pipeline.runs.checkpoint import CheckpointError, WhichStep

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
WRONG_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EROFS,
    errno.EFBIG,
    errno.ENAMETOOLONG,
)
"""System errors that mean that a path was wrongly chosen; others (a full disk) are failed runs."""


def run_command(
    body: Callable[[argparse.Namespace], int],
    arguments: argparse.Namespace,
    *,
    usage_errors: Sequence[type[Exception]],
    failures: Sequence[type[Exception]] = (),
) -> int:
    """``body(arguments)`` with foreseeable errors as one line on stderr; returns the exit code.

    Args:
        body: the command; returns its own exit code.
        arguments: parsed.
        usage_errors: exceptions that mean wrong usage or input: exit 2.
        failures: exceptions that mean that the run failed: exit 1.
    """
    try:
        return body(arguments)
    except (ConfigError, CheckpointError, *usage_errors) as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except tuple(failures) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        return EXIT_USAGE if error.errno in WRONG_PATH else EXIT_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED


def child_environment() -> dict[str, str]:
    """Return the environment in which ``python -m`` imports what this process does, whatever the working directory
    holds."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def say(line: str) -> None:
    """Print a line on stderr, from one process of each machine where a launcher started several: the rest repeat it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)


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


def _which_step(text: str) -> WhichStep:
    if text in ("best", "last"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: best, last or the number of a step expected")
    return int(text)
