"""What a run prints: a table of its targets, the best and the worst where they are many, and what they come to."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.evaluate import Row

_SHOWN = 10  # of each: best, worst, without a score
_IN_FULL = 5  # targets up to which the reader's warnings are shown too; scores.csv has them always
_OPTIONAL = {"lddt_all": "lDDT-all", "tm_score": "TM", "gdt_ts": "GDT-TS", "gdt_ha": "GDT-HA", "rmsd_common": "RMSD"}
"""Columns of scores.csv that are shown when asked for, and their headings."""
_STYLES = {"scored": "", "partial": "yellow", "failed": "red", "missing": "red", "extra": "dim"}


def show(console: Console, rows: Sequence[Row], summary: Mapping) -> None:
    """Prints the table and the summary lines."""
    ranked = sorted((row for row in rows if row.score is not None), key=lambda row: -row.score.lddt_ca)
    unscored = [row for row in rows if row.score is None]
    if len(ranked) > 2 * _SHOWN:
        console.print(_table(f"best {_SHOWN} of {len(ranked)}", ranked[:_SHOWN]))
        console.print(_table(f"worst {_SHOWN} of {len(ranked)}", ranked[-_SHOWN:]))
    elif ranked:
        console.print(_table("", ranked))
    for row in unscored[:_SHOWN]:
        console.print(Text(f"{row.target}: {row.status}: {row.reason}", style=_STYLES[row.status]), soft_wrap=True)
    if len(unscored) > _SHOWN:
        console.print(f"... and {len(unscored) - _SHOWN} more without a score")
    for line in summary_lines(summary):
        console.print(Text(line), soft_wrap=True)


def summary_lines(summary: Mapping) -> list[str]:
    """Counts and means in words."""
    counts = summary["counts"]
    expected = counts["targets"] - counts["extra"]
    scored = counts["scored"] + counts["partial"]
    others = ", ".join(f"{counts[name]} {name}" for name in ("partial", "failed", "missing", "extra") if counts[name])
    lines = [*summary["notes"], f"{scored} of {expected} targets scored" + (f" ({others})" if others else "")]
    for label, numbers in (("over scored", summary["scored"]["lddt_ca"]), ("missing as 0", _zeros(summary))):
        if numbers is not None and numbers["n"]:
            lines.append(f"lDDT-Calpha, {label}: {in_words(numbers)}")
    for name, label in _OPTIONAL.items():
        numbers = summary["scored"].get(name)
        if numbers is not None and numbers["n"]:
            lines.append(f"{label}, over scored: {in_words(numbers)}")
    baselines = summary["baselines"]
    if baselines is not None:
        lines += [f"without a model: {baselines['means']}", f"the predictions: {baselines['words']}"]
    if summary["plddt"]["scales"]:
        lines.append(_confidence_in_words(summary["plddt"]))
    return lines


def _confidence_in_words(plddt: Mapping) -> str:
    scales = ", ".join(f"{number} target(s) with scale {scale}" for scale, number in plddt["scales"].items())
    found = plddt["per_residue"]
    names = {"pearson": "Pearson", "spearman": "Spearman", "ece": "expected calibration error"}
    words = [f"{word} {_number(found[name]) or 'undefined'}" for name, word in names.items()]
    return f"pLDDT against lDDT-Calpha, {found['n']} residues, {scales}: {', '.join(words)}"


def in_words(numbers: Mapping) -> str:
    """``mean 0.812 [0.790, 0.833], median 0.820, n 40``."""
    interval = ""
    if numbers["low"] is not None:
        flag = ", degenerate: all scores are equal" if numbers["degenerate"] else ""
        interval = f" [{numbers['low']:.4f}, {numbers['high']:.4f}]{flag}"
    return f"mean {numbers['mean']:.4f}{interval}, median {numbers['median']:.4f}, n {numbers['n']}"


def _zeros(summary: Mapping) -> Mapping | None:
    """The mean with missing as 0, where it differs from the one over scored targets."""
    zeros = summary["missing_as_0"]["lddt_ca"]
    return zeros if zeros["n"] != summary["scored"]["lddt_ca"]["n"] else None


def _table(title: str, rows: Sequence[Row]) -> Table:
    """Optional scores take the place of the columns that scores.csv keeps anyway: a terminal is only so wide."""
    asked = [name for name in _OPTIONAL if any(getattr(row.score, name) is not None for row in rows)]
    table = Table(title=title or None, title_justify="left")
    table.add_column("target", overflow="fold")
    headings = ["lDDT-Ca", "common", *(_OPTIONAL[name] for name in asked), "residues", "matched"]
    for heading in headings if asked else [*headings, "differ", "pLDDT"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in () if asked else ("match", "chains"):
        table.add_column(name, overflow="fold")
    table.add_column("status and notes", overflow="fold", ratio=1)
    for row in rows:
        score = row.score
        warnings = score.warnings if len(rows) <= _IN_FULL else ()
        remarks = "; ".join((row.status, *([row.reason] if row.reason else []), *score.notes, *warnings))
        cells = [_number(getattr(score, name)) for name in ("lddt_ca", "lddt_ca_common", *asked)]
        cells += [str(score.n_truth), str(score.n_matched)]
        if not asked:
            plddt = "" if score.mean_plddt is None else f"{score.mean_plddt:.1f}"
            cells += [str(score.n_name_mismatch), plddt, score.match, Text(score.chain_map)]
        table.add_row(Text(row.target), *cells, Text(remarks, style=_STYLES[row.status]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
