"""Structure files to a dataset: ``python -m pipeline.prepare --pdb-dir DIR --out DATASET``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.dataset.blocks import WorkError
from data_prep.dataset.build import BuildError, build_dataset, estimate, find_input, read_blocks, read_lines
from data_prep.dataset.clusters import MmseqsError
from data_prep.dataset.ledger import LedgerRow
from data_prep.dataset.splits import SplitError
from data_prep.dataset.store import DatasetError, problems
from data_prep.files.workers import ProcessKilledError
from data_prep.structure.structure_bytes import is_structure_name
from pipeline.preparation.options import build_parser, reading_settings, shard_of, split_settings
from pipeline.preparation.summary import RateColumn, print_estimate, print_left_out, print_report

PROGRESS = {"reading": "reading files", "comparing": "comparing sequence pairs"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; see ``--help``."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.verify is None and (args.pdb_dir is None or (args.out is None and not args.dry_run)):
        parser.error("--pdb-dir and --out are needed (or --verify DATASET)")
    try:
        return _verify(args.verify) if args.verify is not None else _run(args)
    except BuildError as error:
        print_left_out(Console(stderr=True), error.ledger)
        return _fail(error)
    except (DatasetError, SplitError, WorkError, MmseqsError) as error:
        return _fail(error)
    except ProcessKilledError as error:
        _fail(f"{error}; the same command goes on where this one was, fewer --jobs take less memory")
        return 1
    except OSError as error:
        return _fail(f"{error.filename or args.out}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where this one was", file=sys.stderr)
        return 130


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _verify(path: Path) -> int:
    found = problems(path)
    for problem in found:
        print(problem)
    print(f"{path}: {f'{len(found)} problems' if found else 'sound: checksums, index, shards and ledger agree'}")
    return 1 if found else 0


def _run(args: argparse.Namespace) -> int:
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
    shard = shard_of(args.shard)
    try:
        reading, split = reading_settings(args), split_settings(args)
    except BuildError:
        raise
    except ValueError as error:
        raise BuildError(str(error)) from None
    only_files = None if args.list is None else read_lines(args.list, "paths")
    if args.dry_run:
        source = find_input(args.pdb_dir, reading, only_files=only_files, out=args.out)
        print_estimate(Console(), estimate(source, reading), args.jobs)
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True)) as bars:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(PROGRESS[what], kept=done)
            bars.update(tasks[what], completed=done, total=total)

        common = {"jobs": args.jobs, "overwrite": args.overwrite, "progress": progress}
        if shard is not None:
            source = find_input(args.pdb_dir, reading, only_files=only_files, out=args.out)
            blocks = read_blocks(source, args.out, reading, shard=shard, **common)
            left = len(blocks.missing())
        else:
            report = build_dataset(
                args.pdb_dir, args.out, reading=reading, split=split, only_files=only_files,
                clustering=args.clustering, merge=args.merge, **common,
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


if __name__ == "__main__":
    sys.exit(main())
