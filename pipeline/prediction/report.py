"""``report.html`` of a directory of predictions: a table, and the chosen structure in 3D with its confidence.

The page carries everything, 3Dmol.js included, and asks for no network. What was folded by the command at work is shown
as it was in memory; of what earlier commands folded, the files are read.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import parse_json, read_table
from data_prep.files.command_line import program
from data_prep.pages import render_page, viewer
from data_prep.structure.io import read_structure
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX, RESNAMES
from data_prep.structure.structure_bytes import StructureError
from pipeline.prediction.files import ERROR_SUFFIX, RELAXED
from pipeline.prediction.fold import Prediction
from pipeline.prediction.rows import SEPARATOR, PredictionRow

REPORT = "report.html"
MAX_DETAILED_BYTES = 20_000_000
"""Of the structures and error maps that lie in the page, by ``page_bytes``; the table has all rows."""
RESIDUE_BYTES = 130
"""In the page, of a residue's backbone."""
MAP_PIXELS = 256
"""Longer proteins' error maps are averaged down to this."""

_BACKBONE = ("N", "CA", "C", "O")
_COLUMNS = {
    "name": "name",
    "length": "residues",
    "chains": "chains",
    "mean_plddt": "mean pLDDT",
    "ptm": "pTM",
    "iptm": "ipTM",
    "contacts_kept": "contacts kept",
    "clashes": "clashes",
    "broken_bonds": "broken bonds",
    "relaxed_clashes": "clashes, relaxed",
    "relaxed_broken_bonds": "broken bonds, relaxed",
    "seconds": "seconds",
}
"""Columns of the table and their headings; a column that no row fills is left out."""


@dataclass(frozen=True, eq=False)
class StructureDetail:
    """What the page's script draws of a structure."""

    name: str
    atoms: list[list]
    """Of the backbone: residue, name, x, y, z in hundredths of angstrom."""
    residues: list[list]
    """With atoms: chain, number, type, pLDDT."""
    relaxed: list[list] | None
    """Atoms of the relaxed structure."""
    error: dict[str, Any] | None
    """See ``_error_map``."""


class PageDetails:
    """Details of structures as they are folded, as many as the page has room for."""

    def __init__(self) -> None:
        self.left = MAX_DETAILED_BYTES
        self._found: dict[str, StructureDetail | None] = {}

    def add(self, detail: StructureDetail) -> None:
        """Keep a detail if there is room for it."""
        size = page_bytes(len(detail.residues), detail.relaxed is not None, detail.error is not None)
        fits = size <= self.left
        self.left -= size if fits else 0
        self._found[detail.name] = detail if fits else None

    def of_row(self, directory: Path, row: PredictionRow) -> StructureDetail | None:
        """The detail of a row, from its files where an earlier command folded it; None for want of room or files."""
        size = page_bytes(row.length or 0, row.relaxed == "done", row.ptm is not None)
        if row.name not in self._found and row.status == "done" and size <= self.left:
            detail = _detail_of_files(directory, row)
            self._found[row.name] = detail
            self.left -= 0 if detail is None else size
        return self._found.get(row.name)


def page_bytes(residues: int, relaxed: bool, error: bool) -> int:
    """Bytes of a structure in the page, about: known before its files are read."""
    error_map = 4 * min(residues, MAP_PIXELS) ** 2 // 3 if error else 0  # base64
    return RESIDUE_BYTES * residues * (2 if relaxed else 1) + error_map


def structure_detail(name: str, prediction: Prediction, relaxed: Prediction | None) -> StructureDetail:
    """The detail of a structure that was folded just now."""
    error = None if prediction.error is None else _error_map(prediction.error.pae, prediction.error.largest)
    atoms, residues = _backbone(prediction.records)
    moved = None if relaxed is None else _backbone(relaxed.records)[0]
    return StructureDetail(name, atoms, residues, moved, error)


def write_report(
    directory: Path, rows: Sequence[PredictionRow], description: str, details: PageDetails | None = None
) -> Path:
    """Write the page of ``rows`` into ``directory``, which has the files that they name; returns its path."""
    details = details or PageDetails()
    found = [detail for row in rows if (detail := details.of_row(directory, row)) is not None]
    page = render_page(
        "pipeline.prediction",
        "report.html.jinja",
        rows=rows,
        columns={
            name: title for name, title in _COLUMNS.items() if any(getattr(row, name) not in (None, "") for row in rows)
        },
        place={detail.name: i for i, detail in enumerate(found)},
        description=description,
        program=program(),
        separator=SEPARATOR,
        left_out=sum(row.status == "done" for row in rows) - len(found),
        data=[vars(detail) for detail in found],
        viewer=viewer(),
    )
    path = directory / REPORT
    write_text(path, page)
    return path


def _detail_of_files(directory: Path, row: PredictionRow) -> StructureDetail | None:
    """The detail of a structure that an earlier command folded; None where its file cannot be read any more."""
    try:
        atoms, residues = _backbone(read_structure(directory / row.file))
    except StructureError:
        return None
    try:
        relaxed = _backbone(read_structure(directory / RELAXED / row.file))[0] if row.relaxed == "done" else None
    except StructureError:
        relaxed = None
    try:
        (document,) = parse_json(read_table(directory / f"{row.name}{ERROR_SUFFIX}"))
        matrix = np.array(document["predicted_aligned_error"], dtype=np.float32)
        largest = float(document["max_predicted_aligned_error"])
        error = _error_map(matrix, largest) if 0 < largest < np.inf else None
    except (OSError, ValueError, KeyError, TypeError):
        error = None
    return StructureDetail(row.name, atoms, residues, relaxed, error)


def _backbone(records: Sequence[ProteinRecord]) -> tuple[list[list], list[list]]:
    """Atoms and residues of a ``StructureDetail``."""
    atoms: list[list] = []
    residues: list[list] = []
    for record in records:
        for i in np.flatnonzero(record.observed):
            confidence = round(float(record.b_factors[i, ATOM37_INDEX["CA"]]), 1)
            residues.append([record.chain_id, int(record.auth_seq_id[i]), RESNAMES[record.aatype[i]], confidence])
            for name in _BACKBONE:
                atom = ATOM37_INDEX[name]
                if record.atom37_mask[i, atom]:
                    x, y, z = (round(100 * float(value)) for value in record.atom37_positions[i, atom])
                    atoms.append([len(residues) - 1, name, x, y, z])
    return atoms, residues


def _error_map(matrix: np.ndarray, largest: float) -> dict[str, Any]:
    """The aligned error [N, N] as bytes, 0 to 255 for 0 to ``largest``; averaged where the protein is long."""
    n = len(matrix)
    size = min(n, MAP_PIXELS)
    starts = (np.arange(size) * n) // size
    counts = np.diff(np.append(starts, n))
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    pixels = np.rint(255 * (sums / np.outer(counts, counts)) / largest).clip(0, 255).astype(np.uint8)
    return {"size": size, "length": n, "max": largest, "pixels": base64.b64encode(pixels.tobytes()).decode()}
