"""Locks on files, so that two commands do not write to one directory. The system frees them when a process ends."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock(stream: io.TextIOBase, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed or its process ends; False where another process has it.

    Windows has no such locks: there two commands on one directory are the user's to avoid.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_open(path: Path, stream: io.TextIOBase) -> bool:
    """Whether ``path`` still is the file that is open: who had the lock before may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of the file ``path``, which is made and removed again; False where another process has it."""
    while True:
        with path.open("a") as stream:
            if not lock(stream):
                yield False
                return
            if is_open(path, stream):
                try:
                    yield True
                finally:
                    path.unlink(missing_ok=True)
                return
