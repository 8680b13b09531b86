"""What a score is worth: lDDT-Calpha of two answers that need no model, for each target.

- ``helix``: one straight alpha helix of the length of the target.
- ``copy``: the nearest training chain, aligned to the target (``structure.alignment.aligned_positions``), its alpha
  carbons copied. Residues without a counterpart are missing, and their pairs count as lost, as in every score here;
  ``copy_common`` is the copy's score over the pairs that it has.

The nearest training chain is the one of highest identity as the index of a dataset has it (``nearest_train_identity``):
identical pairs of the best local alignment / length of the shorter chain, for alignments that score
``data_prep.dataset.clusters.MIN_SCORE`` or more. A target that no training chain aligns with has nothing to copy.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.clusters import MIN_SCORE
from data_prep.dataset.splits import HELD_OUT
from data_prep.dataset.store import StructureDataset
from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_table
from data_prep.files.errors import UserError
from data_prep.files.text import csv_text
from data_prep.structure.alignment import aligned_positions, identity, reaching
from data_prep.structure.record import ProteinRecord
from evaluation.lddt_scores import lddt_ca

HELIX_RISE = 1.5
HELIX_TURN = np.deg2rad(100.0)
HELIX_RADIUS = 2.3
"""angstrom, radians per residue, angstrom: alpha carbons of an ideal alpha helix."""

NEGLIGIBLE = 0.005
"""Differences of mean lDDT-Calpha below it round to 0.00, and are called none."""

Chains = tuple[StructureDataset, Sequence[str]]
"""Chains of a dataset, by their ids."""


@dataclass(frozen=True)
class Baseline:
    """One target; a row of ``baselines.csv``. A score without a number is nan, and blank in the file."""

    target: str
    length: int
    nearest_train: str
    """Id of the training chain of highest identity; empty where none aligns."""
    identity: float
    """To that chain, 0 to 1; nan where none aligns."""
    helix: float
    """nan where no two alpha carbons of the truth are within 15 angstrom."""
    copy: float
    """Pairs that the copy lacks count as lost; nan where there is nothing to copy."""
    copy_common: float
    """Over the pairs that the copy has; nan where it has none."""
    cluster: int
    """Of the target, as the index of its dataset has it."""


@dataclass(frozen=True)
class Standing:
    """Mean scores of a model beside those of the baselines, over the targets for which they are defined."""

    targets: int
    score: float
    helix: float
    copies: int
    """Targets with a chain to copy; the rest of the fields is over them, nan without any."""
    score_of_copies: float
    """The model's."""
    copy: float
    copy_common: float
    identity: float
    better: int
    """Targets that the model scores higher on than the copy."""

    def __str__(self) -> str:
        """Say on which side of the two baselines the model is, in words that follow a colon."""
        above_helix = self.score - self.helix >= NEGLIGIBLE
        helix = "above the helix" if above_helix else "no better than a straight helix"
        if not self.copies:
            by = f" by {self.score - self.helix:.2f}" if above_helix else ""
            return f"{helix}{by}; no training chain is similar enough to be copied"
        gain = self.score_of_copies - self.copy
        if abs(gain) < NEGLIGIBLE:
            side, by = "level with", ""
        else:
            side, by = ("above" if gain > 0 else "below"), f" by {abs(gain):.2f}"
        details = f"better on {self.better} of {self.copies} chains, {self.identity:.0%} identical on average"
        without = self.targets - self.copies
        if without:
            details += f"; {without} more {'has' if without == 1 else 'have'} no training chain to copy"
        copy = f"{side} the copy of the nearest training chain{by} ({details})"
        words = copy if above_helix and gain >= NEGLIGIBLE and self.copy >= self.helix else f"{helix}, {copy}"
        if gain > -NEGLIGIBLE and self.score_of_copies < self.copy_common:
            words += f"; over the residues that the copy has, it scores {self.copy_common:.2f}"
        return words


def helix_ca(length: int) -> np.ndarray:
    """Return float64 [length, 3], angstrom: alpha carbons of one straight right-handed alpha helix."""
    place = np.arange(length)
    angle = HELIX_TURN * place
    return np.stack([HELIX_RADIUS * np.cos(angle), HELIX_RADIUS * np.sin(angle), HELIX_RISE * place], axis=-1)


