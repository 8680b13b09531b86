"""Structure files to a dataset: ``python -m pipeline.prepare --pdb-dir DIR --out DATASET``."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data_prep.build import BuildError, BuildReport, SplitSettings, build_dataset, read_ids
from data_prep.dataset import DatasetError
from data_prep.filters import FilterSettings
from data_prep.ledger import LedgerRow, reasons
from data_prep.splits import SplitError

EXAMPLE = """example:
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --max-resolution 3 --val-fraction 0.1
  python -m pipeline.train --data data/ --out run/
"""
PROGRESS = {"reading": "reading files", "comparing": "comparing sequence pairs"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.prepare",
        description="Read PDB and mmCIF files (plain or .gz, subdirectories included), keep their protein chains, "
        "split them into training and validation by whole sequence clusters, and write a dataset. Damaged files are "
        "listed with their reason in DATASET/ledger.csv and never stop the run.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pdb-dir", type=Path, required=True, metavar="DIR", help="directory of structure files")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace DATASET if it is a dataset already")
    parser.add_argument("--jobs", type=int, default=_cpu_count(), metavar="N", help="processes (default: %(default)s)")
    chains = parser.add_argument_group("which chains")
    default = FilterSettings()
    for name, kind, text in (
        ("min_length", int, "shortest sequence"),
        ("max_length", int, "longest sequence"),
        ("min_ca_fraction", float, "smallest share of residues with an alpha carbon"),
        ("min_backbone_fraction", float, "smallest share of those with N, CA and C"),
        ("max_unknown_fraction", float, "largest share of unknown residues (X)"),
        ("max_resolution", float, "worst resolution in angstrom; drops chains that state none"),
    ):
        value = getattr(default, name)
        shown = "no limit" if value is None else value
        option = "--" + name.replace("_", "-")
        chains.add_argument(option, type=kind, default=value, metavar="X", help=f"{text} (default: {shown})")
    split = parser.add_argument_group("split")
    split.add_argument(
        "--identity", type=float, default=0.3, metavar="X",
        help="chains that are linked at this sequence identity (of the shorter chain) stay together (default: 0.3)",
    )  # fmt: skip
    split.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X", help="share of the chains to validate on (default: 0.1)"
    )
    split.add_argument("--val-ids", type=Path, metavar="FILE", help="validate on these record ids, one per line")
    split.add_argument("--seed", type=int, default=0, help="seed of the draw of validation clusters (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 2 for input that cannot be used, 130 if interrupted."""
    args = build_parser().parse_args(argv)
    try:
        report = _run(args)
    except BuildError as error:
        _print_left_out(Console(stderr=True), error.ledger)
        return _fail(error)
    except (DatasetError, SplitError) as error:
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename or args.out}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(f"\ninterrupted: {args.out} was not written", file=sys.stderr)
        return 130
    _print_report(Console(), args.out, report)
    return 0


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> BuildReport:
    if not args.pdb_dir.is_dir():
        what = "is not a directory" if args.pdb_dir.exists() else "no such directory"
        raise BuildError(f"--pdb-dir {args.pdb_dir}: {what}")
    if args.jobs < 1:
        raise BuildError(f"--jobs {args.jobs}: expected 1 or more")
    try:
        filters = FilterSettings(**{field.name: getattr(args, field.name) for field in fields(FilterSettings)})
        val_ids = None if args.val_ids is None else read_ids(args.val_ids)
        split = SplitSettings(args.identity, args.val_fraction, val_ids, args.seed)
    except BuildError:
        raise
    except ValueError as error:
        raise BuildError(str(error)) from None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True)) as bars:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(PROGRESS[what])
            bars.update(tasks[what], completed=done, total=total)

        return build_dataset(
            args.pdb_dir,
            args.out,
            filters=filters,
            split=split,
            jobs=args.jobs,
            overwrite=args.overwrite,
            progress=progress,
        )


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_left_out(console: Console, ledger: Sequence[LedgerRow]) -> None:
    table = Table("left out", "because", "how many", "for example", title_justify="left")
    for status, reason, count, examples in reasons(ledger):
        table.add_row(status, escape(reason), str(count), escape(", ".join(examples)))
    if table.row_count:
        console.print(table)


def _print_report(console: Console, out: Path, report: BuildReport) -> None:
    ledger, placements = report.ledger, report.placements
    accepted = [row for row in ledger if row.status == "accepted"]
    chains = len(accepted) + sum(row.status == "rejected" and bool(row.chain) for row in ledger)
    table = Table("", "count", show_header=False)
    table.add_row("files found", str(len({row.file for row in ledger})))
    table.add_row("structure files read", str(report.n_read))
    table.add_row("chains seen", str(chains))
    table.add_row("chains accepted", str(len(accepted)))
    table.add_row("  with something repaired or mapped", str(sum(bool(row.reason) for row in accepted)))
    by_split = {name: [p for p in placements.values() if p.split == name] for name in ("train", "val", "none")}
    for name, members in by_split.items():
        if members or name != "none":
            table.add_row(f"  {name}", f"{len(members)} in {len({p.cluster for p in members})} clusters")
    nearest = [p.nearest_train_identity or 0.0 for p in by_split["val"]]
    if nearest:
        table.add_row("highest identity of a validation chain to training", f"{max(nearest):.2f}")
    console.print(table)
    _print_left_out(console, ledger)
    if not by_split["val"]:
        console.print("No validation chains: all chains are one cluster, or none were asked for; see --identity.")
    console.print(f"wrote {out} (every file and chain: {out / 'ledger.csv'})", soft_wrap=True, markup=False)
    console.print(f"next: python -m pipeline.train --data {out} --out RUN", soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
