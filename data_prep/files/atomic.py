"""Files and directories that get their name when all of their content is on disk: whole, or not there at all.

Until then they are called ``.NAME.PID.partial``, beside the target; that is also what a killed process leaves.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def writing(path: str | os.PathLike, mode: str = "w", **open_options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` when the block ends well, and goes when it does not.

    ``mode`` is "w" or "wb"; text is UTF-8 with its line ends as they are, unless ``open_options`` say otherwise. An
    ``OSError`` of writing names ``path``.
    """
    if "b" not in mode:
        open_options = {"encoding": "utf-8", "newline": ""} | open_options
    with writing_path(path) as temporary, temporary.open(mode, **open_options) as stream:
        yield stream


@contextmanager
def writing_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of a temporary file for a library that opens it by name; otherwise as ``writing``."""
    target = Path(path)
    temporary = partial_path(target)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise _of_target(error, temporary, target) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty directory that takes the place of ``path`` when the block ends well, and goes when it does not.

    A directory that is there already keeps its name until the new one is on disk. Errors as of ``writing``.
    """
    target = Path(path)
    temporary = partial_path(target)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number that was killed
        temporary.mkdir()
        yield temporary
        for place in (*temporary.rglob("*"), temporary):
            _sync(place)
        move_directory(temporary, target)
    except OSError as error:
        raise _of_target(error, temporary, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_directory(source: Path, target: Path) -> None:
    """Give ``source`` the name of ``target``; a directory of that name keeps it until then, and is removed last."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.is_dir():
        os.rename(target, old)
    try:
        os.rename(source, target)
    except OSError:
        if old.is_dir():
            os.rename(old, target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a whole text file (UTF-8) or nothing. Raises ``OSError`` that names it."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a whole file or nothing. Raises ``OSError`` that names it."""
    with writing(path, "wb") as stream:
        stream.write(data)


def partial_path(target: Path) -> Path:
    """Return where ``target`` lies until it is whole."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def _sync(path: Path) -> None:
    """Return when a file is on disk, or the names in a directory; not every system can say so of directories."""
    is_directory = path.is_dir()
    with suppress(OSError) if is_directory else nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_directory or os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _of_target(error: OSError, temporary: Path, target: Path) -> OSError:
    """The error of the temporary file as one of its target; a full disk names none. Others stay as they are."""
    if error.errno is None or (error.filename is not None and not _is_within(error.filename, temporary)):
        return error
    return OSError(error.errno, error.strerror, str(target))


def _is_within(name: Any, folder: Path) -> bool:
    return Path(os.fsdecode(name)).is_relative_to(folder)
