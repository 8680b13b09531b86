"""``report.html`` of a directory of predictions: a table, and the chosen structure in 3D with its confidence.

The page carries everything, 3Dmol.js included, and asks for no network.
"""

import base64
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_prep.files.bounded_reading import parse_json, read_table
from data_prep.files.release import program
from data_prep.structure.io import read_structure
from data_prep.structure.residues import ATOM37_INDEX, RESNAMES
from data_prep.structure.structure_bytes import StructureError, atomic_write
from pipeline.prediction.files import ERROR_SUFFIX, RELAXED
from pipeline.prediction.rows import SEPARATOR, PredictionRow

REPORT = "report.html"
MAX_DETAILED_BYTES = 20_000_000
"""Of the structures and error maps that lie in the page, by ``_size``; the table has all rows."""
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


def write_report(directory: Path, rows: Sequence[PredictionRow], description: str) -> Path:
    """Write the page of ``rows`` into ``directory``, whose files they name; returns its path."""
    details: list[dict[str, Any]] = []
    place: dict[str, int] = {}
    left = MAX_DETAILED_BYTES
    for row in rows:
        size = _size(row)
        if row.status == "done" and size <= left:
            found = _details(directory, row)
            if found is not None:
                left -= size
                place[row.name] = len(details)
                details.append(found)
    environment = Environment(
        loader=PackageLoader("pipeline.prediction", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        rows=rows,
        columns={
            name: title for name, title in _COLUMNS.items() if any(getattr(row, name) not in (None, "") for row in rows)
        },
        place=place,
        description=description,
        program=program(),
        separator=SEPARATOR,
        left_out=sum(row.status == "done" for row in rows) - len(details),
        data=Markup(json.dumps(details, separators=(",", ":")).replace("<", "\\u003c")),
        viewer_library=Markup(_viewer_file("3Dmol-min.js")),
        viewer_licence=_viewer_file("LICENSE"),
    )
    path = directory / REPORT
    atomic_write(path, page.encode())
    return path


def _viewer_file(name: str) -> str:
    """A file of the 3D viewer that comes with the evaluator, see its ``viewer/PROVENANCE.md``."""
    return (resources.files("evaluation") / "viewer" / name).read_text(encoding="utf-8")


def _size(row: PredictionRow) -> int:
    """Bytes of a structure in the page, about: known before its files are read."""
    residues = row.length or 0
    structures = RESIDUE_BYTES * residues * (2 if row.relaxed == "done" else 1)
    error_map = 0 if row.ptm is None else 4 * min(residues, MAP_PIXELS) ** 2 // 3  # base64
    return structures + error_map


def _details(directory: Path, row: PredictionRow) -> dict[str, Any] | None:
    """What the page's script draws of a structure; None where its file cannot be read any more."""
    own = _backbone(directory / row.file)
    relaxed = _backbone(directory / RELAXED / row.file) if row.relaxed == "done" else None
    if own is None:
        return None
    return {
        "name": row.name,
        "atoms": own[0],
        "residues": own[1],
        "relaxed": None if relaxed is None else relaxed[0],
        "error": _error_map(directory, row.name),
    }


def _backbone(path: Path) -> tuple[list, list] | None:
    """Atoms (residue, name, x, y, z in hundredths of angstrom) and residues (chain, number, type, pLDDT) of a file."""
    try:
        records = read_structure(path)
    except StructureError:
        return None
    atoms, residues = [], []
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


def _error_map(directory: Path, name: str) -> dict[str, Any] | None:
    """The aligned error as bytes, one per pixel: 0 to 255 for 0 to ``max``; averaged where the protein is long."""
    try:
        (document,) = parse_json(read_table(directory / f"{name}{ERROR_SUFFIX}"))
        matrix = np.array(document["predicted_aligned_error"], dtype=np.float32)
        largest = float(document["max_predicted_aligned_error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    n = len(matrix)
    size = min(n, MAP_PIXELS)
    starts = (np.arange(size) * n) // size
    counts = np.diff(np.append(starts, n))
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    pixels = np.rint(255 * (sums / np.outer(counts, counts)) / largest).clip(0, 255).astype(np.uint8)
    return {"size": size, "length": n, "max": largest, "pixels": base64.b64encode(pixels.tobytes()).decode()}
