"""What can go wrong in the language-model stages, as one-line errors; and the check for the extra."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

EXTRA = ("transformers", "peft", "trl", "datasets")
"""Packages of the extra ``lm``, by import name."""

LONGEST_REASON = 300
"""Characters of a library's message that are shown."""


class InputError(ValueError):
    """A file, a hub name, a model or a run directory that cannot be used; the message is one line."""


class StageFailed(RuntimeError):
    """A run that started and cannot go on; the message is one line."""


def one_line(error: BaseException) -> str:
    """What a library says is wrong, on one line and not endless; the name of the class where it says nothing."""
    text = f"unknown or missing key {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:LONGEST_REASON] or type(error).__name__


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Within the block, a file below ``folder`` that cannot be written is an ``OSError`` that names the directory.

    safetensors and tokenizers have errors of their own for a full disk, with the system's number in their text alone;
    torch does not have even that; and Python's own error names no file once it is open.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
        raise
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None and "PytorchStreamWriter" not in str(error):
            raise
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(folder)) from error


def require_extra(command: str) -> None:
    """Raise InputError when packages of the extra ``lm`` are missing, with the line that installs them."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{command} needs {', '.join(missing)}, which this environment lacks: "
            'pip install -c constraints.txt -e ".[lm]"'
        )
