"""Structure files to a dataset: ``python -m pipeline.prepare --pdb-dir DIR --out DATASET``."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data_prep.blocks import WorkError
from data_prep.build import BuildError, BuildReport, build_dataset, find_input, read_blocks, read_lines
from data_prep.confidence import ConfidenceSettings
from data_prep.dataset import DatasetError
from data_prep.estimate import Estimate, estimate
from data_prep.filters import METHODS, FilterSettings
from data_prep.ingest import IngestSettings
from data_prep.ledger import LedgerRow, reasons
from data_prep.mmseqs import MmseqsError
from data_prep.recipes import RECIPES
from data_prep.splits import SplitError, SplitSettings
from data_prep.structure_bytes import is_structure_name
from data_prep.verify import problems

EXAMPLE = """examples:
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --max-resolution 3 --val-fraction 0.1
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --recipe esmfold --val-from 2019-01-01 --dry-run
  python -m pipeline.prepare --verify data/
  python -m pipeline.train --data data/ --out run/

on a cluster of machines with one file system, the same options each time:
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --shard 1/8     (... to 8/8, in any order)
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --merge

exit status: 0 done; 1 --strict and a file was unusable, or --verify found damage; 2 nothing was done; 130 interrupted
"""
PROGRESS = {"reading": "reading files", "comparing": "comparing sequence pairs"}

FILTERS: tuple[tuple[str, type, str, str], ...] = (
    ("min_length", int, "N", "shortest sequence"),
    ("max_length", int, "N", "longest sequence"),
    ("min_observed", int, "N", "fewest residues with an alpha carbon"),
    ("min_ca_fraction", float, "X", "smallest share of residues with an alpha carbon"),
    ("min_backbone_fraction", float, "X", "smallest share of those with N, CA and C"),
    ("max_coincident_fraction", float, "X", "largest share of alpha carbons at the very place of another"),
    ("max_unknown_fraction", float, "X", "largest share of unknown residues (X)"),
    ("max_residue_fraction", float, "X", "largest share of one residue type"),
    ("max_resolution", float, "A", "worst resolution in angstrom; drops chains that state none"),
    ("released_from", str, "DATE", "first release on this day or later; drops chains that state no date"),
    ("released_before", str, "DATE", "first release before this day; drops chains that state no date"),
    ("max_ca_jump", float, "A", "longest distance in angstrom of consecutive alpha carbons"),
    ("max_clash_fraction", float, "X", "largest share of atoms within 1.7 A of another protein chain of the file"),
)
FLAGS = (
    ("keep_unstated_resolution", "with --max-resolution, keep chains that state none (NMR, predictions)"),
    ("unique_sequences", "of chains with identical sequences keep the best resolved one"),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.prepare",
        description="Read PDB, mmCIF and BinaryCIF files (plain or .gz, subdirectories included), keep their protein "
        "chains, split them into training and validation by whole sequence clusters, and write a dataset with a "
        "report. Damaged files are listed with their reason in DATASET/ledger.csv and never stop the run. An "
        "interrupted run goes on where it was when it is repeated.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pdb-dir", type=Path, metavar="DIR", help="directory of structure files, or one such file")
    parser.add_argument("--out", type=Path, metavar="DATASET", help="directory to write")
    parser.add_argument("--list", type=Path, metavar="FILE", help="read only these paths (in DIR), one per line")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="keep only these record ids (<stem>_<chain>)")
    parser.add_argument(
        "--model", type=_model, metavar="N|all", help="model to read, or a record of each (default: a file's first)"
    )
    run = parser.add_argument_group("how to run")
    run.add_argument("--jobs", type=int, default=_cpu_count(), metavar="N", help="processes (default: %(default)s)")
    run.add_argument("--overwrite", action="store_true", help="replace DATASET if it is one; discard unfinished work")
    run.add_argument("--strict", action="store_true", help="exit 1 if any file could not be used")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would be read, how long and how big; write nothing"
    )
    run.add_argument("--shard", metavar="I/N", help="only read the Ith of N parts of the files, for a later --merge")
    run.add_argument("--merge", action="store_true", help="finish what all --shard runs have read")
    run.add_argument("--verify", type=Path, metavar="DATASET", help="check a dataset against its checksums, and exit")
    chains = parser.add_argument_group("which chains")
    chains.add_argument(
        "--recipe", choices=sorted(RECIPES), default="none", help="defaults from the literature (see below)"
    )
    default = FilterSettings()
    for name, kind, metavar, text in FILTERS:
        value = getattr(default, name)
        shown = "no limit" if value is None else value
        chains.add_argument(_option(name), type=kind, metavar=metavar, help=f"{text} (default: {shown})")
    chains.add_argument("--method", metavar="M,...", help=f"kinds of experiment to keep, of {', '.join(METHODS)}")
    for name, text in FLAGS:
        chains.add_argument(_option(name), action=argparse.BooleanOptionalAction, help=text)
    predictions = parser.add_argument_group("predicted structures")
    predictions.add_argument("--plddt-bfactor", action="store_true", help="the B-factor column holds pLDDT")
    predictions.add_argument("--min-plddt", type=float, metavar="X", help="mask residues below (default: 50)")
    predictions.add_argument("--min-mean-plddt", type=float, metavar="X", help="drop chains below (default: no limit)")
    split = parser.add_argument_group("split")
    split.add_argument(
        "--identity", type=float, default=0.3, metavar="X",
        help="chains that are linked at this sequence identity (of the shorter chain) stay together (default: 0.3)",
    )  # fmt: skip
    split.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X", help="share of the chains to validate on (default: 0.1)"
    )
    split.add_argument("--val-ids", type=Path, metavar="FILE", help="validate on these record ids, one per line")
    split.add_argument("--test-ids", type=Path, metavar="FILE", help="keep these record ids for a test")
    split.add_argument("--val-from", metavar="DATE", help="validate on chains released from this day on, if unrelated")
    split.add_argument("--seed", type=int, default=0, help="seed of the draw of validation clusters (default: 0)")
    split.add_argument(
        "--clustering", choices=("auto", "exhaustive", "mmseqs"), default="auto",
        help="align every pair, or let MMseqs2 find the similar ones (auto: above 3,000 sequences, if installed)",
    )  # fmt: skip
    recipes = "\n".join(f"  {name:9s} {recipe.source}\n{_changes(name)}" for name, recipe in RECIPES.items())
    parser.epilog = f"recipes (any of their values can be given on the command line):\n{recipes}\n\n{EXAMPLE}"
    return parser


def _model(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a number or all") from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _changes(recipe: str) -> str:
    values = RECIPES[recipe].filters
    options = [_option(name) if value is True else f"{_option(name)} {value}" for name, value in values.items()]
    lines = [" ".join(options[i : i + 3]) for i in range(0, len(options), 3)]
    return "\n".join(f"            {line}" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; see ``--help``."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.verify is None and (args.pdb_dir is None or (args.out is None and not args.dry_run)):
        parser.error("--pdb-dir and --out are needed (or --verify DATASET)")
    try:
        return _verify(args.verify) if args.verify is not None else _run(args)
    except BuildError as error:
        _print_left_out(Console(stderr=True), error.ledger)
        return _fail(error)
    except (DatasetError, SplitError, WorkError, MmseqsError) as error:
        return _fail(error)
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
    if args.jobs < 1:
        raise BuildError(f"--jobs {args.jobs}: expected 1 or more")
    if args.merge and (args.shard or args.overwrite):
        raise BuildError("--merge goes with neither --shard nor --overwrite")
    shard = _shard(args.shard)
    try:
        reading, split = _reading(args), _split(args)
    except BuildError:
        raise
    except ValueError as error:
        raise BuildError(str(error)) from None
    only_files = None if args.list is None else read_lines(args.list, "paths")
    if args.dry_run:
        _print_estimate(
            Console(), estimate(find_input(args.pdb_dir, reading, only_files=only_files), reading), args.jobs
        )
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True)) as bars:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(PROGRESS[what])
            bars.update(tasks[what], completed=done, total=total)

        common = {"jobs": args.jobs, "overwrite": args.overwrite, "progress": progress}
        if shard is not None:
            source = find_input(args.pdb_dir, reading, only_files=only_files)
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
    _print_report(Console(), args.out, report)
    return 1 if args.strict and any(map(_is_unusable, report.ledger)) else 0


def _is_unusable(row: LedgerRow) -> bool:
    return row.status == "unreadable" or row.reason.startswith(("duplicate stem", "id taken"))


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BuildError(f"--shard {text}: expected I/N with I from 1 to N, as 2/8")
    return int(match[1]), int(match[2])


def _reading(args: argparse.Namespace) -> IngestSettings:
    names = [name for name, *_ in (*FILTERS, *FLAGS)]
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.method is not None:
        changes["methods"] = tuple(args.method.split(","))
    filters = RECIPES[args.recipe].settings(**changes)
    limits = {"min_plddt": args.min_plddt, "min_mean_plddt": args.min_mean_plddt}
    given = {name: value for name, value in limits.items() if value is not None}
    if given and not args.plddt_bfactor:
        raise BuildError(f"{_option(next(iter(given)))}: needs --plddt-bfactor, for files that are predictions")
    confidence = ConfidenceSettings(**given) if args.plddt_bfactor else None
    return IngestSettings(filters, args.model, None if args.ids is None else read_lines(args.ids), confidence)


def _split(args: argparse.Namespace) -> SplitSettings:
    lists = {name: getattr(args, name) for name in ("val_ids", "test_ids")}
    ids = {name: None if path is None else read_lines(path) for name, path in lists.items()}
    return SplitSettings(args.identity, args.val_fraction, val_from=args.val_from, seed=args.seed, **ids)


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_left_out(console: Console, ledger: Sequence[LedgerRow]) -> None:
    table = Table("left out", "because", "how many", "for example", title_justify="left")
    for status, reason, count, examples in reasons(ledger):
        table.add_row(status, escape(reason), str(count), escape(", ".join(examples)))
    if table.row_count:
        console.print(table)


def _print_estimate(console: Console, found: Estimate, jobs: int) -> None:
    table = Table("estimate", "", show_header=False, title=f"from {found.n_sampled} of {found.n_files} files")
    table.add_row("structure files to read", str(found.n_files))
    table.add_row("other files, not read", str(found.n_left_out))
    table.add_row("unreadable", f"about {found.n_unreadable:.0f}")
    table.add_row("chains accepted", f"about {found.n_chains:.0f}")
    table.add_row(f"reading, {jobs} processes", _duration(found.read_seconds / jobs))
    table.add_row(f"aligning every pair, {jobs} processes", _duration(found.compare_seconds / jobs))
    table.add_row("size of the dataset", f"about {found.n_bytes / 1e6:.1f} MB")
    console.print(table)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


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
    _print_left_out(console, ledger)
    if not by_split["val"]:
        console.print("No validation chains: all chains are one cluster, or none were asked for; see --identity.")
    if report.clustering == "mmseqs":
        console.print("Similar chains were found by MMseqs2, which may miss pairs near the level of identity.")
    console.print(f"wrote {out} (every file and chain: {out / 'ledger.csv'})", soft_wrap=True, markup=False)
    console.print(f"look: {out / 'report.html'}", soft_wrap=True, markup=False)
    console.print(f"next: python -m pipeline.train --data {out} --out RUN", soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
