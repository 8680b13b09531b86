"""What the command ``pipeline.predict`` does with its arguments: everything but folding and files."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from data_prep.dataset.store import StructureDataset
from data_prep.files.command_line import EXIT_FAILED, EXIT_INTERRUPTED, release, run_command
from data_prep.files.workers import handled_by
from pipeline.config.command import make_console
from pipeline.config.device import pick_device
from pipeline.config.progress import duration
from pipeline.config.schema import MAX_THREADS, ConfigError
from pipeline.prediction.directory import PredictionDirectory, Shard
from pipeline.prediction.engine import Plan, fold_all
from pipeline.prediction.files import RELAXED
from pipeline.prediction.loading import Loaded, Source, load
from pipeline.prediction.relaxation import require_openmm
from pipeline.prediction.report import PageDetails, StructureDetail, write_report
from pipeline.prediction.rows import SEPARATOR, PredictionRow, rejected_row
from pipeline.prediction.sequences import Query, Rejected, dataset_queries, read_fasta

SHOWN = 20
LINE_EVERY = 30.0
"""Seconds between lines of progress where the screen is a file."""
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return run_command(_predict, arguments)


def parse_size(text: str) -> int:
    """Bytes of ``512M``, ``20G``, ``1.5GiB``. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or float(match[1]) == 0:
        raise ConfigError(f"--max-memory {text}: a size such as 512M or 20G is expected")
    return int(float(match[1]) * UNITS[match[2]])


def _predict(arguments: argparse.Namespace) -> int:
    console = make_console()
    if arguments.overwrite and (arguments.resume or arguments.shard):
        other = "--resume" if arguments.resume else "--shard"
        raise ConfigError(f"--overwrite with {other}: the one deletes what the other goes on with: choose")
    shard = None if arguments.shard is None else Shard.parse(arguments.shard)
    devices = tuple(str(pick_device(name)) for name in arguments.device.split(","))
    memory = parse_size(arguments.max_memory) if arguments.max_memory else None
    if arguments.batch_residues < 1:
        raise ConfigError("--batch-residues must be above 0")
    if arguments.recycles is not None and arguments.recycles < 0:
        raise ConfigError("--recycles must not be below 0")
    if not 0 <= arguments.cpu_threads <= MAX_THREADS:
        raise ConfigError(f"--cpu-threads must be from 0 to {MAX_THREADS}")
    if arguments.relax:
        require_openmm()
    if arguments.fasta:
        records = read_fasta(arguments.fasta)
    else:
        records = dataset_queries(StructureDataset(arguments.data), arguments.split)
    source = Source(arguments.run, arguments.checkpoint, arguments.weights, arguments.esm_weights)
    loaded = load(source)
    recycles = loaded.model.config.data.max_recycles if arguments.recycles is None else arguments.recycles
    plan = Plan(
        source=source,
        out=arguments.out,
        file_format=arguments.format,
        devices=devices,
        num_recycles=recycles,
        max_memory=memory,
        max_residues=arguments.batch_residues,
        cpu_threads=arguments.cpu_threads,
        relax=arguments.relax,
        page=shard is None,
    )
    settings = {"model": loaded.fingerprint, "recycles": recycles, "format": arguments.format}
    about = {"version": release(), "run": arguments.run, "description": loaded.description, "step": loaded.step}
    details = PageDetails()
    with PredictionDirectory(arguments.out, shard) as directory:
        directory.open(settings, about, overwrite=arguments.overwrite)
        rows, code = _fold(directory, select(records, shard), plan, loaded, details, console)
    table = written = directory.table.name
    if code != EXIT_INTERRUPTED:
        console.print(summary(rows))
        if shard is None:
            written = f"{table} and {write_report(arguments.out, rows, loaded.description, details).name}"
    failed = [row for row in rows if row.status != "done"]
    console.print(f"Wrote {len(rows) - len(failed)} structures, {written} to {arguments.out}")
    if arguments.relax and code != EXIT_INTERRUPTED:
        console.print(relaxations(rows, arguments.out))
    if failed:
        first = failed[0]
        console.print(f"Not folded: {len(failed)}, see {table}; the first, {first.name}: {first.reason}")
    if code == EXIT_INTERRUPTED:
        print("interrupted: the same command goes on", file=sys.stderr)
    elif shard is not None:
        console.print("Next, when all parts are done: the same command without --shard, for one table of all")
    else:
        console.print(f"Next: python -m evaluation.lddt {arguments.out} {arguments.data or 'TRUTH'} --out SCORES")
    return code


def select(records: Sequence[Query | Rejected], shard: Shard | None) -> list[Query | Rejected]:
    """The records of a part: dealt out longest first, so that all parts take as long; rejected ones to the first."""
    if shard is None:
        return list(records)
    queries = [record for record in records if isinstance(record, Query)]
    dealt = sorted(queries, key=lambda query: (-query.length, query.name))[shard.number - 1 :: shard.count]
    names = {query.name for query in dealt}
    return [r for r in records if (r.name in names if isinstance(r, Query) else shard.number == 1)]


