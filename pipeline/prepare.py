"""Structure files to a dataset: ``python -m pipeline.prepare --pdb-dir DIR --out DATASET``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.dataset.filters import METHODS, RECIPES, FilterSettings
from data_prep.files.command_line import CommandParser, run_command

EXAMPLE = """examples:
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --max-resolution 3 --val-fraction 0.1
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --recipe esmfold --val-from 2019-01-01 --dry-run
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --max-resolution 3 --update     (of more files)
  python -m pipeline.prepare --verify data/
  python -m pipeline.train --data data/ --out run/

on a cluster of machines with one file system, the same options each time:
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --shard 1/8     (... to 8/8, in any order)
  python -m pipeline.prepare --pdb-dir structures/ --out data/ --merge

exit status: 0 done; 1 --strict and a file was unusable, --verify found damage, or the run failed (a process was killed,
the disk is full); 2 nothing was done; 130 interrupted
"""
COMMON = (
    *("--pdb-dir", "--out", "--recipe", "--max-resolution", "--identity", "--val-fraction", "--seed"),
    *("--plddt-bfactor", "--jobs", "--update", "--overwrite", "--dry-run", "--verify"),
)
"""Options of the short help."""

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


class _Once(argparse.Action):
    """Refuses a second value, which would take the place of the first without a word."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice: {getattr(namespace, self.dest)} and {values}")
        setattr(namespace, self.dest, values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; see ``--help``."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.verify is None and (args.pdb_dir is None or (args.out is None and not args.dry_run)):
        parser.error("--pdb-dir and --out are needed (or --verify DATASET)")
    from pipeline.preparation import run  # reading structures and tables takes time to load

    interrupted = "\ninterrupted: the same command goes on where this one was"
    return run_command(run.verify if args.verify is not None else run.prepare, args, interrupted=interrupted)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "pipeline.prepare",
        "Read PDB, mmCIF and BinaryCIF files (plain or .gz, subdirectories included), keep their protein "
        "chains, split them into training and validation by whole sequence clusters, and write a dataset with a "
        "report. Damaged files are listed with their reason in DATASET/ledger.csv and never stop the run. An "
        "interrupted run goes on where it was when it is repeated.",
        common=COMMON,
        examples=EXAMPLE,
        details=_describe_recipes,
    )
    for name, metavar, text in (
        ("--pdb-dir", "DIR", "directory of structure files, or one such file"),
        ("--out", "DATASET", "directory to write"),
        ("--list", "FILE", "read only these paths (in DIR), one per line"),
        ("--ids", "FILE", "keep only these record ids (<stem>_<chain>), one per line"),
    ):
        parser.add_argument(name, type=Path, metavar=metavar, action=_Once, help=text)
    parser.add_argument(
        "--model", type=_model, metavar="N|all", help="model to read, or a record of each (default: a file's first)"
    )
    run = parser.add_argument_group("how to run")
    run.add_argument("--jobs", type=int, default=_cpu_count(), metavar="N", help="processes (default: %(default)s)")
    run.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run, if there is one; so it does without"
    )
    run.add_argument("--overwrite", action="store_true", help="replace DATASET if it is one, and other unfinished work")
    run.add_argument(
        "--update",
        action="store_true",
        help="read what is new or changed since DATASET was made; the rest is taken over",
    )
    run.add_argument("--strict", action="store_true", help="exit 1 if a file could not be used or an id was not found")
    run.add_argument(
        "--dry-run", action="store_true", help="say what would be read, how long and how big; write nothing"
    )
    run.add_argument("--shard", metavar="I/N", help="only read the Ith of N parts of the files, for a later --merge")
    run.add_argument("--merge", action="store_true", help="finish what all --shard runs have read")
    run.add_argument("--verify", type=Path, metavar="DATASET", help="check a dataset against its checksums, and exit")
    chains = parser.add_argument_group("which chains")
    chains.add_argument(
        "--recipe", choices=sorted(RECIPES), default="none", help="defaults from the literature (see --help-all)"
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
    split.add_argument(
        "--test-fraction", type=float, default=0.0, metavar="X", help="share of the chains to test on (default: 0)"
    )
    for name, text in (("--val-ids", "validate on these record ids, one per line"), ("--test-ids", "test on these")):
        split.add_argument(name, type=Path, metavar="FILE", action=_Once, help=text)
    split.add_argument("--val-from", metavar="DATE", help="validate on chains released from this day on, if unrelated")
    split.add_argument("--seed", type=int, default=0, help="seed of the draw of validation clusters (default: 0)")
    split.add_argument(
        "--clustering", choices=("auto", "exhaustive", "mmseqs"), default="auto",
        help="align every pair, or let MMseqs2 find the similar ones (auto: above 8,000 sequences, if installed)",
    )  # fmt: skip
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


def _describe_recipes() -> str:
    recipes = "\n".join(f"  {name:9s} {recipe.source}\n{_changes(name)}" for name, recipe in RECIPES.items())
    return f"recipes (any of their values can be given on the command line):\n{recipes}"


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
