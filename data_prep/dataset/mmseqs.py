"""Pairs of sequences that MMseqs2 finds (Steinegger & Soeding 2017), for sets that are too large to align every pair.

Its prefilter is fast because it passes over pairs without common words: pairs near the level may be missed, so that
clusters are not exact about what they claim. Sets of some thousand chains are better aligned exhaustively.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

EXECUTABLE = "mmseqs"
SENSITIVITY = "7.5"
"""The most sensitive setting that MMseqs2 documents."""

_COLUMNS = "query,target"


class MmseqsError(ValueError):
    """MMseqs2 failed. ``str()`` is one line."""


def is_installed() -> bool:
    """Whether the program can be called."""
    return shutil.which(EXECUTABLE) is not None


def version() -> str:
    """What the program calls its version."""
    return _run(["version"]).strip()


def candidate_pairs(sequences: Sequence[str], *, jobs: int = 1, work: Path | None = None) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of different ``sequences`` that the program finds worth aligning, sorted.

    Temporary files go into a directory in ``work`` (the system's place for them if None). Raises ``MmseqsError``.
    """
    limits = ["-s", SENSITIVITY, "-e", "10", "--max-seqs", str(max(300, len(sequences))), "--threads", str(jobs)]
    with TemporaryDirectory(dir=work) as name:
        fasta, result = Path(name, "sequences.fasta"), Path(name, "pairs.tsv")
        fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        files = [str(fasta), str(fasta), str(result), str(Path(name, "tmp"))]
        _run(["easy-search", *files, *limits, "--format-output", _COLUMNS])
        lines = result.read_text().splitlines()
    pairs: set[tuple[int, int]] = set()
    for line in lines:
        try:
            i, j = sorted(map(int, line.split("\t")))
            (sequences[i], sequences[j])
        except (ValueError, IndexError):
            raise MmseqsError(f"{EXECUTABLE}: a result without the columns {_COLUMNS}: {line[:60]!r}") from None
        if i != j:
            pairs.add((i, j))
    return sorted(pairs)


def _run(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run([EXECUTABLE, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MmseqsError(f"{EXECUTABLE}: cannot be run ({error.strerror})") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise MmseqsError(f"{EXECUTABLE} {arguments[0]} failed with exit status {done.returncode}: {last}")
    return done.stdout
