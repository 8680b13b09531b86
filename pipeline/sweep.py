"""Sweep: the LoRTA paper's rule for alpha, on your data.

python -m pipeline.sweep --data DATASET --adapter lorta --rank 8 --out SWEEP
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.release import add_version_option
from evaluation.baselines import standing
from pipeline.comparison.arms import USAGE_ERRORS, Adapter, Arm, ArmError
from pipeline.comparison.directory import open_directory
from pipeline.comparison.results import target_scores, write_csv
from pipeline.config.command import EXIT_FAILED, add_resume_option, make_console, run_command
from pipeline.runs.directory import RunDirectory
from pipeline.training.tables import read_rows
from pipeline.training.validation import validation_history

FIRST = (256.0, 128.0)
"""alpha / rank of the first pair (LoRTA paper, appendix D.4)."""

SHARE = 10
"""The first and the last tenth of the steps are compared."""


@dataclass(frozen=True)
class Trial:
    """One alpha."""

    alpha: float
    converged: bool
    reason: str
    """Why it did not converge; empty if it did."""
    lddt_ca: float
    """Validation at the end; nan where it did not get there."""
    helix: float = math.nan
    """Mean lDDT-Calpha of a straight helix on the same chains; nan where it is not known."""
    copy: float = math.nan
    """The same of a copy of the nearest training chain."""
    words: str = ""
    """On which side of the two it is."""


def search(trial: Callable[[float], Trial], rank: int, pairs: int) -> list[Trial]:
    """Try alpha = 256 r and 128 r; where neither converges the next two halvings, and so on for ``pairs`` pairs."""
    done: list[Trial] = []
    for number in range(pairs):
        pair = [trial(first * rank / 4**number) for first in FIRST]
        done += pair
        if any(t.converged for t in pair):
            break
    return done


def judge(arm: Arm, alpha: float, problem: str) -> Trial:
    """Whether a run converged: it came to its end, and its loss in the last tenth is below that in the first."""
    if problem:
        return Trial(alpha, False, problem, math.nan)
    run = RunDirectory(arm.path)
    step = run.summary()["step"]
    losses = [float(row["loss"]) for row in read_rows(run.metrics_file, step) if row["loss"]]
    part = max(1, len(losses) // SHARE)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    if last >= first:
        return Trial(alpha, False, f"loss from {first:.3g} to {last:.3g}", math.nan)
    found = standing(target_scores(arm), arm.baselines())
    beside = () if found is None else (found.helix, found.copy, str(found))
    return Trial(alpha, True, "", validation_history(run.validation_file, step).get(step, math.nan), *beside)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Find alpha as the LoRTA paper does: try 256 and 128 times the rank, halve both twice while neither\n"
            "converges, and take the better one of the first pair in which one does. Trials that are done are not\n"
            "repeated: give the same command again.\n\n"
            "example:\n"
            "  python -m pipeline.sweep --data DATASET --adapter lorta --rank 8 --out SWEEP --max-steps 2000"
        ),
        epilog="All other options are those of pipeline.train.",
        allow_abbrev=False,
    )
    add_version_option(p)
    p.add_argument("--data", type=Path, required=True, help="dataset directory with a validation split")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    add_resume_option(p)
    p.add_argument("--adapter", default="lorta", metavar="METHOD")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pairs", type=int, default=5, metavar="N", help="pairs to try at most (default: 5, down to r / 2)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, options = parser().parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        console = make_console()

        def arm_of(alpha: float) -> Arm:
            path = arguments.out / f"alpha_{alpha:g}"
            return Arm(Adapter(arguments.adapter, arguments.rank, alpha), arguments.seed, path)

        if not StructureDataset(arguments.data).ids("val"):
            raise DatasetError(f"{arguments.data}: no validation chains: see pipeline.prepare --val-fraction")
        if arguments.rank < 1 or arguments.pairs < 1:
            raise ArmError("--rank and --pairs: at least 1")
        config = arm_of(FIRST[0] * arguments.rank).configuration(options)
        shared = {"--adapter": arguments.adapter, "--rank": arguments.rank, "--seed": arguments.seed}
        open_directory(arguments.out, arguments.data, options, config, shared)

        def trial(alpha: float) -> Trial:
            arm, problem = arm_of(alpha), ""
            if arm.is_trained():
                console.print(f"alpha {alpha:g}: done before")
            else:
                console.print(f"alpha {alpha:g}: training, see {arm.log}")
                problem = arm.train(arguments.data, options)
            result = judge(arm, alpha, problem)
            reached = f"validation lDDT-Calpha {result.lddt_ca:.4f}" + (f": {result.words}" if result.words else "")
            console.print(f"alpha {alpha:g}: {result.reason or reached}")
            return result

        trials = search(trial, arguments.rank, arguments.pairs)
        write_csv(arguments.out / "sweep.csv", Trial, trials)
        converged = [t for t in trials if t.converged]
        if not converged:
            print(
                f"error: no alpha converged, see {arguments.out}/sweep.csv: try a lower learning rate", file=sys.stderr
            )
            return EXIT_FAILED
        best = max(converged, key=lambda t: -math.inf if math.isnan(t.lddt_ca) else t.lddt_ca)
        console.print(f"Wrote {arguments.out}: sweep.csv, and a run for each alpha")
        console.print(
            f"Next: python -m pipeline.train --data {arguments.data} --out RUN --adapter {arguments.adapter} "
            f"--rank {arguments.rank} --adapter.alpha {best.alpha!r} {shlex.join(options)}".rstrip()
        )
        return 0

    return run_command(body, arguments, usage_errors=USAGE_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
