"""Two runs of the evaluator, target by target, and the command ``python -m evaluation.compare A B``.

The mean of the differences is what a comparison of two methods on the same targets is about; the targets' own
difficulty, which dominates the spread of either run, cancels in it. The sign test asks only how often B was better.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb, isfinite, nan
from pathlib import Path

from data_prep.files.bounded_reading import read_table
from data_prep.files.release import release
from evaluation.statistics import Estimate, estimate

LOWER_IS_BETTER: frozenset[str] = frozenset({"rmsd_common", "plddt_ece"})
"""Columns in which a smaller number is the better one."""


class CompareError(ValueError):
    """Runs that cannot be compared. One line: which file, what was found, what was expected."""


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
        CompareError: no such file or column, or a cell that is no number.
    """
    file = path / "scores.csv" if path.is_dir() else path
    try:
        reader = csv.DictReader(io.StringIO(read_table(file), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except FileNotFoundError:
        raise CompareError(
            f"{file} does not exist: expected a scores.csv or the --out directory of evaluation.lddt"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CompareError(f"{file}: cannot be read as CSV: {error}") from None
    needed = [name for name in ("target", "status", metric) if name not in columns]
    if needed:
        raise CompareError(f"{file}: no column {' and '.join(needed)}; found {', '.join(columns) or 'nothing'}")
    values, absent, truths = {}, {}, {}
    for line, row in enumerate(rows, start=2):
        target, cell = row["target"], row[metric]
        if not target:
            raise CompareError(f"{file}: row {line} has no target: expected a name in each row")
        if target in values or target in absent:
            raise CompareError(f"{file}: row {line} is target {target} once more: expected each target once")
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
        CompareError: they have no target in common.
    """
    common = sorted(a.values.keys() & b.values.keys())
    if not common:
        raise CompareError(
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
        raise CompareError(f"{found}: expected a finite number")
    return value


def _expected(scores: Scores) -> set[str]:
    """Targets that the run knows of and that deserve a number."""
    return scores.values.keys() | scores.absent.keys()


def _some(names: Sequence[str] | Mapping[str, float], count: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (f", ... {len(names)} in all" if len(names) > count else "") if names else "none"


if __name__ == "__main__":
    import sys

    from evaluation.compare_command import main

    sys.exit(main())
