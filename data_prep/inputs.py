"""The files under an input directory: which are structures, which are not, which cannot be told apart."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.ledger import LedgerRow
from data_prep.structure_bytes import is_structure_name, structure_stem

_OTHER_COMPRESSION = re.compile(r"\.(bz2|xz|zst|z|zip)$", re.IGNORECASE)


def find_structures(
    root: str | os.PathLike, only_files: Sequence[str] | None = None
) -> tuple[list[str], list[LedgerRow], list[list[str]]]:
    """Structure files under ``root`` (relative paths, '/', sorted), ledger rows for everything that is none, and
    groups of structure files that share a stem.

    Subdirectories are searched; hidden files and directories are not read, links to directories are not followed,
    pipes and devices are never opened. Files that share a stem (``x.pdb`` and ``x.cif.gz``, in whichever directories,
    upper and lower case being the same) would give records of one name; they are in the groups only.

    With ``only_files`` (paths relative to ``root``) nothing else is looked at; a directory among them is not searched.
    """
    root = Path(root)
    found: list[str] = []
    rows: list[LedgerRow] = []
    if only_files is None:
        entries = _walk(root, root)
    else:
        entries = ((Path(path).as_posix(), _reason(root / path)) for path in dict.fromkeys(only_files))
    for path, reason in entries:
        if reason is None:
            found.append(path)
        else:
            unreadable = reason.startswith("cannot")
            rows.append(LedgerRow(path, "", "unreadable" if unreadable else "rejected", reason))
    by_stem: dict[str, list[str]] = {}
    for path in sorted(found):
        by_stem.setdefault(structure_stem(path).lower(), []).append(path)
    groups = list(by_stem.values())
    return sorted(g[0] for g in groups if len(g) == 1), rows, [g for g in groups if len(g) > 1]


def _walk(root: Path, directory: Path) -> Iterator[tuple[str, str | None]]:
    """Relative path of each file with the reason not to read it, None for a structure file."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        yield directory.relative_to(root).as_posix(), f"cannot be listed: {error.strerror}"
        return
    for entry in entries:
        path = Path(entry.path).relative_to(root).as_posix()
        try:
            is_directory = entry.is_dir()
        except OSError:
            is_directory = False  # its reason says what is wrong
        if entry.name.startswith("."):
            yield path, f"hidden {'directory, not entered' if is_directory else 'file'}: ignored"
        elif is_directory and entry.is_symlink():
            yield path, "link to a directory: not followed"
        elif is_directory:
            yield from _walk(root, Path(entry.path))
        else:
            yield path, _reason(Path(entry.path))


def _reason(path: Path) -> str | None:
    """Why a file is not to be read, None for a structure file."""
    try:
        mode = os.stat(path).st_mode  # of the target, for a link
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(mode):
        return "cannot be read: a directory, expected a structure file"
    if not stat.S_ISREG(mode):
        return "cannot be read: a pipe, socket or device"
    if is_structure_name(_OTHER_COMPRESSION.sub("", path.name)):
        return None if _is_text(str(path)) else "cannot be read: its path is not valid UTF-8; rename it"
    return "not a structure file: its name does not end in .pdb .ent .cif .mmcif .bcif (.gz)"


def _is_text(name: str) -> bool:
    """Whether a path can be stored as text: bytes that are no UTF-8 stand in it as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
