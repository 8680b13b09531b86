"""``python -m evaluation.compare A B``: arguments, the table, exit codes."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.files.release import add_version_option
from evaluation.command import seed
from evaluation.compare import CompareError, Comparison, Scores, as_json, compare, read_scores
from evaluation.output import write_atomically
from evaluation.screen import in_words

_DESCRIPTION = """\
Compares two runs of evaluation.lddt target by target. A and B are their --out directories, or their scores.csv files.
"""

_EPILOG = """\
examples:
  python -m evaluation.compare scores_before scores_after                    lddt_ca
  python -m evaluation.compare base lorta --metric tm_score --out diff.json

The mean difference (B less A) comes with a 95% bootstrap interval over targets: where it includes 0, the runs may be
equally good. The sign test asks how often B is better, whatever the amount. Targets that only one run has a score for
are counted and, with their failed or missing prediction taken as 0, are part of a second mean.

exit status: 0 compared, 2 the arguments do not work.
"""

_SHOWN = 10  # of the largest gains and losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (CompareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    a, b = read_scores(options.a, options.metric), read_scores(options.b, options.metric)
    comparison = compare(a, b, options.metric, options.seed)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(f"A: {a.path}   B: {b.path}", markup=False, highlight=False, soft_wrap=True)
    console.print(_table(comparison, a, b))
    for line in summary_lines(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if options.out is not None:
        write_atomically(options.out, json.dumps(as_json(comparison, a, b, options.seed), indent=2) + "\n")
        console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def summary_lines(comparison: Comparison) -> list[str]:
    """The comparison in words."""
    metric = comparison.metric
    lines = [f"{metric}, B - A over {comparison.estimate.n} targets in both: {in_words(asdict(comparison.estimate))}"]
    zeros = comparison.estimate_missing_as_0
    if zeros is not None and zeros.n != comparison.estimate.n:
        lines.append(f"{metric}, B - A, failed or missing as 0: {in_words(asdict(zeros))}")
    counts = f"B better in {comparison.better}, worse in {comparison.worse}, equal in {comparison.equal}"
    p_value = "no difference to test" if comparison.p_value is None else f"p = {comparison.p_value:.3g}"
    lines.append(f"sign test: {counts}: {p_value}")
    for names, whose in ((comparison.only_a, "A"), (comparison.only_b, "B")):
        if names:
            lines.append(f"{len(names)} target(s) with a score in {whose} alone: {_some(names)}")
    if comparison.other_truth:
        lines.append(
            f"warning: {len(comparison.other_truth)} target(s) were scored against another truth file in the other "
            f"run, so that their differences say nothing of the predictions: {_some(comparison.other_truth)}"
        )
    return lines


def _table(comparison: Comparison, a: Scores, b: Scores) -> Table:
    ranked = sorted(comparison.differences, key=lambda target: (comparison.differences[target], target))
    if len(ranked) > 2 * _SHOWN:
        title, shown = f"{_SHOWN} lowest and {_SHOWN} highest of B - A", ranked[:_SHOWN] + ranked[-_SHOWN:]
    else:
        title, shown = "", ranked
    table = Table(title=title or None, title_justify="left")
    table.add_column("target", overflow="fold")
    for heading in ("A", "B", "B - A"):
        table.add_column(heading, justify="right", no_wrap=True)
    for target in shown:
        values = f"{a.values[target]:.4f}", f"{b.values[target]:.4f}", f"{comparison.differences[target]:+.4f}"
        table.add_row(Text(target), *values)
    return table


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version_option(parser)
    parser.add_argument("a", metavar="A", type=Path, help="the run to compare with: directory or scores.csv")
    parser.add_argument("b", metavar="B", type=Path, help="the run to be judged: directory or scores.csv")
    parser.add_argument(
        "--metric", default="lddt_ca", metavar="COLUMN", help="column of scores.csv (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the comparison there")
    parser.add_argument("--seed", type=seed, default=0, help="of the bootstrap intervals (default: %(default)s)")
    return parser
