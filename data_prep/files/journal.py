"""A file of JSON lines that grows while a command works, so that an interrupted one goes on where it was.

The first line, the header, says what the file belongs to: the settings that all of its rows were made with. Each line
after it is one row. A row is with the system when ``append`` returns, and a last line without its end, which a process
was killed over, is dropped on reading.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import parse_json, read_table_bytes
from data_prep.files.errors import UserError


class JournalError(UserError):
    """A journal that is damaged, or of other settings."""


class Journal:
    """The journal of one file: ``open`` it, ``append`` rows, leave its ``with`` block to close it.

    ``header`` is anything that JSON holds, or None for a file without one, whose rows belong to it in any case.
    ``rows`` are those found when it was opened and those appended since.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None = None, *, sync: bool = False) -> None:
        """With ``sync`` a row is on disk, and not only with the system, when ``append`` returns."""
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._header = None if header is None else json.loads(json.dumps(header))
        self._sync = sync
        self._stream: IO[str] | None = None

    def open(self, *, resume: bool = True) -> Self:
        """Go on with the file if there is one, else (or without ``resume``) begin it anew.

        Raises ``JournalError`` where it is damaged or has another header, ``OSError``.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.path.is_file():
            content = read_table_bytes(self.path)
            whole = content[: content.rfind(b"\n") + 1]
            lines = whole.split(b"\n")[:-1]
            if self._header is not None and lines:
                self._check_header(_parsed(self.path, 1, lines[0]))
            first = 1 if self._header is None else 2
            self.rows = [_parsed(self.path, n, line) for n, line in enumerate(lines[first - 1 :], first) if line]
            if not lines:
                self.rewrite(())
            elif whole != content:
                os.truncate(self.path, len(whole))
        else:
            self.rewrite(())
        self._stream = self.path.open("a", encoding="utf-8", newline="")
        return self

    def __enter__(self) -> Self:
        return self if self._stream is not None else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Add rows in one go. Raises ``OSError``, ``ValueError`` for a number that JSON lacks (NaN)."""
        assert self._stream is not None, "open() first"
        self._stream.write("".join(map(_line, rows)))
        self._stream.flush()
        if self._sync:
            os.fsync(self._stream.fileno())
        self.rows += [dict(row) for row in rows]

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Put these rows, in this order, in place of all that are there; whole or not at all."""
        self.rows = [dict(row) for row in rows]
        was_open = self._stream is not None
        self.close()
        write_text(self.path, "".join(map(_line, [*([] if self._header is None else [self._header]), *self.rows])))
        if was_open:
            self._stream = self.path.open("a", encoding="utf-8", newline="")

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _check_header(self, found: dict[str, Any]) -> None:
        if found == self._header:
            return
        different = differences(found, self._header or {})
        raise JournalError(f"{self.path}: belongs to a run with other settings ({different})")


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between the settings that were found and those of today: 'seed was 1, now 2; ...'; '' if nothing."""
    return ", ".join(f"{name} was {found.get(name)}, now {wanted.get(name)}" for name in differing(found, wanted))


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, sorted; one that is not there is None."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line.decode())
    except ValueError as error:
        raise JournalError(f"{path}: line {number} is damaged ({error})") from None
    if not isinstance(row, dict):
        raise JournalError(f"{path}: line {number} is damaged (an object was expected)")
    return row
