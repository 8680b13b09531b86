"""Clusters of similar sequences: every pair is aligned, so what is claimed holds exactly.

Two chains are *linked* at level t if their optimal local alignment (Smith-Waterman, BLOSUM62, a gap of k residues
costs 11 + k) scores at least ``MIN_SCORE`` and has at least t * (length of the shorter chain) identical pairs; X is
identical to nothing. A cluster is a connected component of the links (single linkage), hence two chains of different
clusters are never linked. Where several alignments share the best score, the first one of Biopython counts.

The cost grows with the square of the number of different sequences: about two minutes on one core for 800 of 200
residues.

For sets that are too large to align every pair, MMseqs2 (Steinegger & Soeding 2017) says which pairs to align. Its
prefilter is fast because it passes over pairs without common words: pairs near the level may be missed, so that
clusters are not exact about what they claim. Sets of some thousand chains are better aligned exhaustively.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_table
from data_prep.files.errors import UserError
from data_prep.files.workers import in_processes
from data_prep.structure.alignment import identity, reaching

MIN_SCORE = 40.0
"""Raw score below which an alignment means nothing (E about 1 for one pair of 200 residues: random pairs reach 28 in
the mean, 4% of them 40), so that the identities of short chance matches link nothing."""

_ROWS_PER_TASK = 8


@dataclass(frozen=True, slots=True)
class Similarity:
    """Two different sequences (by position in the input, i < j) whose alignment scores at least ``MIN_SCORE``."""

    i: int
    j: int
    identity: float
    """Identical pairs / length of the shorter sequence, 0 to 1."""


def similarities(
    sequences: Sequence[str],
    *,
    jobs: int = 1,
    keep: Path | None = None,
    method: str = "exhaustive",
    progress: Callable[[int, int], None] | None = None,
) -> list[Similarity]:
    """All pairs of ``sequences``, which are all different, that score at least ``MIN_SCORE``; sorted by (i, j).

    ``method`` is 'exhaustive' or 'mmseqs': then only the pairs that MMseqs2 finds are aligned. The result does not
    depend on ``jobs`` (processes). ``keep`` is a directory where finished portions stay, so that another call for the
    same sequences goes on from there. ``progress(done, total)`` counts pairs.
    """
    total, done = len(sequences) * (len(sequences) - 1) // 2, 0
    if progress is not None:
        progress(done, total)
    if method == "mmseqs":
        candidates = candidate_pairs(sequences, jobs=jobs, work=keep)
        near = [(i, j) for i, j in candidates if reaching(sequences[i], [sequences[j]], MIN_SCORE)]
        portions = iter([([(i, j, identity(sequences[i], sequences[j])) for i, j in near], total)])
    else:
        portions = _compare(sequences, jobs, keep)
    found: list[Similarity] = []
    for pairs, compared in portions:
        done += compared
        if progress is not None:
            progress(done, total)
        found += [Similarity(*pair) for pair in pairs]
    return sorted(found, key=lambda pair: (pair.i, pair.j))


def _compare(
    sequences: Sequence[str], jobs: int, keep: Path | None
) -> Iterator[tuple[list[tuple[int, int, float]], int]]:
    tasks = [(start, min(start + _ROWS_PER_TASK, len(sequences))) for start in range(0, len(sequences), _ROWS_PER_TASK)]
    if keep is not None:
        keep = keep / hashlib.sha256("\n".join(sequences).encode()).hexdigest()[:16]
        keep.mkdir(parents=True, exist_ok=True)
    jobs = jobs if len(tasks) >= 4 else 1
    return in_processes(_compare_rows, tasks, jobs, prepare=_set_sequences, prepare_with=(sequences, keep))


@dataclass
class _Process:
    """What each worker process knows."""

    sequences: Sequence[str] = ()
    keep: Path | None = None


_process = _Process()


def _set_sequences(sequences: Sequence[str], keep: Path | None) -> None:
    _process.sequences, _process.keep = sequences, keep


def _compare_rows(rows: tuple[int, int]) -> tuple[list[tuple[int, int, float]], int]:
    """Rows [start, stop) against all sequences after them."""
    sequences = _process.sequences
    compared = sum(len(sequences) - i - 1 for i in range(*rows))
    kept = None if _process.keep is None else _process.keep / f"{rows[0]:08d}.json"
    if kept is not None and kept.exists():
        return [tuple(pair) for pair in json.loads(read_table(kept))], compared
    found = [
        (i, i + 1 + j, identity(sequences[i], sequences[i + 1 + j]))
        for i in range(*rows)
        for j in reaching(sequences[i], sequences[i + 1 :], MIN_SCORE)
    ]
    if kept is not None:
        write_text(kept, json.dumps(found))
    return found, compared


def clusters(n: int, pairs: Sequence[Similarity], level: float) -> np.ndarray:
    """int64 [n]: cluster of each sequence, numbered from 0 by first member. Identity 1 always links."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        if pair.identity >= min(level, 1.0):
            a, b = root(pair.i), root(pair.j)
            parent[max(a, b)] = min(a, b)
    number: dict[int, int] = {}
    return np.array([number.setdefault(root(i), len(number)) for i in range(n)], dtype=np.int64)


MMSEQS = "mmseqs"
_SENSITIVITY = "7.5"
"""The most sensitive setting that MMseqs2 documents."""

_COLUMNS = "query,target"


class MmseqsError(UserError):
    """MMseqs2 failed."""


def mmseqs_is_installed() -> bool:
    """Whether the program can be called."""
    return shutil.which(MMSEQS) is not None


def mmseqs_version() -> str:
    """What the program calls its version."""
    return _run_mmseqs(["version"]).strip()


def candidate_pairs(sequences: Sequence[str], *, jobs: int = 1, work: Path | None = None) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of different ``sequences`` that the program finds worth aligning, sorted.

    Temporary files go into a directory in ``work`` (the system's place for them if None). Raises ``MmseqsError``.
    """
    limits = ["-s", _SENSITIVITY, "-e", "10", "--max-seqs", str(max(300, len(sequences))), "--threads", str(jobs)]
    with TemporaryDirectory(dir=work) as name:
        fasta, result = Path(name, "sequences.fasta"), Path(name, "pairs.tsv")
        fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        files = [str(fasta), str(fasta), str(result), str(Path(name, "tmp"))]
        _run_mmseqs(["easy-search", *files, *limits, "--format-output", _COLUMNS])
        lines = result.read_text().splitlines()
    pairs: set[tuple[int, int]] = set()
    for line in lines:
        try:
            i, j = sorted(map(int, line.split("\t")))
            (sequences[i], sequences[j])
        except (ValueError, IndexError):
            raise MmseqsError(f"{MMSEQS}: a result without the columns {_COLUMNS}: {line[:60]!r}") from None
        if i != j:
            pairs.add((i, j))
    return sorted(pairs)


def _run_mmseqs(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run([MMSEQS, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MmseqsError(f"{MMSEQS}: cannot be run ({error.strerror})") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise MmseqsError(f"{MMSEQS} {arguments[0]} failed with exit status {done.returncode}: {last}")
    return done.stdout
