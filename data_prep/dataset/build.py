"""A directory of structure files to a dataset directory: find, read, filter, cluster, split, write."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from data_prep.dataset.blocks import FILES_PER_BLOCK, Blocks, WorkError
from data_prep.dataset.clusters import mmseqs_is_installed, mmseqs_version, similarities
from data_prep.dataset.ingest import Ingested, IngestSettings, ingest_file
from data_prep.dataset.inputs import find_structures
from data_prep.dataset.ledger import LedgerRow
from data_prep.dataset.report import report_page
from data_prep.dataset.splits import SplitSettings, split_by_cluster
from data_prep.dataset.store import DatasetError, DatasetWriter, Placement, check_target
from data_prep.dataset.update import (
    ID_IMPOSSIBLE,
    ID_TAKEN,
    REPEATED,
    TWIN,
    Changes,
    FinishedDataset,
    as_json,
    moved,
)
from data_prep.files.bounded_reading import read_table
from data_prep.files.errors import UserError
from data_prep.files.lock import locked
from data_prep.files.text import is_file_name
from data_prep.structure.structure_bytes import is_structure_name, structure_stem

MIN_CHAINS_PER_PROCESS = 200
"""Below this many chains, starting a process takes longer than comparing the sequences."""

MAX_EXHAUSTIVE = 8000
"""Different sequences above which MMseqs2 takes over if it is installed (``clustering='auto'``). Aligning every pair
of 8,000 takes about half an hour on one core."""

Progress = Callable[[str, int, int], None]


class BuildError(UserError):
    """Input that gives no dataset. ``ledger`` says what became of each file."""

    def __init__(self, message: str, ledger: Sequence[LedgerRow] = ()) -> None:
        super().__init__(message)
        self.ledger = tuple(ledger)


@dataclass(frozen=True)
class Input:
    """The files of a run, and what was decided about them before any chain was looked at."""

    root: Path
    files: tuple[str, ...]
    """To be read, relative to ``root``, in order."""
    n_read: int
    """Structure files that are or were read, those with a shared stem included."""
    rows: tuple[LedgerRow, ...]
    """Of everything that is not a structure file or is another format of one that is read."""
    path_in_id: tuple[str, ...] = ()
    """Files whose stem is that of a file in another directory too."""

    def settings(self, reading: IngestSettings) -> IngestSettings:
        """What is read of these files, given what the user asked for."""
        return replace(reading, path_in_id=self.path_in_id)


@dataclass(frozen=True)
class BuildReport:
    """What came of a build."""

    n_read: int
    """Structure files that were read."""
    ledger: tuple[LedgerRow, ...]
    placements: dict[str, Placement]
    """By record id."""
    clustering: str
    """How similar pairs were found: 'exhaustive' or 'mmseqs'."""
    changes: Changes | None = None
    """Of the files, where a dataset was updated."""
    moved: tuple[int, int] = (0, 0)
    """Chains that the update took from training to the held-out ones, and from these to others."""


def find_input(
    root: str | os.PathLike,
    reading: IngestSettings,
    *,
    only_files: Sequence[str] | None = None,
    out: str | os.PathLike | None = None,
    is_readable: Callable[[str], bool] = lambda file: False,
) -> Input:
    """What there is to read under ``root``, a directory or one structure file.

    ``only_files`` (paths relative to ``root``) are the only ones to read; what else is there is not looked at, nor is
    the dataset ``out``. Files that share a stem are tried, but where ``is_readable`` knows. Raises ``BuildError`` where
    there is nothing at all.
    """
    directory = _directory_of(root)
    if Path(root).is_file():
        only_files = [Path(root).name]
    found, rows, ambiguous = find_structures(directory, only_files, out=out)
    if not found and not rows and not ambiguous:
        raise BuildError(f"{root}: is empty, expected structure files")
    resolved, more = _settle_shared_stems(directory, ambiguous, reading, is_readable)
    n_read = len(found) + sum(map(len, ambiguous))
    files = tuple(sorted([*found, *resolved]))
    stems = Counter(structure_stem(file).lower() for file in files)
    path_in_id = tuple(file for file in files if stems[structure_stem(file).lower()] > 1)
    return Input(directory, files, n_read, (*rows, *more), path_in_id)


def _directory_of(root: str | os.PathLike) -> Path:
    return Path(root).parent if Path(root).is_file() else Path(root)


def open_update(
    root: str | os.PathLike,
    out: str | os.PathLike,
    reading: IngestSettings,
    *,
    only_files: Sequence[str] | None = None,
) -> tuple[FinishedDataset, Input, Changes]:
    """The dataset ``out`` to be updated, its input today, and what of that has changed. Errors as of both."""
    finished = FinishedDataset(Path(out), _directory_of(root), reading)
    source = find_input(root, reading, only_files=only_files, out=out, is_readable=finished.is_unchanged)
    return finished, source, finished.changes(source.files, source.rows, source.path_in_id)


def work_directory(out: str | os.PathLike) -> Path:
    """Where an unfinished run for ``out`` keeps its work: a hidden directory beside it."""
    out = Path(out)
    return out.with_name(f".{out.name}.work")


def read_blocks(
    source: Input,
    out: str | os.PathLike,
    reading: IngestSettings,
    *,
    shard: tuple[int, int] = (1, 1),
    jobs: int = 1,
    overwrite: bool = False,
    update: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Blocks:
    """Read the files of ``source``, or the ``shard`` (i, n) of them, into the work directory of ``out``.

    What is there already is not read again. ``overwrite`` discards it; with ``update`` the dataset ``out`` is one that
    will be replaced. Raises ``DatasetError`` where ``out`` cannot be written, ``WorkError`` where the work directory
    holds something else.
    """
    check_target(out, overwrite=overwrite or update)
    blocks = Blocks(source.root, source.files, source.settings(reading), work_directory(out))
    try:
        blocks.open(restart=overwrite)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror})") from None
    number, count = shard
    mine = [block for block in range(len(blocks)) if block % count == number - 1]
    missing = set(blocks.missing())
    todo = [block for block in mine if block in missing]
    total = sum(min(FILES_PER_BLOCK, len(source.files) - block * FILES_PER_BLOCK) for block in mine)
    done = total - sum(min(FILES_PER_BLOCK, len(source.files) - block * FILES_PER_BLOCK) for block in todo)
    progress("reading", done, total)
    for n_files in blocks.make(todo, jobs):
        done += n_files
        progress("reading", done, total)
    return blocks


def build_dataset(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    reading: IngestSettings | None = None,
    split: SplitSettings | None = None,
    only_files: Sequence[str] | None = None,
    clustering: str = "auto",
    jobs: int = 1,
    overwrite: bool = False,
    merge: bool = False,
    update: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """Build the dataset ``out`` from the structure files under ``root``.

    The dataset depends on the files and the settings alone, not on ``jobs``, the order of the file system, or how
    often the work was interrupted. ``merge`` demands that all files were read before, by ``read_blocks``.
    ``update`` takes from the dataset ``out``, if it is there, what files gave that are as they were; the dataset
    becomes the same as without. ``clustering`` is 'exhaustive', 'mmseqs' or 'auto' (see ``MAX_EXHAUSTIVE``).
    ``progress(what, done, total)`` is called as the work goes on. Raises ``BuildError`` where there is no usable chain,
    ``WorkError`` where another process is making this dataset, and what ``read_blocks``, ``split_by_cluster`` and
    ``open_update`` raise.
    """
    reading, split = reading or IngestSettings(), split or SplitSettings()
    _check_clustering(clustering)
    finished: FinishedDataset | None = None
    changes: Changes | None = None
    if update and Path(out, "dataset.json").is_file():
        finished, source, changes = open_update(root, out, reading, only_files=only_files)
        if finished.is_current(changes, source.rows, as_json(asdict(split)), clustering):
            return BuildReport(source.n_read, finished.ledger, finished.placements(), finished.clustering, changes)
        to_read = replace(source, files=changes.to_read)
    else:
        to_read = source = find_input(root, reading, only_files=only_files, out=out)
    if merge:
        _check_complete(source, out, reading)
    replaced = overwrite or finished is not None
    blocks = read_blocks(
        to_read, out, reading, jobs=jobs, overwrite=overwrite, update=finished is not None, progress=progress
    )

    def results() -> Iterator[Ingested]:
        read = blocks.results()
        return read if finished is None else finished.results(source.files, to_read.files, read)

    with locked(blocks.path / "lock") as is_alone:
        if not is_alone:
            raise WorkError(f"{blocks.path}: another run is making this dataset")
        with DatasetWriter(out, overwrite=replaced, work=blocks.path / "dataset") as writer:
            gathered = _gather(results, reading, writer)
            if finished is not None:
                finished.check_unchanged()
            twins = _twins(gathered.results)
            ledger = [*source.rows, *gathered.absent(reading)]
            ledger += [_with_warnings(row, twins) for result in gathered.results for row in result.rows]
            if not gathered.sequences:
                blocks.remove()
                raise BuildError(f"{root}: {_why_nothing(source, ledger)}", ledger)
            letters = list(gathered.sequences.values())
            different = list(dict.fromkeys(letters))
            method = _clustering_method(clustering, len(different))
            pairs = similarities(
                different,
                jobs=jobs if method == "mmseqs" else min(jobs, len(different) // MIN_CHAINS_PER_PROCESS),
                keep=blocks.path,
                method=method,
                progress=lambda done, total: progress("comparing", done, total),
            )
            placements = split_by_cluster(
                list(gathered.sequences), letters, pairs, split,
                release_dates=gathered.dates, together=gathered.same_chain, left_out=gathered.left_out,
            )  # fmt: skip
            dates = dict(zip(gathered.sequences, gathered.dates, strict=True))
            unplaced = _why_in_no_split(placements, split, dates)
            ledger = [_with_warnings(row, unplaced) for row in ledger]
            program = f"MMseqs2 {mmseqs_version()}, not exhaustive" if method == "mmseqs" else "every pair aligned"
            settings = {"reading": asdict(reading), "split": asdict(split), "clustering": program}
            writer.finish(placements, ledger=ledger, settings=settings, extra_warnings=twins, pages=report_page)
        blocks.remove()
    before = {} if finished is None else finished.placements()
    return BuildReport(source.n_read, tuple(ledger), placements, method, changes, moved(before, placements))


@dataclass
class _Gathered:
    """What all files gave, without the arrays, which the writer has."""

    results: list[Ingested] = field(default_factory=list)
    """With the rows as they are when all files are known, and no records."""
    sequences: dict[str, str] = field(default_factory=dict)
    """By id of each chain of the dataset."""
    dates: list[str | None] = field(default_factory=list)
    """Of first release, in the order of ``sequences``."""
    same_chain: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of ids that are models of one chain."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by id."""

    def absent(self, reading: IngestSettings) -> list[LedgerRow]:
        """A row for each id that was asked for and is in no file."""
        names = (reading.wanted_ids or frozenset()) - self.sequences.keys() - self.left_out.keys()
        return [LedgerRow("", name, "rejected", "asked for, but no file has such a chain") for name in sorted(names)]


