"""Two runs of the evaluator, target by target, and the command ``python -m evaluation.compare A B``.

The mean of the differences is what a comparison of two methods on the same targets is about; the targets' own
difficulty, which dominates the spread of either run, cancels in it. The sign test asks only how often B was better.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb, isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_table
from data_prep.files.command_line import CommandParser, release, run_command
from data_prep.files.errors import UserError
from evaluation.statistics import Estimate, estimate

if TYPE_CHECKING:
    from rich.table import Table

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

LOWER_IS_BETTER: frozenset[str] = frozenset({"rmsd_common", "plddt_ece"})
"""Columns in which a smaller number is the better one."""


@dataclass(frozen=True)
class Scores:
    """One column of a scores.csv."""

    path: Path
    values: Mapping[str, float]
    """Target -> value, where there is one."""
    absent: Mapping[str, str]
    """Target -> status, of expected targets without a value: failed, missing."""
    truths: Mapping[str, str]
    """Target -> hash of the truth's file, where it was read."""


@dataclass(frozen=True)
class Comparison:
    """B against A. A difference is B's value less A's."""

    metric: str
    differences: Mapping[str, float]
    """Target -> difference, for the targets with a value in both."""
    estimate: Estimate
    """Mean, median and bootstrap interval of the differences."""
    estimate_missing_as_0: Estimate | None
    """The same over all targets with a value in either, a prediction that failed or is missing taken as 0; None where
    a 0 would be no bad score."""
    better: int
    """Targets in which B is better."""
    worse: int
    equal: int
    p_value: float | None
    """Two-sided sign test over the targets that are not equal; None without any."""
    only_a: tuple[str, ...]
    """Targets with a value in A alone."""
    only_b: tuple[str, ...]
    other_truth: tuple[str, ...]
    """Targets whose truth is another file in the other run: their differences say nothing."""


def read_scores(path: Path, metric: str) -> Scores:
    """Reads a column of ``path``, a scores.csv or the directory of one.

    Raises:
        UserError: no such file or column, or a cell that is no number.
    """
    file = path / "scores.csv" if path.is_dir() else path
    try:
        reader = csv.DictReader(io.StringIO(read_table(file), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist: expected a scores.csv or the --out directory of evaluation.lddt"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as CSV: {error}") from None
    needed = [name for name in ("target", "status", metric) if name not in columns]
    if needed:
        raise UserError(f"{file}: no column {' and '.join(needed)}; found {', '.join(columns) or 'nothing'}")
    values, absent, truths = {}, {}, {}
    for line, row in enumerate(rows, start=2):
        target, cell = row["target"], row[metric]
        if not target:
            raise UserError(f"{file}: row {line} has no target: expected a name in each row")
        if target in values or target in absent:
            raise UserError(f"{file}: row {line} is target {target} once more: expected each target once")
        if row.get("truth_sha256"):
            truths[target] = row["truth_sha256"]
        if cell:
            values[target] = _finite(cell, f"{file}: row {line} has {cell!r} as {metric}")
        elif row["status"] in ("failed", "missing"):
            absent[target] = row["status"]
    return Scores(file, values, absent, truths)


def compare(a: Scores, b: Scores, metric: str, seed: int = 0) -> Comparison:
    """Compares two runs over the targets that both have.

    Raises:
        UserError: they have no target in common.
    """
    common = sorted(a.values.keys() & b.values.keys())
    if not common:
        raise UserError(
            f"no target has a {metric} in both runs: {a.path} has {_some(a.values)}, {b.path} has {_some(b.values)}"
        )
    differences = {target: b.values[target] - a.values[target] for target in common}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    better = sum(sign * difference > 0 for difference in differences.values())
    worse = sum(sign * difference < 0 for difference in differences.values())
    expected = sorted((a.values.keys() | b.values.keys()) & (_expected(a) & _expected(b)))
    zeros = [b.values.get(target, 0.0) - a.values.get(target, 0.0) for target in expected]
    return Comparison(
        metric=metric,
        differences=differences,
        estimate=estimate(list(differences.values()), seed),
        estimate_missing_as_0=None if metric in LOWER_IS_BETTER else estimate(zeros, seed),
        better=better,
        worse=worse,
        equal=len(common) - better - worse,
        p_value=sign_test(better, worse),
        only_a=tuple(sorted(a.values.keys() - b.values.keys())),
        only_b=tuple(sorted(b.values.keys() - a.values.keys())),
        other_truth=tuple(t for t in common if t in a.truths and t in b.truths and a.truths[t] != b.truths[t]),
    )


def sign_test(better: int, worse: int) -> float | None:
    """Two-sided exact binomial test that better and worse are equally likely; None without either."""
    n = better + worse
    if not n:
        return None
    tail = sum(comb(n, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def as_json(comparison: Comparison, a: Scores, b: Scores, seed: int) -> dict:
    """What ``--out FILE.json`` holds."""
    return {"version": release(), "a": str(a.path), "b": str(b.path), "seed": seed} | asdict(comparison)


def _finite(cell: str, found: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise UserError(f"{found}: expected a finite number")
    return value


def _expected(scores: Scores) -> set[str]:
    """Targets that the run knows of and that deserve a number."""
    return scores.values.keys() | scores.absent.keys()


def _some(names: Sequence[str] | Mapping[str, float], count: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (f", ... {len(names)} in all" if len(names) > count else "") if names else "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return run_command(_run, _parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    a, b = read_scores(options.a, options.metric), read_scores(options.b, options.metric)
    comparison = compare(a, b, options.metric, options.seed)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(f"A: {a.path}   B: {b.path}", markup=False, highlight=False, soft_wrap=True)
    console.print(_table(comparison, a, b))
    for line in summary_lines(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if options.out is not None:
        write_text(options.out, json.dumps(as_json(comparison, a, b, options.seed), indent=2) + "\n")
        console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def summary_lines(comparison: Comparison) -> list[str]:
    """The comparison in words."""
    from evaluation.output import in_words

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
            lines.append(f"{len(names)} target(s) with a score in {whose} alone: {_some(names, 5)}")
    if comparison.other_truth:
        lines.append(
            f"warning: {len(comparison.other_truth)} target(s) were scored against another truth file in the other "
            f"run, so that their differences say nothing of the predictions: {_some(comparison.other_truth, 5)}"
        )
    return lines


def _table(comparison: Comparison, a: Scores, b: Scores) -> "Table":
    from rich.table import Table
    from rich.text import Text

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


def _seed(text: str) -> int:
    """The argument of ``--seed``."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 0")
    return int(text)


def _parser() -> CommandParser:
    parser = CommandParser("evaluation.compare", _DESCRIPTION, examples=_EPILOG)
    parser.add_argument("a", metavar="A", type=Path, help="the run to compare with: directory or scores.csv")
    parser.add_argument("b", metavar="B", type=Path, help="the run to be judged: directory or scores.csv")
    parser.add_argument(
        "--metric", default="lddt_ca", metavar="COLUMN", help="column of scores.csv (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the comparison there")
    parser.add_argument("--seed", type=_seed, default=0, help="of the bootstrap intervals (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