def _fold(
    directory: PredictionDirectory,
    records: Sequence[Query | Rejected],
    plan: Plan,
    loaded: Loaded,
    details: PageDetails,
    console: Console,
) -> tuple[list[PredictionRow], int]:
    """Fold what is not done; rows of this command's records in their order, and the exit code."""
    queries = [record for record in records if isinstance(record, Query)]
    waiting = [query for query in queries if directory.finished(query, relax=plan.relax) is None]
    done = f", {len(queries) - len(waiting)} of them are done" if len(waiting) < len(queries) else ""
    console.print(f"Folding {len(queries)} sequences{done}, with {loaded.description}")
    devices, recycles = ", ".join(plan.devices), f"{plan.num_recycles} recycles"
    console.print(f"Device {devices}; {recycles}; batches of up to {plan.max_residues} residues")
    if loaded.model.config.stem.init == "random":
        console.print("The stem of this model was never pretrained: it began with random weights.")
    names = [record.name for record in records]
    code = 0
    try:
        for record in records:
            if isinstance(record, Rejected):
                directory.add(rejected_row(record))
        with handled_by(_interrupt, signal.SIGTERM), FoldingProgress(console, waiting) as progress:
            for event in fold_all(plan, loaded, waiting) if waiting else ():
                if isinstance(event, str):
                    progress.say(event)
                elif isinstance(event, StructureDetail):
                    details.add(event)
                else:
                    directory.add(event)
                    progress.add(event)
            if waiting:
                progress.say(progress.text())
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        rows = directory.finish(names)
    wanted = set(names)
    rows = [row for row in rows if row.name in wanted]
    if code == 0 and any(row.status != "done" for row in rows):
        code = EXIT_FAILED
    return rows, code


def _interrupt(*_: object) -> NoReturn:
    """What SIGTERM does, with which batch systems announce the end of a job: as Ctrl-C, the table is put in order."""
    raise KeyboardInterrupt


class FoldingProgress(Progress):
    """How far the command is: a bar on a terminal, a line now and then elsewhere. Use as a context manager."""

    def __init__(self, console: Console, queries: Sequence[Query]) -> None:
        columns = (TextColumn("folding"), BarColumn(), TextColumn("{task.fields[text]}"))
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self._work = {query.name: work(query) for query in queries}
        self._left = sum(self._work.values())
        self._count = len(self._work)
        self._done = self._residues = 0
        self._started = self._last_line = time.monotonic()
        self._bar = self.add_task("folding", total=self._left, text=f"0 of {self._count}")

    def add(self, row: PredictionRow) -> None:
        """Count a row."""
        self._done += 1
        self._residues += row.length or 0
        amount = self._work.pop(row.name, 0.0)
        self._left -= amount
        self.update(self._bar, advance=amount, text=self.text())
        if not self.console.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.console.print(self.text())

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line)

    def text(self) -> str:
        """``12 of 340 sequences, 85 residues/s, 14 min left``."""
        passed = max(time.monotonic() - self._started, 1e-6)
        done = self.tasks[self._bar].completed
        parts = [f"{self._done} of {self._count} sequences", f"{self._residues / passed:.0f} residues/s"]
        if done > 0 and self._work:
            parts.append(f"{duration(self._left * passed / done)} left")
        return ", ".join(parts)


def work(query: Query) -> float:
    """What folding takes, in arbitrary units, for the time left: between the square and the cube of the length."""
    n = query.linked_length
    return n * n * (n + 400.0) + 40_000.0 * n


def relaxations(rows: Sequence[PredictionRow], out: Path) -> str:
    """A line on what relaxation did."""
    done = [row for row in rows if row.relaxed == "done"]
    failed = sum(row.relaxed == "failed" for row in rows)
    counts = [
        f"{sum(getattr(row, name) or 0 for row in done)} {name.replace('_', ' ')} are now "
        f"{sum(getattr(row, f'relaxed_{name}') or 0 for row in done)}"
        for name in ("clashes", "broken_bonds", "bad_angles", "bad_residues")
    ]
    more = f"; {failed} could not be relaxed, see their warnings" if failed else ""
    return f"Relaxed {len(done)} structures, in {out / RELAXED}: {', '.join(counts)}{more}"


def summary(rows: Sequence[PredictionRow]) -> Table:
    """The first rows for the screen."""
    title = f"Predictions ({min(SHOWN, len(rows))} of {len(rows)})"
    result = Table("name", "residues", "mean pLDDT", "look at first", title=title)
    for row in rows[:SHOWN]:
        confidence = "" if row.mean_plddt is None else f"{row.mean_plddt:.1f}"
        first, *more = (row.warnings or row.reason).split(SEPARATOR)
        remark = f"{first}, and {len(more)} more" if more else first
        result.add_row(row.name, "" if row.length is None else str(row.length), confidence, remark)
    return result
