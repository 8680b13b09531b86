"""What ``pipeline.prepare`` does with its options, and what it prints: progress, an estimate, what came of a run."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from data_prep.dataset.build import (
    BuildError,
    BuildReport,
    Estimate,
    build_dataset,
    estimate,
    find_input,
    open_update,
    read_blocks,
    read_lines,
)
from data_prep.dataset.filters import RECIPES, FilterSettings
from data_prep.dataset.ingest import ConfidenceSettings, IngestSettings
from data_prep.dataset.ledger import LedgerRow, reasons
from data_prep.dataset.splits import SplitSettings
from data_prep.dataset.store import problems
from data_prep.files.errors import RunError, UserError
from data_prep.files.workers import ProcessKilledError
from data_prep.structure.structure_bytes import is_structure_name

PROGRESS = {"reading": "reading files", "comparing": "comparing sequence pairs"}


def verify(args: argparse.Namespace) -> int:
    """Print what is wrong with the dataset ``args.verify``; returns the exit status. Raises ``DatasetError``."""
    found = problems(args.verify)
    for problem in found:
        print(problem)
    sound = "sound: checksums, index, shards and ledger agree"
    print(f"{args.verify}: {f'{len(found)} problems' if found else sound}")
    return 1 if found else 0


def prepare(args: argparse.Namespace) -> int:
    """Read, filter, split and write; returns the exit status. Raises ``UserError``, ``OSError``."""
    try:
        return _prepare(args)
    except BuildError as error:
        print_left_out(Console(stderr=True), error.ledger)
        raise
    except ProcessKilledError as error:
        raise RunError(f"{error}; the same command goes on where this one was, fewer --jobs take less memory") from None


def _prepare(args: argparse.Namespace) -> int:
    if not args.pdb_dir.exists():
        raise BuildError(f"--pdb-dir {args.pdb_dir}: no such directory")
    if not (args.pdb_dir.is_dir() or is_structure_name(args.pdb_dir)):
        raise BuildError(f"--pdb-dir {args.pdb_dir}: is not a directory, and not named like a structure file")
    if args.list is not None and not args.pdb_dir.is_dir():
        raise BuildError(f"--list names files of a directory, and --pdb-dir {args.pdb_dir} is a file")
    if args.jobs < 1:
        raise BuildError(f"--jobs {args.jobs}: expected 1 or more")
    if args.resume and args.overwrite:
        raise BuildError("--overwrite with --resume: the one deletes what the other goes on with: choose")
    if args.merge and args.shard:
        raise BuildError("--merge finishes what --shard runs have read: give one of the two")
    if args.update and (args.overwrite or args.merge or args.shard):
        other = "--overwrite" if args.overwrite else "--merge" if args.merge else "--shard"
        raise BuildError(f"--update with {other}: an update keeps what is in {args.out} and reads the rest in one run")
    shard = _shard_of(args.shard)
    try:
        reading, split = _reading_settings(args), _split_settings(args)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    only_files = None if args.list is None else read_lines(args.list, "paths")
    if args.dry_run and args.update and args.out is not None and (args.out / "dataset.json").is_file():
        print(open_update(args.pdb_dir, args.out, reading, only_files=only_files)[2])
        return 0
    if args.dry_run:
        source = find_input(args.pdb_dir, reading, only_files=only_files, out=args.out)
        print_estimate(Console(), estimate(source, reading), args.jobs)
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(PROGRESS[what], kept=done)
            bars.update(tasks[what], completed=done, total=total)

        common: dict[str, Any] = {"jobs": args.jobs, "overwrite": args.overwrite, "progress": progress}
        if shard is not None:
            source = find_input(args.pdb_dir, reading, only_files=only_files, out=args.out)
            blocks = read_blocks(source, args.out, reading, shard=shard, **common)
            left = len(blocks.missing())
        else:
            report = build_dataset(
                args.pdb_dir, args.out, reading=reading, split=split, only_files=only_files,
                clustering=args.clustering, merge=args.merge, update=args.update, **common,
            )  # fmt: skip
    if shard is not None:
        print(f"read part {args.shard}; {left} of {len(blocks)} blocks are left to other parts")
        print("next: the same command with --merge in place of --shard" if not left else "next: the other parts")
        return 0
    print_report(Console(), args.out, report)
    return 1 if args.strict and any(map(_is_unusable, report.ledger)) else 0


_UNUSABLE = ("id taken", "id cannot be", "asked for,")
"""How the reasons begin that are no decision about a chain."""


def _is_unusable(row: LedgerRow) -> bool:
    return row.status == "unreadable" or row.reason.startswith(_UNUSABLE)


def _shard_of(text: str | None) -> tuple[int, int] | None:
    """``2/8`` as numbers. Raises ``BuildError``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BuildError(f"--shard {text}: expected I/N with I from 1 to N, as 2/8")
    return int(match[1]), int(match[2])


