"""What can go wrong in the language-model stages, as one-line errors; and the check for the extra."""

from importlib.util import find_spec

EXTRA = ("transformers", "peft", "trl", "datasets")
"""Packages of the extra ``lm``, by import name."""


class InputError(ValueError):
    """A file, a hub name, a model or a run directory that cannot be used; the message is one line."""


class StageFailed(RuntimeError):
    """A run that started and cannot go on; the message is one line."""


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def require_extra(command: str) -> None:
    """Raise InputError when packages of the extra ``lm`` are missing, with the line that installs them."""
    missing = [name for name in EXTRA if not _installed(name)]
    if missing:
        raise InputError(
            f"{command} needs {', '.join(missing)}, which this environment lacks: "
            'pip install -c constraints.txt -e ".[lm]"'
        )
