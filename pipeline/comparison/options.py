"""What the commands that train variants share on their command lines."""

import argparse
from collections.abc import Callable
from pathlib import Path

from data_prep.files.command_line import add_version_option
from pipeline.config.command import add_resume_option


def add_options(p: argparse.ArgumentParser, adapters: str) -> None:
    """Add dataset, directory, adapters and seeds."""
    add_version_option(p)
    p.add_argument("--data", type=Path, required=True, help="dataset directory with a validation split")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    add_resume_option(p)
    p.add_argument(
        "--adapters",
        default=adapters,
        metavar="LIST",
        help="by commas METHOD:RANK, METHOD:RANK:ALPHA, or METHOD for those without a rank (none, full, bitfit ...); "
        f"the first is the reference (default: {adapters})",
    )
    p.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="one run of each (default: 0 1 2)"
    )
    p.add_argument("--train-chains", type=int, default=10, metavar="N", help="training chains to score at the end")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def listed_seeds(seeds: list[int], warn: Callable[[str], None]) -> list[int]:
    """Return the seeds, where one number alone is what earlier versions took: how many seeds there are."""
    if len(seeds) > 1 or seeds[0] < 1:
        return seeds
    listed = list(range(seeds[0]))
    words = " ".join(map(str, listed))
    warn(f"warning: --seeds {seeds[0]} is --seeds {words} now; the next version will take it for seed {seeds[0]} alone")
    return listed
