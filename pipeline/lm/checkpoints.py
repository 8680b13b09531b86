"""Checkpoints of Hugging Face's trainer, which are read only as they were written.

The trainer gives a checkpoint its name before it is written. ``seal`` adds ``checksums.json`` when all of it is there;
what has none was being written when the run ended, and what differs from it is damaged.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from data_prep.files.bounded_reading import read_json
from data_prep.files.checksums import sha256
from data_prep.structure.structure_bytes import atomic_write
from pipeline.lm.errors import InputError

SUMS = "checksums.json"
PREFIX = "checkpoint-"


def seal(checkpoint: Path, keep: int) -> None:
    """Note that ``checkpoint`` is complete, then delete all beside it but the ``keep`` up to it that are complete.

    What is there of later steps was passed over when the run went on.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / SUMS)
    sums = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
    atomic_write(checkpoint / SUMS, (json.dumps(sums, indent=1) + "\n").encode())
    every = _by_step(checkpoint.parent)
    complete = [path for path in every[: every.index(checkpoint) + 1] if (path / SUMS).is_file()]
    for path in every:
        if path not in complete[-keep:]:
            shutil.rmtree(path)


def newest_whole(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint in ``folder`` that is as it was written; ``None`` where none was ever complete.

    Each newer one that is passed over is a line to ``say``. Raises InputError when all that were complete are damaged.
    """
    complete = 0
    for path in reversed(_by_step(folder)):
        if not (path / SUMS).is_file():
            say(f"{path}: was being written when the run ended, and is passed over")
            continue
        complete += 1
        reason = _damage(path)
        if reason is None:
            return path
        say(f"{path}: {reason}, so it is passed over")
    if complete:
        raise InputError(f"{folder}: all {complete} checkpoints are damaged: remove the directory to begin anew")
    return None


def _by_step(folder: Path) -> list[Path]:
    """The trainer's directories, oldest first."""
    steps = {path: path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def _damage(checkpoint: Path) -> str | None:
    """What differs from the checksums; ``None``: nothing."""
    try:
        sums = dict(read_json(checkpoint / SUMS))
    except (ValueError, TypeError) as error:
        return f"{SUMS} cannot be read ({error})"
    for name, expected in sums.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != expected:
            return f"{name} has not the checksum it was written with"
    return None