def _gather(results: Callable[[], Iterator[Ingested]], reading: IngestSettings, writer: DatasetWriter) -> _Gathered:
    """Hand the chains of all files to the ``writer``, but those that cannot be beside another one."""
    repeated = _repeated(results()) if reading.filters.unique_sequences else {}
    gathered = _Gathered()
    lower_ids: set[str] = set()
    first_model: dict[tuple[str, str], str] = {}
    for result in results():
        left_out: dict[str, str] = {}
        for record in result.records:
            if record.id in repeated:
                left_out[record.id] = _repeats(repeated[record.id])
            elif record.id.lower() in lower_ids:
                left_out[record.id] = f"{ID_TAKEN}{record.id} is a chain of another file; rename it"
            elif not is_file_name(record.id):
                left_out[record.id] = f"{ID_IMPOSSIBLE}the name of a file: {record.id[:40]}...; rename the file"
            else:
                writer.add(record)
                gathered.sequences[record.id] = record.sequence
                gathered.dates.append(record.release_date)
                lower_ids.add(record.id.lower())
                if reading.model == "all":
                    first = first_model.setdefault((result.file, record.chain_id), record.id)
                    gathered.same_chain.append((first, record.id))
        gathered.left_out |= result.left_out | left_out
        rows = tuple(_left_out(row, left_out) for row in result.rows)
        gathered.results.append(replace(result, records=(), rows=rows))
    return gathered


