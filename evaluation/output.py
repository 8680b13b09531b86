"""What a run leaves in its directory: scores.csv, per_residue.csv, summary.json.

An undefined value is a blank cell or a null, never nan. Files are written beside their place and then moved into it,
so that a stopped run leaves the old file or the new one and no half of either.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files.release import release
from data_prep.structure.structure_bytes import atomic_write
from evaluation.calibration import calibrate
from evaluation.evaluate import STATUSES, Row, Settings
from evaluation.lddt import DEFINITION, INCLUSION_RADIUS, THRESHOLDS
from evaluation.residue_table import RESIDUE_COLUMNS
from evaluation.score import DEFINITIONS, PairScore, residue_calibration
from evaluation.statistics import CONFIDENCE, RESAMPLES, estimate

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
            "per_target": asdict(calibrate([s.mean_plddt for s in confident], [s.lddt_ca for s in confident])),
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

    found = standing({row.target: row.score.lddt_ca for row in rows if row.score is not None}, baselines)
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
        "scores.csv": _csv([*header, *sources, *BASELINE_COLUMNS], table),
        "per_residue.csv": _csv(["target", *RESIDUE_COLUMNS], residues),
        "summary.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, text in contents.items():
        write_atomically(directory / name, text)
    return [directory / name for name in contents]


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that nobody ever sees a part of it."""
    atomic_write(path, text.encode())


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


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
