"""One-line errors of the language-model stages; names on the Hugging Face hub; the check for the extra."""

import errno
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from data_prep.files.errors import RunError, UserError

EXTRA = ("transformers", "peft", "trl", "datasets")
"""Packages of the extra ``lm``, by import name."""

LONGEST_REASON = 300
"""Characters of a library's message that are shown."""


PROBE_SECONDS = 5.0
"""How long the hub may take to answer."""


class InputError(UserError):
    """A file, a hub name, a model or a run directory that cannot be used; the message is one line."""


class StageFailed(RunError):
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


def is_local(name: str) -> bool:
    """Whether ``name`` is a file or directory here. Raises InputError for what can only be a path and is none."""
    if os.path.exists(name):  # False, and no error, for what no file system takes
        return True
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such file or directory")
    return False


def ask_hub() -> bool:
    """Whether the hub can be asked; when it does not answer, Hugging Face's libraries are told to use their cache.

    Their own retries without a network take minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return False
    return True


@contextmanager
def named(name: str, kind: str) -> Iterator[None]:
    """Run a loader of Hugging Face's for ``name``; its failure is one InputError that says what to do.

    Args:
        name: hub name or path.
        kind: what it is, for the message: model, tokenizer, dataset.
    """
    local = is_local(name)
    online = local or ask_hub()
    try:
        yield
    except Exception as error:
        # An unknown name, no network and damaged files end in exceptions of any class of four libraries.
        if local:
            raise InputError(f"{name}: the {kind} in it cannot be read: {one_line(error)}") from error
        if not online:
            raise InputError(
                f"{kind} {name!r}: the hub cannot be reached and the cache does not have it: give a local directory or "
                "file, or download it where there is a network (hf download) and set HF_HOME"
            ) from error
        raise InputError(f"{kind} {name!r}: the hub does not give it: {one_line(error)}") from error