def _why_nothing(source: Input, ledger: Sequence[LedgerRow]) -> str:
    if not source.n_read:
        row = min(source.rows, key=lambda row: (row.status != "unreadable", row.file))
        return f"no structure files among {len(source.rows)} entries, as {row.file}: {row.reason}; nothing written"
    row = min(ledger, key=lambda row: (not is_structure_name(row.file), row.file))
    name = f"{row.file} {row.chain}".strip()
    return f"no usable protein chain in {source.n_read} structure files; nothing written ({name}: {row.reason})"


def _check_complete(source: Input, out: str | os.PathLike, reading: IngestSettings) -> None:
    blocks = Blocks(source.root, source.files, source.settings(reading), work_directory(out))
    if not blocks.path.is_dir():
        raise BuildError(f"{blocks.path}: no such directory, expected the work of --shard runs for {out}")
    blocks.open()
    missing = blocks.missing()
    if missing:
        raise BuildError(
            f"{blocks.path}: {len(missing)} of {len(blocks)} blocks of files have not been read; finish all --shard "
            "runs before --merge"
        )


def _check_clustering(wanted: str) -> None:
    if wanted == "mmseqs" and not mmseqs_is_installed():
        raise BuildError(
            "--clustering mmseqs: the program mmseqs is not on the PATH; install MMseqs2 or leave this out"
        )


