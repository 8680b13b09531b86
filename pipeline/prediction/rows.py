"""One line of predictions.csv: what became of a sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from pipeline.prediction.checks import GeometryCounts
from pipeline.prediction.fold import Prediction
from pipeline.prediction.sequences import Query, Rejected

Status = Literal["done", "failed", "rejected"]
Relaxed = Literal["", "done", "failed"]

LARGE_SHIFT = 1.0
"""angstrom by which relaxation moves the alpha carbons of a structure that was far from sound."""
LOW_PLDDT, VERY_LOW_PLDDT = 70.0, 50.0
"""AlphaFold DB's limits: below them the backbone is uncertain, and likely wrong."""
FEW_CONTACTS_KEPT = 0.7

SEPARATOR = "; "


@dataclass(frozen=True)
class PredictionRow:
    """What became of one sequence; the columns of predictions.csv. None is a blank."""

    name: str
    """As in the names of the files."""
    file: str = ""
    """The structure; other formats have the same stem."""
    status: Status = "done"
    """``done``; ``failed``: was not folded or written; ``rejected``: the record cannot be folded."""
    reason: str = ""
    """Why it is not done."""
    length: int | None = None
    """Residues of all chains."""
    chains: int | None = None
    mean_plddt: float | None = None
    """Over residues with coordinates, 0 to 100."""
    ptm: float | None = None
    """Predicted TM-score; blank for a model without the head for aligned errors."""
    iptm: float | None = None
    """Predicted TM-score of the interfaces of a complex."""
    seconds: float | None = None
    """Its share of the batch, by residues, files included; 0 where it was folded as another's duplicate."""
    warnings: str = ""
    """What to look at before the structure is used."""
    unknown_residues: int | None = None
    """Residues without atoms in the file (X)."""
    broken_bonds: int | None = None
    bad_angles: int | None = None
    clashes: int | None = None
    bad_residues: int | None = None
    """These four: see ``checks.GeometryCounts``."""
    relaxed: Relaxed = ""
    """``done``: the relaxed structure lies in ``files.RELAXED``; ``failed``: it could not be; blank: not asked for."""
    relaxed_broken_bonds: int | None = None
    relaxed_bad_angles: int | None = None
    relaxed_clashes: int | None = None
    relaxed_bad_residues: int | None = None
    """These four: of the relaxed structure."""
    relaxed_shift: float | None = None
    """See ``relaxation.alpha_carbon_shift``, angstrom."""
    relax_seconds: float | None = None
    contacts_kept: float | None = None
    """See ``checks.contacts_kept``."""
    device: str = ""
    batch_size: int | None = None
    chunk_size: int | None = None
    """Rows of the pair representation at a time; blank where the trunk chose."""
    notes: str = ""
    """What was changed in reading, and what was fallen back to."""
    header: str = ""
    sequence_sha256: str = ""
    """Of letters and numbering: what ``--resume`` compares."""

    def as_cells(self) -> dict[str, Any]:
        """For ``csv.DictWriter``; blanks for None."""
        return {f.name: _cell(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> Self:
        """A row as it was read. Raises ValueError for a column that is missing or a number that is none."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = cells.get(field.name)
            if text is None:
                raise ValueError(f"no column {field.name}")
            if field.type in (str, Status, Relaxed):
                values[field.name] = text
            else:
                number = int if int in get_args(field.type) else float
                values[field.name] = None if text == "" else number(text)
        for name, known in (("status", Status), ("relaxed", Relaxed)):
            if values[name] not in get_args(known):
                raise ValueError(f"{name} {values[name]!r}")
        return cls(**values)


COLUMNS = tuple(f.name for f in fields(PredictionRow))


def _cell(value: Any) -> Any:
    return "" if value is None else value


def done_row(prediction: Prediction, files: Sequence[str], seconds: float, **how: Any) -> PredictionRow:
    """The row of a prediction that was written to ``files``; ``how``: device, batch_size, chunk_size, notes."""
    query, geometry, error = prediction.query, prediction.geometry, prediction.error
    notes = SEPARATOR.join((*query.notes, *how.pop("notes", ())))
    return PredictionRow(
        name=query.name,
        file=files[0],
        length=query.length,
        chains=len(query.chains),
        mean_plddt=round(prediction.mean_plddt, 2),
        ptm=None if error is None else round(error.ptm, 4),
        iptm=None if error is None or error.iptm is None else round(error.iptm, 4),
        seconds=round(seconds, 3),
        warnings=SEPARATOR.join(warnings_of(prediction)),
        unknown_residues=query.sequence.count("X"),
        broken_bonds=geometry.broken_bonds,
        bad_angles=geometry.bad_angles,
        clashes=geometry.clashes,
        bad_residues=geometry.bad_residues,
        contacts_kept=None if prediction.contacts_kept is None else round(prediction.contacts_kept, 3),
        notes=notes,
        header=query.header,
        sequence_sha256=query.key,
        **how,
    )


def relaxed_row(row: PredictionRow, relaxed: Prediction, shift: float, seconds: float) -> PredictionRow:
    """The row of a prediction that was relaxed, by which alpha carbons moved ``shift`` angstrom."""
    warnings = [row.warnings] if row.warnings else []
    if shift > LARGE_SHIFT:
        warnings.append(f"relaxation moved alpha carbons by {shift:.1f} angstrom")
    left = violations_of(relaxed.geometry)
    if left:
        warnings.append(f"still there after relaxation: {', '.join(left)}")
    counts = {f"relaxed_{name}": count for name, count in asdict(relaxed.geometry).items()}
    return replace(
        row,
        relaxed="done",
        relaxed_shift=round(shift, 3),
        relax_seconds=round(seconds, 3),
        warnings=SEPARATOR.join(warnings),
        **counts,
    )


def unrelaxed_row(row: PredictionRow, reason: str) -> PredictionRow:
    """The row of a prediction that could not be relaxed; its own files stay."""
    warnings = SEPARATOR.join(filter(None, (row.warnings, f"not relaxed: {reason}")))
    return replace(row, relaxed="failed", warnings=warnings)


def failed_row(query: Query, reason: str, **how: Any) -> PredictionRow:
    """The row of a query that was not folded or not written."""
    return PredictionRow(
        name=query.name,
        status="failed",
        reason=reason,
        length=query.length,
        chains=len(query.chains),
        notes=SEPARATOR.join((*query.notes, *how.pop("notes", ()))),
        header=query.header,
        sequence_sha256=query.key,
        **how,
    )


def rejected_row(record: Rejected) -> PredictionRow:
    """The row of a record that cannot be folded."""
    return PredictionRow(name=record.name, status="rejected", reason=record.reason, header=record.header)


def same_as(row: PredictionRow, query: Query, file: str) -> PredictionRow:
    """The row of a query with the sequence of another one, whose prediction it shares and which took the time."""
    notes = SEPARATOR.join((*query.notes, f"same sequence as {row.name}: folded once"))
    spent = None if row.relax_seconds is None else 0.0
    return replace(row, name=query.name, header=query.header, file=file, notes=notes, seconds=0.0, relax_seconds=spent)


def warnings_of(prediction: Prediction) -> list[str]:
    """What a person should look at before using the structure."""
    geometry, kept, mean = prediction.geometry, prediction.contacts_kept, prediction.mean_plddt
    found = []
    if mean < LOW_PLDDT:
        found.append(f"{'very ' if mean < VERY_LOW_PLDDT else ''}low confidence (mean pLDDT {mean:.1f})")
    if kept is not None and kept < FEW_CONTACTS_KEPT:
        found.append(f"distogram and coordinates disagree ({kept:.0%} of the predicted contacts are there)")
    return found + violations_of(geometry)


def violations_of(geometry: GeometryCounts) -> list[str]:
    """What is beyond the tolerances, as ``clashes: 3``."""
    counts = {
        "clashes": geometry.clashes,
        "broken bonds": geometry.broken_bonds,
        "bad backbone angles": geometry.bad_angles,
        "distorted residues": geometry.bad_residues,
    }
    return [f"{what}: {count}" for what, count in counts.items() if count]
