"""SHA-256 of files, and ``SHA256SUMS`` of a directory in the format of ``sha256sum``."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_table_bytes

CHECKSUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f]+)")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(directory: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Digest of each file of a directory by its name there, subdirectories included; or of the files ``names``."""
    return {name: sha256(directory / name) for name in (sorted(_files(directory)) if names is None else names)}


def changed_files(directory: Path, expected: Mapping[str, str]) -> list[str]:
    """What differs in files of a directory from the digests they were written with, one line each; empty if nothing."""
    problems = []
    for name, digest in expected.items():
        try:
            found = sha256(directory / name)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            problems.append(f"{directory / name}: cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        if found != digest:
            problems.append(f"{directory / name}: its content has changed since it was written (checksum differs)")
    return problems


def write_checksums(directory: Path) -> None:
    """Write ``SHA256SUMS`` over all other files of a directory, subdirectories included."""
    sums = checksums(directory, sorted(_files(directory) - {CHECKSUMS}))
    write_text(directory / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def damaged_files(directory: Path) -> list[str]:
    """What is wrong with the files of a directory, one line each, by its ``SHA256SUMS``; empty if nothing is."""
    sums = directory / CHECKSUMS
    try:
        lines = read_table_bytes(sums).decode().removesuffix("\n").split("\n")  # splitlines knows other line breaks
    except (OSError, UnicodeDecodeError) as error:
        return [f"{sums}: cannot be read ({getattr(error, 'strerror', None) or error})"]
    matches = [(_LINE.fullmatch(line), line) for line in lines]
    damaged = [f"{sums}: damaged line {line[:40]!r}" for match, line in matches if match is None]
    listed = {match[2]: match[1] for match, _ in matches if match is not None}
    others = sorted(_files(directory) - listed.keys() - {CHECKSUMS})
    strange = [f"{directory / name}: does not belong to the dataset" for name in others]
    return damaged + changed_files(directory, listed) + strange


def _files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
