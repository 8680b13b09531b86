"""What a run leaves in its directory, scores.csv, per_residue.csv, summary.json, and what it prints.

An undefined value is a blank cell or a null, never nan. Files are written beside their place and then moved into it,
so that a stopped run leaves the old file or the new one and no half of either.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.files.atomic import write_text
from data_prep.files.command_line import release
from data_prep.files.text import csv_text
from evaluation.lddt_scores import DEFINITION, INCLUSION_RADIUS, THRESHOLDS
from evaluation.residue_table import RESIDUE_COLUMNS
from evaluation.run import STATUSES, Row, Settings
from evaluation.score import DEFINITIONS, PairScore, residue_calibration
from evaluation.statistics import CONFIDENCE, RESAMPLES, calibrate, estimate

if TYPE_CHECKING:
    from evaluation.baselines import Baseline

SCORE_COLUMNS: tuple[str, ...] = (
    "lddt_ca", "lddt_ca_common", "lddt_ca_mean_per_residue", "lddt_ca_intra", "lddt_ca_strict", "coverage",
    "lddt_all", "tm_score", "gdt_ts", "gdt_ha", "rmsd_common",
    "n_truth", "n_matched", "n_extra", "n_name_mismatch", "identity", "match", "chain_map", "chain_scores",
    "mean_plddt", "plddt_scale", "plddt_pearson", "plddt_spearman", "plddt_ece",
)  # fmt: skip
"""Columns of scores.csv that are fields of ``PairScore``, in order, after target, status and reason."""

SUMMARISED: tuple[str, ...] = (
    "lddt_ca", "lddt_ca_common", "lddt_ca_mean_per_residue", "lddt_ca_intra", "lddt_ca_strict", "coverage",
    "lddt_all", "tm_score", "gdt_ts", "gdt_ha", "rmsd_common", "mean_plddt",
)  # fmt: skip
"""Columns of which summary.json has mean, median and interval, those that were not asked for left out."""

BASELINE_COLUMNS: Mapping[str, str] = {
    "nearest_train": "nearest_train",
    "nearest_train_identity": "identity",
    "lddt_ca_helix": "helix",
    "lddt_ca_copy": "copy",
    "lddt_ca_copy_common": "copy_common",
}
"""Last columns of scores.csv, blank where the truth is not a dataset -> fields of ``Baseline``."""

OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "all_atom": ("lddt_all",),
    "superposition": ("tm_score", "gdt_ts", "gdt_ha", "rmsd_common"),
}
"""Setting -> columns that are blank without it."""

_SHOWN = 10  # of each: best, worst, without a score
_IN_FULL = 5  # targets up to which the reader's warnings are shown too; scores.csv has them always
_OPTIONAL = {"lddt_all": "lDDT-all", "tm_score": "TM", "gdt_ts": "GDT-TS", "gdt_ha": "GDT-HA", "rmsd_common": "RMSD"}
"""Columns of scores.csv that are shown when asked for, and their headings."""
_STYLES = {"scored": "", "partial": "yellow", "failed": "red", "missing": "red", "extra": "dim"}


def summarise(
    rows: Sequence[Row], settings: Settings, seed: int, notes: Sequence[str], baselines: "Sequence[Baseline]" = ()
) -> dict:
    """The content of summary.json: definition, settings, counts, means both ways, baselines, file hashes."""
    scores = [row.score for row in rows if row.score is not None]
    with_zeros = [0.0 if row.score is None else row.score.lddt_ca for row in rows if row.counts]
    counts = Counter(row.status for row in rows)
    hashes = {row.prediction: row.prediction_sha256 for row in rows} | {row.truth: row.truth_sha256 for row in rows}
    confident = [score for score in scores if score.mean_plddt is not None]
    unasked = {name for setting, names in OPTIONAL.items() if not getattr(settings, setting) for name in names}
    summarised = [name for name in SUMMARISED if name not in unasked]
    return {
        "program": "evaluation.lddt of lorta-fold",
        "version": release(),
        "definition": DEFINITION,
        "columns": dict(DEFINITIONS),
        "settings": asdict(settings)
        | {"inclusion_radius": INCLUSION_RADIUS, "thresholds": list(THRESHOLDS), "seed": seed}
        | {"bootstrap_resamples": RESAMPLES, "confidence": CONFIDENCE},
        "notes": list(notes),
        "counts": {"targets": len(rows)} | {status: counts[status] for status in STATUSES},
        "scored": {name: _estimate([getattr(score, name) for score in scores], seed) for name in summarised},
        "plddt": {
            "scales": dict(sorted(Counter(score.plddt_scale for score in confident).items())),
            "per_residue": asdict(residue_calibration([score.residues for score in confident])),
            "per_target": asdict(calibrate(*np.array([(s.mean_plddt, s.lddt_ca) for s in confident]).reshape(-1, 2).T)),
        },
        "missing_as_0": {"lddt_ca": _estimate(with_zeros, seed)},
        "baselines": _baselines(rows, baselines),
        "sha256": {path: digest for path, digest in sorted(hashes.items()) if path and digest},
    }


def _baselines(rows: Sequence[Row], baselines: "Sequence[Baseline]") -> dict | None:
    """What the baselines score, in the mean and for each target; None without any."""
    if not baselines:
        return None
    from evaluation.baselines import means_in_words, standing  # loads file formats that files as truth do not need

    found = standing({row.target: row.scored.lddt_ca for row in rows if row.score is not None}, baselines)
    if found is None:
        return None
    targets = {
        one.target: {column: _none_for_nan(getattr(one, name)) for column, name in BASELINE_COLUMNS.items()}
        for one in baselines
    }
    return {
        "words": str(found),
        "means": means_in_words(baselines),
        "standing": {name: _none_for_nan(value) for name, value in asdict(found).items()},
        "targets": targets,
    }


def _none_for_nan(value: float | int | str) -> float | int | str | None:
    return None if value != value else value


def write_scores(directory: Path, rows: Sequence[Row], summary: Mapping) -> list[Path]:
    """Writes the three files; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    header = ["target", "status", "reason", *SCORE_COLUMNS, "notes", "warnings"]
    sources = ["prediction", "truth", "prediction_sha256", "truth_sha256"]
    baselines = (summary["baselines"] or {}).get("targets", {})
    table = [
        [
            *(row.target, row.status, row.reason, *_score_cells(row.score), *(getattr(row, name) for name in sources)),
            *(_cell(baselines.get(row.target, {}).get(name)) for name in BASELINE_COLUMNS),
        ]
        for row in rows
    ]
    residues = [
        [row.target, *map(_cell, residue)]
        for row in rows
        if row.score is not None
        for residue in zip(*row.score.residues.columns().values(), strict=True)
    ]
    contents = {
        "scores.csv": csv_text([*header, *sources, *BASELINE_COLUMNS], table),
        "per_residue.csv": csv_text(["target", *RESIDUE_COLUMNS], residues),
        "summary.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, text in contents.items():
        write_text(directory / name, text)
    return [directory / name for name in contents]


def _score_cells(score: PairScore | None) -> list[str]:
    if score is None:
        return [""] * (len(SCORE_COLUMNS) + 2)
    return [*(_cell(getattr(score, name)) for name in SCORE_COLUMNS), "; ".join(score.notes), "; ".join(score.warnings)]


def _cell(value: float | int | bool | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _estimate(values: Iterable[float | None], seed: int) -> dict:
    return asdict(estimate([value for value in values if value is not None], seed))


def show(console: Console, rows: Sequence[Row], summary: Mapping) -> None:
    """Prints the table and the summary lines."""
    ranked = sorted((row for row in rows if row.score is not None), key=lambda row: -row.scored.lddt_ca)
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
        score = row.scored
        warnings = score.warnings if len(rows) <= _IN_FULL else ()
        remarks = "; ".join((row.status, *([row.reason] if row.reason else []), *score.notes, *warnings))
        cells: list[str | Text] = [_number(getattr(score, name)) for name in ("lddt_ca", "lddt_ca_common", *asked)]
        cells += [str(score.n_truth), str(score.n_matched)]
        if not asked:
            plddt = "" if score.mean_plddt is None else f"{score.mean_plddt:.1f}"
            cells += [str(score.n_name_mismatch), plddt, score.match, Text(score.chain_map)]
        table.add_row(Text(row.target), *cells, Text(remarks, style=_STYLES[row.status]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
