"""A directory of structure files to a dataset directory: find, read, filter, cluster, split, write."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.clusters import similarities
from data_prep.dataset import DatasetWriter, Placement
from data_prep.filters import FilterSettings
from data_prep.ingest import Ingested, ingest, ingest_file
from data_prep.inputs import find_structures
from data_prep.ledger import LedgerRow
from data_prep.splits import split_by_cluster

MIN_CHAINS_PER_PROCESS = 50
"""Below this many chains, starting a process takes longer than comparing the sequences."""


class BuildError(ValueError):
    """Input that gives no dataset. ``ledger`` says what became of each file; ``str()`` is one line."""

    def __init__(self, message: str, ledger: Sequence[LedgerRow] = ()) -> None:
        super().__init__(message)
        self.ledger = tuple(ledger)


@dataclass(frozen=True)
class SplitSettings:
    """How chains become training and validation chains; see ``data_prep.splits``."""

    identity: float = 0.3
    val_fraction: float = 0.1
    val_ids: tuple[str, ...] | None = None
    """If given, these are the validation chains, whatever ``val_fraction``."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.identity <= 1:
            raise ValueError(f"identity is {self.identity}, expected more than 0 and at most 1")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, expected 0 or more and less than 1")


@dataclass(frozen=True)
class BuildReport:
    """What came of a build."""

    n_read: int
    """Structure files that were read."""
    ledger: tuple[LedgerRow, ...]
    placements: dict[str, Placement]
    """By record id."""


def build_dataset(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    filters: FilterSettings | None = None,
    split: SplitSettings | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> BuildReport:
    """Build the dataset ``out`` from the structure files under ``root``.

    The dataset depends on the files and the settings alone, not on ``jobs`` or the order of the file system.
    ``progress(what, done, total)`` is called as the work goes on. Raises ``BuildError`` where there is no usable
    chain, ``DatasetError`` where ``out`` cannot be written, ``SplitError`` for a split that cannot be made.
    """
    filters, split = filters or FilterSettings(), split or SplitSettings()
    files, ledger, ambiguous = find_structures(root)
    if not files and not ledger and not ambiguous:
        raise BuildError(f"{root}: is empty, expected structure files")
    resolved, rows = _settle_shared_stems(root, ambiguous, filters)
    files, ledger = sorted([*files, *resolved]), [*ledger, *rows]
    n_read = len(files) + sum(map(len, ambiguous)) - len(resolved)
    with DatasetWriter(out, overwrite=overwrite) as writer:
        results: list[Ingested] = []
        sequences: dict[str, str] = {}
        lower_ids: set[str] = set()
        for done, result in enumerate(ingest(root, files, filters, jobs), start=1):
            clashing = {record.id for record in result.records if record.id.lower() in lower_ids}
            for record in result.records:
                if record.id not in clashing:
                    writer.add(record)
                    sequences[record.id] = record.sequence
                    lower_ids.add(record.id.lower())
            results.append(replace(result, records=(), rows=tuple(_clash(row, clashing) for row in result.rows)))
            progress("reading", done, len(files))
        twins = _twins(results)
        ledger += [_with_warnings(row, twins) for result in results for row in result.rows]
        if not sequences:
            raise BuildError(f"{root}: no usable protein chain in {n_read} structure files; nothing written", ledger)
        ids, letters = list(sequences), list(sequences.values())
        pairs = similarities(
            letters,
            jobs=min(jobs, len(ids) // MIN_CHAINS_PER_PROCESS),
            progress=lambda done, total: progress("comparing", done, total),
        )
        placements = split_by_cluster(
            ids,
            letters,
            pairs,
            level=split.identity,
            val_fraction=split.val_fraction,
            val_ids=split.val_ids,
            seed=split.seed,
        )
        settings = {"filters": asdict(filters), "split": asdict(split)}
        writer.finish(placements, ledger=ledger, settings=settings, extra_warnings=twins)
    return BuildReport(n_read, tuple(ledger), placements)


def _settle_shared_stems(
    root: str | os.PathLike, groups: Iterable[Sequence[str]], filters: FilterSettings
) -> tuple[list[str], list[LedgerRow]]:
    """Of files that share a stem, those that may be used: the only readable one of its group, else none."""
    usable, rows = [], []
    for group in groups:
        unreadable = {}
        for file in group:
            result = ingest_file(str(root), file, filters)
            if not result.sha256:
                unreadable[file] = result.rows
        readable = [file for file in group if file not in unreadable]
        rows += [row for file_rows in unreadable.values() for row in file_rows]
        if len(readable) == 1:
            usable += readable
        for file in readable if len(readable) > 1 else ():
            others = ", ".join(other for other in readable if other != file)
            rows.append(LedgerRow(file, "", "rejected", f"duplicate stem: shared with {others}; rename or remove"))
    return usable, rows


def _clash(row: LedgerRow, clashing: set[str]) -> LedgerRow:
    if row.id not in clashing:
        return row
    return replace(row, status="rejected", id="", reason=f"id taken: {row.id} is a chain of another file; rename it")


def _twins(results: Sequence[Ingested]) -> dict[str, list[str]]:
    """By record id: which other files have the same content. Their chains share a cluster, hence a split."""
    files_of: dict[str, list[str]] = {}
    for result in results:
        if result.sha256:
            files_of.setdefault(result.sha256, []).append(result.file)
    return {
        row.id: [f"same content as {', '.join(file for file in files_of[result.sha256] if file != result.file)}"]
        for result in results
        for row in result.rows
        if row.id and len(files_of[result.sha256]) > 1
    }


def _with_warnings(row: LedgerRow, warnings: dict[str, list[str]]) -> LedgerRow:
    return replace(row, reason="; ".join(filter(None, [row.reason, *warnings.get(row.id, ())]))) if row.id else row


def read_ids(path: str | os.PathLike) -> tuple[str, ...]:
    """Record ids from a text file, one per line; blank lines and lines that begin with # do not count.

    Raises ``BuildError`` for a file that cannot be read or holds no ids.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    ids = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not ids:
        raise BuildError(f"{path}: holds no ids, expected one per line")
    return ids
