"""The files under an input directory: which are structures, which are not, which cannot be told apart."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.dataset.ledger import LedgerRow
from data_prep.structure.structure_bytes import is_structure_name, structure_stem

_OTHER_COMPRESSION = re.compile(r"\.(bz2|xz|zst|z|zip)$", re.IGNORECASE)


def find_structures(
    root: str | os.PathLike, only_files: Sequence[str] | None = None, *, out: str | os.PathLike | None = None
) -> tuple[list[str], list[LedgerRow], list[list[str]]]:
    """Structure files under ``root`` (relative paths, '/', sorted), ledger rows for everything that is none, and
    groups of structure files that share a stem.

    Subdirectories are searched; hidden files and directories are not read, links to directories are not followed,
    pipes and devices are never opened. Files of one directory that share a stem (``x.pdb`` and ``x.cif.gz``, upper and
    lower case being the same) are taken for one structure in several formats; they are in the groups only, mmCIF first,
    then BinaryCIF, then PDB, of each the uncompressed one first.

    With ``only_files`` (paths relative to ``root``, or absolute) nothing else is looked at; a directory among them is
    not searched. The dataset ``out`` and its unfinished work are no input where they lie under ``root``.
    """
    root = Path(root)
    found: list[str] = []
    rows: list[LedgerRow] = []
    if only_files is None:
        entries = _walk(root, None if out is None else Path(os.path.abspath(out)))
    else:
        entries = ((path, _reason(root / path)) for path in dict.fromkeys(_relative(path, root) for path in only_files))
    for path, reason in entries:
        if reason is None:
            found.append(path)
        else:
            unreadable = reason.startswith("cannot")
            rows.append(LedgerRow(path, "", "unreadable" if unreadable else "rejected", reason))
    by_stem: dict[tuple[str, str], list[str]] = {}
    for path in sorted(found, key=lambda path: (_format_order(path), path)):
        by_stem.setdefault((os.path.dirname(path), structure_stem(path).lower()), []).append(path)
    groups = sorted(by_stem.values())
    return sorted(g[0] for g in groups if len(g) == 1), rows, [g for g in groups if len(g) > 1]


def _format_order(path: str) -> tuple[int, bool]:
    """Which of several files of one structure comes first."""
    name = path.lower()
    is_gzip = name.endswith(".gz")
    kind = name.removesuffix(".gz").rpartition(".")[2]
    return {"cif": 0, "mmcif": 0, "bcif": 1}.get(kind, 2), is_gzip


def name_with_path(path: str) -> str:
    """What files of one stem in several directories are called: their path without the ending, ``_`` for ``/``."""
    return "_".join([*(part for part in Path(path).parent.parts if part != os.sep), structure_stem(path)])


def _relative(path: str, root: Path) -> str:
    """A path of a list as the ledger names it, in one way; relative to ``root`` where it lies under it."""
    inside = os.path.relpath(path, root) if os.path.isabs(path) else os.path.normpath(path)
    return path if os.path.isabs(path) and inside.startswith("..") else Path(inside).as_posix()


def _walk(root: Path, out: Path | None) -> Iterator[tuple[str, str | None]]:
    """Relative path of each file with the reason not to read it, None for a structure file."""
    directories = [root]
    while directories:
        directory = directories.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            yield directory.relative_to(root).as_posix(), f"cannot be listed: {error.strerror}"
            continue
        for entry in entries:
            path = Path(entry.path).relative_to(root).as_posix()
            try:
                is_directory = entry.is_dir()
            except OSError:
                is_directory = False  # its reason says what is wrong
            if out is not None and is_directory and _is_output(entry.path, out):
                continue
            if entry.name.startswith("."):
                yield path, f"hidden {'directory, not entered' if is_directory else 'file'}: ignored"
            elif is_directory and entry.is_symlink():
                yield path, "link to a directory: not followed"
            elif is_directory:
                directories.append(Path(entry.path))
                if is_structure_name(entry.name):
                    yield path, "a directory, and named like a structure file: what is in it is read"
            else:
                yield path, _reason(Path(entry.path))


def _is_output(directory: str, out: Path) -> bool:
    """Whether this is the dataset ``out`` or what an unfinished run left beside it."""
    here, name = os.path.split(os.path.abspath(directory))
    is_beside = re.fullmatch(rf"\.{re.escape(out.name)}\.(work|\d+\.(partial|old))", name)
    return Path(here) == out.parent and (name == out.name or is_beside is not None)


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