def _reading_settings(args: argparse.Namespace) -> IngestSettings:
    """What is read and kept. Raises ``ValueError`` for a value that cannot be, ``BuildError`` for a file of ids."""
    names = {field.name for field in fields(FilterSettings)} & vars(args).keys()
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.method is not None:
        changes["methods"] = tuple(name.strip() for name in args.method.split(","))
    filters = RECIPES[args.recipe].settings(**changes)
    limits = {"min_plddt": args.min_plddt, "min_mean_plddt": args.min_mean_plddt}
    given = {name: value for name, value in limits.items() if value is not None}
    if given and not args.plddt_bfactor:
        raise BuildError(
            f"--{next(iter(given)).replace('_', '-')}: needs --plddt-bfactor, for files that are predictions"
        )
    confidence = ConfidenceSettings(**given) if args.plddt_bfactor else None
    return IngestSettings(filters, args.model, None if args.ids is None else read_lines(args.ids), confidence)


def _split_settings(args: argparse.Namespace) -> SplitSettings:
    """How chains are split. Errors as of ``_reading_settings``."""
    lists = {name: getattr(args, name) for name in ("val_ids", "test_ids")}
    ids = {name: None if path is None else read_lines(path) for name, path in lists.items()}
    return SplitSettings(
        args.identity,
        args.val_fraction,
        val_from=args.val_from,
        seed=args.seed,
        test_fraction=args.test_fraction,
        **ids,
    )


class RateColumn(ProgressColumn):
    """How many a second since the task began, of which its field ``kept`` were done before."""

    def render(self, task: Task) -> Text:
        """'380/s', and nothing where nothing had to be done."""
        done, seconds = task.completed - task.fields["kept"], task.finished_time or task.elapsed
        return Text(f"{done / seconds:,.0f}/s" if done and seconds else "", style="progress.data.speed")


def print_left_out(console: Console, ledger: Sequence[LedgerRow]) -> None:
    """Why files and chains were left out, with examples; nothing where none was."""
    table = Table("left out", "because", "how many", "for example", title_justify="left")
    for status, reason, count, examples in reasons(ledger, examples=10):
        table.add_row(status, escape(reason), str(count), escape(", ".join(examples)))
    if table.row_count:
        console.print(table)


def print_estimate(console: Console, found: Estimate, jobs: int) -> None:
    """What ``--dry-run`` says."""
    table = Table("estimate", "", show_header=False, title=f"from {found.n_sampled} of {found.n_files} files")
    table.add_row("structure files to read", str(found.n_files))
    table.add_row("other files, not read", str(found.n_left_out))
    table.add_row("unreadable", f"about {found.n_unreadable:.0f}")
    table.add_row("chains accepted", f"about {found.n_chains:.0f}")
    table.add_row(f"reading, {jobs} processes", _duration(found.read_seconds / jobs))
    table.add_row(f"aligning every pair, {jobs} processes", _duration(found.compare_seconds / jobs))
    table.add_row("size of the dataset", f"about {found.n_bytes / 1e6:.1f} MB, twice that while it is made")
    console.print(table)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def print_report(console: Console, out: Path, report: BuildReport) -> None:
    """What came of a run, and what to run next."""
    ledger, placements = report.ledger, report.placements
    accepted = [row for row in ledger if row.status == "accepted"]
    chains = len(accepted) + sum(row.status == "rejected" and bool(row.chain) and bool(row.file) for row in ledger)
    table = Table("", "count", show_header=False)
    table.add_row("files found", str(len({row.file for row in ledger if row.file})))
    table.add_row("structure files read", str(report.n_read))
    table.add_row("chains seen", str(chains))
    table.add_row("chains accepted", str(len(accepted)))
    table.add_row("  with something repaired or mapped", str(sum(bool(row.reason) for row in accepted)))
    names = ("train", "val", "test", "none")
    by_split = {name: [p for p in placements.values() if p.split == name] for name in names}
    for name, members in by_split.items():
        if members or name in ("train", "val"):
            table.add_row(f"  {name}", f"{len(members)} in {len({p.cluster for p in members})} clusters")
    for name in ("val", "test"):
        nearest = [p.nearest_train_identity or 0.0 for p in by_split[name]]
        if nearest:
            table.add_row(f"highest identity of a {name} chain to training", f"{max(nearest):.2f}")
    console.print(table)
    print_left_out(console, ledger)
    if report.changes is not None:
        console.print(f"update: {report.changes}", soft_wrap=True, markup=False)
    held, freed = report.moved
    if held or freed:
        console.print(
            f"The split was drawn anew: {held} chains that were for training are held out now, {freed} that were held "
            "out are not any more. A model trained before may have seen what is held out now; --val-ids keeps a split, "
            "see docs/how-to.md.",
            soft_wrap=True,
        )
    if not by_split["val"]:
        console.print("No validation chains: all chains are one cluster, or none were asked for; see --identity.")
    if report.clustering == "mmseqs":
        console.print("Similar chains were found by MMseqs2, which may miss pairs near the level of identity.")
    console.print(f"wrote {out} (every file and chain: {out / 'ledger.csv'})", soft_wrap=True, markup=False)
    console.print(f"look: {out / 'report.html'}", soft_wrap=True, markup=False)
    console.print(f"next: python -m pipeline.train --data {out} --out RUN", soft_wrap=True, markup=False)
