"""Checksums of a dataset directory, in the format of ``sha256sum``."""

import hashlib
import re
from pathlib import Path

from data_prep.files.bounded_reading import read_table_bytes

CHECKSUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f]+)")


def write_checksums(directory: Path) -> None:
    """Write ``SHA256SUMS`` over all files of a directory, subdirectories included."""
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    (directory / CHECKSUMS).write_text("".join(f"{sha256(directory / name)}  {name}\n" for name in files))


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_files(directory: Path) -> list[str]:
    """What is wrong with the files of a directory, one line each, by its ``SHA256SUMS``; empty if nothing is."""
    sums = directory / CHECKSUMS
    try:
        lines = read_table_bytes(sums).decode().removesuffix("\n").split("\n")  # splitlines knows other line breaks
    except (OSError, UnicodeDecodeError) as error:
        return [f"{sums}: cannot be read ({getattr(error, 'strerror', None) or error})"]
    problems: list[str] = []
    listed = {CHECKSUMS}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{sums}: damaged line {line[:40]!r}")
            continue
        digest, name = match.groups()
        listed.add(name)
        try:
            found = sha256(directory / name)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            problems.append(f"{directory / name}: cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        if found != digest:
            problems.append(f"{directory / name}: its content has changed since it was written (checksum differs)")
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return problems + [f"{directory / name}: does not belong to the dataset" for name in sorted(there - listed)]