def copied_ca(sequence: str, source: ProteinRecord) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [N, 3] and bool [N]: alpha carbons of ``source`` in the places of a sequence of N residues.

    The mask is False for residues without a counterpart, or whose counterpart has no alpha carbon.
    """
    here, there = aligned_positions(sequence, source.sequence)
    positions, mask = np.zeros((len(sequence), 3), dtype=np.float32), np.zeros(len(sequence), dtype=bool)
    positions[here], mask[here] = source.ca_positions[there], source.ca_mask[there]
    return positions, mask


def score_baselines(
    dataset: StructureDataset, targets: Sequence[str], training: Sequence[Chains] | None = None
) -> list[Baseline]:
    """Score the baselines of some chains of a dataset.

    Args:
        dataset: with the targets.
        targets: ids of the chains.
        training: the chains to copy from, those that the model is trained on; None: the training split of ``dataset``.
            A target that is one of them is its own nearest chain.

    Raises:
        KeyError: an id that the dataset does not have.
        DatasetError: a shard that cannot be read.
    """
    if training is None:
        training = [(dataset, dataset.ids("train"))]
    nearest: list[_Nearest | None] = [None] * len(targets)
    for chains in training:
        found = _nearest_of(dataset, targets, chains)
        nearest = [_nearer(*both) for both in zip(nearest, found, strict=True)]
    clusters = dataset.column("cluster", targets)
    return [
        _baseline(dataset.load(target), near, cluster)
        for target, near, cluster in zip(targets, nearest, clusters, strict=True)
    ]


@dataclass(frozen=True)
class _Nearest:
    """The training chain of highest identity to a target."""

    dataset: StructureDataset
    name: str
    identity: float


def _nearer(one: _Nearest | None, other: _Nearest | None) -> _Nearest | None:
    """The one of higher identity; of equals the first."""
    if one is None or other is None:
        return one or other
    return other if other.identity > one.identity else one


def _nearest_of(dataset: StructureDataset, targets: Sequence[str], chains: Chains) -> list[_Nearest | None]:
    """The nearest one of ``chains`` for each target; None where none aligns.

    The index of the dataset is asked where it knows, which is of held-out chains against all of its training chains:
    the nearest of all is the nearest of any part that it is in.
    """
    source, ids = chains
    index = dataset.table["nearest_train_id"]
    searched = index.null_count < len(index)  # not so in a dataset that was written without looking for them
    chosen = set(ids)
    indexed = searched and source is dataset and chosen <= set(dataset.ids("train"))
    names: dict[str, str] = {}  # by sequence, the first chain that has it
    computed: dict[str, _Nearest | None] = {}
    found = []
    for row in map(dataset.row, targets):
        name, value = row["nearest_train_id"], row["nearest_train_identity"]
        if indexed and row["split"] in HELD_OUT and (name is None or name in chosen):
            found.append(_Nearest(source, name, float(value)) if name else None)
            continue
        if not names:
            for chain, sequence in zip(ids, source.column("sequence", ids), strict=True):
                names.setdefault(sequence, chain)
        sequence = row["sequence"]
        if sequence not in computed:
            computed[sequence] = _search(source, sequence, names)
        found.append(computed[sequence])
    return found


def _search(source: StructureDataset, sequence: str, names: Mapping[str, str]) -> _Nearest | None:
    others = list(names)
    aligned = [others[i] for i in reaching(sequence, others, MIN_SCORE)]
    values = [identity(sequence, other) for other in aligned]
    if not values:
        return None
    best = int(np.argmax(values))  # of equals the first
    return _Nearest(source, names[aligned[best]], values[best])


def _baseline(record: ProteinRecord, near: _Nearest | None, cluster: int) -> Baseline:
    true_positions, true_mask = record.ca_positions, record.ca_mask
    copy = copy_common = math.nan
    if near is not None:
        positions, mask = copied_ca(record.sequence, near.dataset.load(near.name))
        result = lddt_ca(positions, true_positions, mask, true_mask)
        copy, copy_common = result.score, result.score_common
    return Baseline(
        target=record.id,
        length=len(record),
        nearest_train="" if near is None else near.name,
        identity=math.nan if near is None else near.identity,
        helix=lddt_ca(helix_ca(len(record)), true_positions, None, true_mask).score,
        copy=copy,
        copy_common=copy_common,
        cluster=cluster,
    )


def standing(scores: Mapping[str, float], rows: Sequence[Baseline]) -> Standing | None:
    """Compare the scores of a model (target -> lDDT-Calpha) with the baselines of the same targets.

    Targets without a row, or whose score or helix is nan, are left out; None where nothing is left.
    """
    both = [row for row in rows if math.isfinite(scores.get(row.target, math.nan)) and math.isfinite(row.helix)]
    if not both:
        return None
    copies = [row for row in both if math.isfinite(row.copy)]
    common = [row.copy_common for row in copies if math.isfinite(row.copy_common)]
    return Standing(
        targets=len(both),
        score=_mean([scores[row.target] for row in both]),
        helix=_mean([row.helix for row in both]),
        copies=len(copies),
        score_of_copies=_mean([scores[row.target] for row in copies]),
        copy=_mean([row.copy for row in copies]),
        copy_common=_mean(common),
        identity=_mean([row.identity for row in copies]),
        better=sum(scores[row.target] > row.copy for row in copies),
    )


def verdict(scores: Mapping[str, float], rows: Sequence[Baseline]) -> str:
    """Say in words on which side of the baselines the scores are; empty where there is nothing to compare."""
    found = standing(scores, rows)
    return "" if found is None else str(found)


def means_in_words(rows: Sequence[Baseline]) -> str:
    """Say what the baselines score in the mean."""
    found = standing({row.target: row.helix for row in rows}, rows)
    if found is None:
        return "no chain can be scored"
    words = f"one straight helix {found.helix:.3f}"
    if not found.copies:
        return f"{words}; no training chain is similar enough to be copied"
    remarks = [f"{found.identity:.0%} identical on average"]
    if found.copies < found.targets:
        remarks.append(f"over the {found.copies} of {found.targets} chains that have one")
    if found.copy_common - found.copy >= NEGLIGIBLE:
        remarks.append(f"{found.copy_common:.3f} over the residues that it has")
    return f"{words}, copy of the nearest training chain {found.copy:.3f} ({'; '.join(remarks)})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def write_baselines(path: Path, rows: Sequence[Baseline]) -> None:
    """Write ``baselines.csv``. Raises OSError."""
    names = [field.name for field in fields(Baseline)]
    write_text(path, csv_text(names, ([_cell(getattr(row, name)) for name in names] for row in rows)))


def read_baselines(path: Path) -> list[Baseline]:
    """Read ``baselines.csv``; nothing where there is no such file. Raises UserError: it is another table."""
    if not path.is_file():
        return []
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Baseline)}

    def value(name: str, text: str) -> Any:
        return text if kinds[name] is str else kinds[name](text or "nan")

    try:
        table = csv.DictReader(io.StringIO(read_table(path)), strict=True)
        return [Baseline(**{name: value(name, text) for name, text in row.items()}) for row in table]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table of baselines ({error}): delete it") from None


def _cell(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6f}"