def _clustering_method(wanted: str, n_different: int) -> str:
    if wanted == "auto":
        return "mmseqs" if n_different > MAX_EXHAUSTIVE and mmseqs_is_installed() else "exhaustive"
    return wanted


def _repeated(results: Iterable[Ingested]) -> dict[str, str]:
    return repeated_sequences(
        ChainQuality(record.id, record.sequence, record.resolution, int(record.ca_mask.sum()))
        for result in results
        for record in result.records
    )


def _repeats(better: str) -> str:
    return f"{REPEATED}that of {better}, which is kept"


def _settle_shared_stems(
    root: Path, groups: Iterable[Sequence[str]], reading: IngestSettings, is_readable: Callable[[str], bool]
) -> tuple[list[str], list[LedgerRow]]:
    """Of files of one directory that share a stem the first that can be read, and rows for the others."""
    usable: list[str] = []
    rows: list[LedgerRow] = []
    for group in groups:
        used = None
        for file in group:
            if used is not None:
                rows.append(LedgerRow(file, "", "rejected", f"same name as {used}, which is read in its place"))
                continue
            result = None if is_readable(file) else ingest_file(root, file, reading)
            if result is None or result.sha256:
                used = file
                usable.append(file)
            else:
                rows += result.rows
    return usable, rows


def _others(files: Sequence[str], file: str) -> str:
    """The first few of a group beside one of them, and how many more there are; groups may be large."""
    shown = [other for other in files[:6] if other != file][:5]
    left = len(files) - 1 - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _left_out(row: LedgerRow, reasons: dict[str, str]) -> LedgerRow:
    return replace(row, status="rejected", id="", reason=reasons[row.id]) if row.id in reasons else row


def _twins(results: Sequence[Ingested]) -> dict[str, list[str]]:
    """By record id: which other files have the same content. Their chains share a cluster, hence a split."""
    files_of: dict[str, list[str]] = {}
    for result in results:
        if result.sha256:
            files_of.setdefault(result.sha256, []).append(result.file)
    return {
        row.id: [f"{TWIN}{_others(files_of[result.sha256], result.file)}"]
        for result in results
        for row in result.rows
        if row.id and len(files_of[result.sha256]) > 1
    }


