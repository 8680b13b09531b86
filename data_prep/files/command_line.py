"""What all commands share: name and version, a short help and a long one, old names of options, errors as one line."""

import argparse
import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_prep.files.errors import UserError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
WRONG_PATH = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG),
)
"""System errors that mean that a path was wrongly chosen; others (a full disk) are failed runs."""


@cache  # reading the metadata takes 2 ms, and every structure file states it
def release() -> str:
    """Version of the installed distribution, for example ``0.1.0``; ``0+unknown`` for a copy that is not installed."""
    try:
        return version("lorta-fold")
    except PackageNotFoundError:
        return "0+unknown"


def program() -> str:
    """Name and version, for what files say of the program that wrote them."""
    return f"lorta-fold {release()}"


class _ShowRelease(argparse.Action):
    """Reads the metadata only when asked: it costs a command more than its arguments do."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(program())
        parser.exit()


def add_version_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``: print the release and exit."""
    parser.add_argument(
        "--version", action=_ShowRelease, nargs=0, dest=argparse.SUPPRESS, help="print the version and exit"
    )


class CommandParser(argparse.ArgumentParser):
    """The parser of a command, with ``--version``, a short ``--help`` and a ``--help-all``.

    ``common`` are the options of the short page ("--out", in any order); without any the two pages are one and there
    is no ``--help-all``. ``examples`` end both pages. ``details()`` gives further text of the long page and may be
    slow; ``format_help`` is the long page.
    """

    def __init__(
        self,
        module: str,
        description: str,
        *,
        common: Sequence[str] = (),
        examples: str = "",
        details: Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            prog=command_name(module),
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            **options,
        )
        self._common, self._examples, self._details = frozenset(common), examples, details
        about = "print this page and exit" if not common else "print the options used most, and exit"
        self.add_argument("-h", "--help", action=_ShowHelp, nargs=0, dest=argparse.SUPPRESS, help=about)
        if common:
            self.add_argument(
                "--help-all", action=_ShowHelp, nargs=0, dest=argparse.SUPPRESS, help="print all options and exit"
            )
        add_version_option(self)

    def format_help(self) -> str:
        """All options."""
        details = "" if self._details is None else self._details().strip("\n") + "\n\n"
        return self._page(details + self._examples)

    def format_short_help(self) -> str:
        """The options used most."""
        wanted = self._common | {"--help", "--help-all"}
        hidden = [a for a in self._actions if a.option_strings and wanted.isdisjoint(a.option_strings)]
        texts = [action.help for action in hidden]
        try:
            for action in hidden:
                action.help = argparse.SUPPRESS
            return self._page(self._examples)
        finally:
            for action, text in zip(hidden, texts, strict=True):
                action.help = text

    def _page(self, epilog: str) -> str:
        """A page; the description is wrapped, unless it has lines of its own."""
        described, width = self.description or "", min(shutil.get_terminal_size().columns, 120) - 2
        try:
            self.description = described if "\n" in described else textwrap.fill(described, width)
            self.epilog = epilog
            return super().format_help()
        finally:
            self.description = described


class _ShowHelp(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        short = option_string != "--help-all" and parser._common
        print(parser.format_short_help() if short else parser.format_help(), end="")
        parser.exit()


def command_name(module: str) -> str:
    """How the command of ``module`` was called: ``python -m pipeline.train`` or ``lorta-fold train``."""
    if Path(sys.argv[0]).stem == "lorta-fold":
        return f"lorta-fold {module.rpartition('.')[2].replace('_', '-')}"
    return f"python -m {module}"


def renamed_option(parser: argparse.ArgumentParser, old: str, new: str, **changes: Any) -> None:
    """Understand the option ``old`` as ``new``, which the parser has already, with a warning that names the new one.

    ``changes`` are arguments of ``add_argument`` in which the old option differs, as ``type``, for another syntax.
    """
    target = next(action for action in parser._actions if new in action.option_strings)
    alike = {"nargs": target.nargs, "type": target.type, "choices": target.choices, "metavar": target.metavar}
    parser.add_argument(
        old,
        action=_Renamed,
        target=target,
        new=new,
        dest=target.dest,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
        **(alike | changes),
    )


class _Renamed(argparse.Action):
    def __init__(self, *, target: argparse.Action, new: str, **options: Any) -> None:
        super().__init__(**options)
        self._target, self._new = target, new

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        warn(f"{option_string} is now called {self._new}; the old name goes with the next version")
        self._target.required = False
        self._target(parser, namespace, values, self._new)


def run_command(
    body: Callable[[argparse.Namespace], int], arguments: argparse.Namespace, *, interrupted: str = "interrupted"
) -> int:
    """Return the exit code of ``body(arguments)``, with foreseeable errors as one line on stderr.

    A ``UserError`` has its own exit code; a system error is wrong usage (2) where a path was wrongly chosen and a
    failed run (1) otherwise; an interrupt prints ``interrupted`` and gives 130.
    """
    try:
        return body(arguments)
    except UserError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        return EXIT_USAGE if error.errno in WRONG_PATH else EXIT_FAILED
    except KeyboardInterrupt:
        say(interrupted)
        return EXIT_INTERRUPTED


def warn(line: str) -> None:
    """Print a warning as ``say`` does."""
    say(f"warning: {line}")


def say(line: str) -> None:
    """Print a line on stderr, from one process of each machine where a launcher started several: the rest repeat it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)