def _why_in_no_split(
    placements: Mapping[str, Placement], split: SplitSettings, dates: Mapping[str, str | None]
) -> dict[str, list[str]]:
    """By id of each accepted chain that is neither for training nor held out."""

    def reason(record_id: str) -> str:
        if split.val_from is None:
            return "related to a chain that is held out by its id"
        return "no release date" if dates[record_id] is None else "related to a chain that is held out or older"

    return {name: [f"in no split: {reason(name)}"] for name, where in placements.items() if where.split == "none"}


def _with_warnings(row: LedgerRow, warnings: dict[str, list[str]]) -> LedgerRow:
    return replace(row, reason="; ".join(filter(None, [row.reason, *warnings.get(row.id, ())]))) if row.id else row


def read_lines(path: str | os.PathLike, what: str = "ids") -> tuple[str, ...]:
    """Entries of a text file, one per line; blank lines and lines that begin with # do not count.

    Raises ``BuildError`` for a file that cannot be read or holds none.
    """
    try:
        lines = read_table(path, encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    entries = tuple(dict.fromkeys(line.strip() for line in lines if line.strip() and line.strip()[0] != "#"))
    if not entries:
        raise BuildError(f"{path}: holds no {what}, expected one per line")
    return entries


@dataclass(frozen=True)
class ChainQuality:
    """What decides between chains of one sequence."""

    id: str
    sequence: str
    resolution: float | None
    n_observed: int
    """Residues with an alpha carbon."""


def repeated_sequences(chains: Iterable[ChainQuality]) -> dict[str, str]:
    """Id of each chain that repeats the sequence of a better one -> id of that one.

    Better is of lower resolution value (none stated is worst), then with more residues observed, then first by id, so
    that the choice does not depend on the order of the input.
    """

    def order(chain: ChainQuality) -> tuple:
        return (float("inf") if chain.resolution is None else chain.resolution, -chain.n_observed, chain.id)

    best: dict[str, ChainQuality] = {}
    listed = list(chains)
    for chain in listed:
        if chain.sequence not in best or order(chain) < order(best[chain.sequence]):
            best[chain.sequence] = chain
    return {chain.id: best[chain.sequence].id for chain in listed if best[chain.sequence] is not chain}


SAMPLE = 100
"""Files that are read for an estimate, evenly spaced over the input."""

BYTES_PER_ATOM, BYTES_PER_RESIDUE, BYTES_PER_CHAIN = 16, 14, 400
"""Of shards (see ``data_prep.dataset.shards``) and of index, ledger and report."""


@dataclass(frozen=True)
class Estimate:
    """Numbers for the whole input, from ``n_sampled`` of its files."""

    n_files: int
    n_left_out: int
    """Files of the input that would not be read."""
    n_sampled: int
    n_unreadable: float
    n_chains: float
    """Accepted chains."""
    read_seconds: float
    """With one process."""
    compare_seconds: float
    """Aligning every pair of different sequences, with one process."""
    n_bytes: float


def estimate(source: Input, reading: IngestSettings, *, clock=time.perf_counter) -> Estimate:
    """Read a sample of the input and scale up. Writes nothing."""
    n = len(source.files)
    sampled = source.files[:: max(1, -(-n // SAMPLE))]
    start = clock()
    results = [ingest_file(source.root, file, source.settings(reading)) for file in sampled]
    per_file = (clock() - start) / max(len(sampled), 1)
    records = [record for result in results for record in result.records]
    scale = n / max(len(sampled), 1)
    n_chains = len(records) * scale
    different = list(dict.fromkeys(record.sequence for record in records))
    start = clock()
    similarities(different)
    per_pair = (clock() - start) / max(_pairs(len(different)), 1)
    n_bytes = sum(
        BYTES_PER_ATOM * int(record.atom37_mask.sum()) + BYTES_PER_RESIDUE * len(record) + BYTES_PER_CHAIN
        for record in records
    )
    return Estimate(
        n_files=n,
        n_left_out=len({row.file for row in source.rows}),
        n_sampled=len(sampled),
        n_unreadable=sum(not result.sha256 for result in results) * scale,
        n_chains=n_chains,
        read_seconds=per_file * n,
        compare_seconds=per_pair * _pairs(len(different) * scale),
        n_bytes=n_bytes * scale,
    )


def _pairs(n: float) -> float:
    return n * (n - 1) / 2
