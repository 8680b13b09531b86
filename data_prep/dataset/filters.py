"""Which chains are worth training on: thresholds, and the reason with value and threshold for each rejection.

The recipes are the filters that published models state for their training chains. They hold what applies to single
protein chains; where a publication is silent, our default stays. Entries without a resolution (NMR) pass in all:
OpenFold's caches hold 0 for them, and the others do not name them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_prep.files.text import is_date
from data_prep.structure.decimals import PER_ANGSTROM, thousandths
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX

METHODS = ("x-ray", "em", "nmr", "neutron", "other")
"""Kinds of experiment that ``FilterSettings.methods`` can name."""

_METHOD_WORDS = {"X-RAY": "x-ray", "ELECTRON": "em", "NMR": "nmr", "NEUTRON": "neutron"}
_BACKBONE = [ATOM37_INDEX[name] for name in ("N", "CA", "C")]


@dataclass(frozen=True)
class FilterSettings:
    """Permissive by default: what is left out could not be learnt from at all. ``recipes`` has those of others."""

    min_length: int = 20
    """Residues of the sequence, observed or not; shorter peptides have no fold of their own."""
    max_length: int | None = None
    min_observed: int = 1
    """Residues with an alpha carbon."""
    min_ca_fraction: float = 0.1
    """Residues with an alpha carbon / residues of the sequence."""
    min_backbone_fraction: float = 0.5
    """Residues with N, CA and C / residues with an alpha carbon: a chain of alpha carbons alone has no frames."""
    max_coincident_fraction: float = 0.1
    """Alpha carbons at the very place of another one / alpha carbons: placeholders such as 0, 0, 0 are no structure."""
    max_unknown_fraction: float = 0.5
    """X / residues of the sequence."""
    max_residue_fraction: float | None = None
    """Occurrences of the most frequent residue type / residues of the sequence."""
    max_resolution: float | None = None
    """angstrom; if given, a chain without a stated resolution (NMR, predictions) is left out too."""
    keep_unstated_resolution: bool = False
    """With ``max_resolution``: keep chains without a stated resolution all the same."""
    methods: tuple[str, ...] | None = None
    """Kinds of experiment to keep, of ``METHODS``; if given, a chain whose file states none is left out."""
    released_from: str | None = None
    """ISO date, this day included; if given, a chain without a release date is left out."""
    released_before: str | None = None
    """ISO date, this day not included; if given, a chain without a release date is left out."""
    max_ca_jump: float | None = None
    """angstrom between the alpha carbons of consecutive residues of the sequence (3.8 ideal)."""
    max_clash_fraction: float | None = None
    """Atoms nearer than ``clashes.CLASH_DISTANCE`` to another protein chain of the file / atoms of the chain."""
    unique_sequences: bool = False
    """Of chains with identical sequences keep one: of best resolution, then with most residues observed."""

    def __post_init__(self) -> None:
        for name in (
            *("min_ca_fraction", "min_backbone_fraction", "max_coincident_fraction", "max_unknown_fraction"),
            *("max_residue_fraction", "max_clash_fraction"),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected 0 to 1")
        for name in ("min_length", "min_observed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("max_resolution", "max_ca_jump"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}, expected more than 0")
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}")
        for name in ("released_from", "released_before"):
            value = getattr(self, name)
            if value is not None and not is_date(value):
                raise ValueError(f"{name} is {value}, expected a date as 2020-05-01")
        first, end = self.released_from, self.released_before
        if first is not None and end is not None and first >= end:
            raise ValueError(f"released_before is {end}, expected a day after released_from, {first}")
        unknown = [name for name in self.methods or () if name not in METHODS]
        if unknown:
            raise ValueError(f"methods has {unknown[0]}, expected some of {', '.join(METHODS)}")


def rejection(record: ProteinRecord, settings: FilterSettings, clashing: float = 0.0) -> str | None:
    """Why a chain is left out, None if it is not: ``what: value (threshold)``, the first test that it fails.

    ``clashing`` is the share of its atoms that clash, see ``clashes.clashing_fractions``. ``unique_sequences`` is not
    a property of one chain: ``repeated_sequences`` decides it.
    """
    for test in _TESTS:
        reason = test(record, settings)
        if reason is not None:
            return reason
    if settings.max_clash_fraction is not None and clashing > settings.max_clash_fraction:
        return f"clashes: {clashing:.0%} of the atoms (maximum {settings.max_clash_fraction:.0%})"
    return None


def methods_of(record: ProteinRecord) -> frozenset[str]:
    """Kinds of experiment that the file states, of ``METHODS``; empty if it states none."""
    stated = [part.strip() for part in (record.method or "").split(";") if part.strip()]
    return frozenset(
        next((kind for word, kind in _METHOD_WORDS.items() if word in method), "other") for method in stated
    )


def _length(record: ProteinRecord, settings: FilterSettings) -> str | None:
    length = len(record)
    if length < settings.min_length:
        return f"too short: {length} residues (minimum {settings.min_length})"
    if settings.max_length is not None and length > settings.max_length:
        return f"too long: {length} residues (maximum {settings.max_length})"
    return None


def _resolution(record: ProteinRecord, settings: FilterSettings) -> str | None:
    if settings.max_resolution is None:
        return None
    if record.resolution is None:
        unstated = f"resolution: none stated (maximum {settings.max_resolution:g} A)"
        return None if settings.keep_unstated_resolution else unstated
    if record.resolution > settings.max_resolution:
        return f"resolution: {record.resolution:g} A (maximum {settings.max_resolution:g} A)"
    return None


def _method(record: ProteinRecord, settings: FilterSettings) -> str | None:
    if settings.methods is None or methods_of(record) & set(settings.methods):
        return None
    return f"method: {record.method or 'none stated'} (wanted {', '.join(settings.methods)})"


def _release(record: ProteinRecord, settings: FilterSettings) -> str | None:
    if settings.released_from is None and settings.released_before is None:
        return None
    if record.release_date is None:
        return "release date: none stated"
    if settings.released_from is not None and record.release_date < settings.released_from:
        return f"released too early: {record.release_date} (from {settings.released_from})"
    if settings.released_before is not None and record.release_date >= settings.released_before:
        return f"released too late: {record.release_date} (before {settings.released_before})"
    return None


def _observed(record: ProteinRecord, settings: FilterSettings) -> str | None:
    # Shares are quotients, which are the threshold exactly where they are equal to it; products are not.
    n_ca, length = int(record.ca_mask.sum()), len(record)
    share = n_ca / length
    if share < settings.min_ca_fraction or n_ca == 0:
        return f"too few alpha carbons: {n_ca} of {length}, {share:.0%} (minimum {settings.min_ca_fraction:.0%})"
    if n_ca < settings.min_observed:
        return f"too few residues observed: {n_ca} (minimum {settings.min_observed})"
    n_backbone = int(record.atom37_mask[:, _BACKBONE].all(axis=1).sum())
    share = n_backbone / n_ca
    if share < settings.min_backbone_fraction:
        return (
            f"backbone incomplete: N, CA and C in {n_backbone} of {n_ca} residues with an alpha carbon, {share:.0%} "
            f"(minimum {settings.min_backbone_fraction:.0%})"
        )
    return None


def _places(record: ProteinRecord, settings: FilterSettings) -> str | None:
    _, count = np.unique(record.ca_positions[record.ca_mask], axis=0, return_counts=True)
    shared, n_ca = int(count[count > 1].sum()), int(count.sum())
    if shared / n_ca > settings.max_coincident_fraction:
        maximum = f"(maximum {settings.max_coincident_fraction:.0%})"
        return f"alpha carbons at one place: {shared} of {n_ca}, {shared / n_ca:.0%} {maximum}"
    return None


def _composition(record: ProteinRecord, settings: FilterSettings) -> str | None:
    length, unknown = len(record), record.sequence.count("X")
    share = unknown / length
    if share > settings.max_unknown_fraction:
        return f"unknown residues: {unknown} of {length}, {share:.0%} (maximum {settings.max_unknown_fraction:.0%})"
    if settings.max_residue_fraction is not None:
        letter, count = Counter(record.sequence).most_common(1)[0]
        share = count / length
        if share > settings.max_residue_fraction:
            maximum = f"(maximum {settings.max_residue_fraction:.0%})"
            return f"mostly one residue: {letter} is {count} of {length}, {share:.0%} {maximum}"
    return None


def _jumps(record: ProteinRecord, settings: FilterSettings) -> str | None:
    if settings.max_ca_jump is None:
        return None
    consecutive = record.ca_mask[1:] & record.ca_mask[:-1] & (np.diff(record.residue_index) == 1)
    steps = np.diff(thousandths(record.ca_positions), axis=0)
    longest = float(np.sqrt((steps**2).sum(axis=1))[consecutive].max(initial=0.0)) / PER_ANGSTROM
    if longest > settings.max_ca_jump:
        return f"jump between consecutive alpha carbons: {longest:.1f} A (maximum {settings.max_ca_jump:g} A)"
    return None


_TESTS: tuple[Callable[[ProteinRecord, FilterSettings], str | None], ...] = (
    *(_length, _resolution, _method, _release, _observed, _places, _composition, _jumps),
)


@dataclass(frozen=True)
class Recipe:
    """Filter settings under a name."""

    source: str
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Values of ``FilterSettings`` that differ from its defaults."""

    def settings(self, **changes: Any) -> FilterSettings:
        """The recipe's settings, with some of them changed."""
        return FilterSettings(**{**self.filters, **changes})


RECIPES: dict[str, Recipe] = {
    "none": Recipe("our own: only what cannot be learnt from is left out"),
    "openfold": Recipe(
        "Ahdritz et al. 2024 after Jumper et al. 2021, suppl. 1.2.5: at most 9 A, no residue type above 80%",
        {"max_resolution": 9.0, "keep_unstated_resolution": True, "max_residue_fraction": 0.8},
    ),
    "esmfold": Recipe(
        "Lin et al. 2023, as others report it: released up to 2020-05-01. Its supplement, which may state limits of "
        "resolution, length and composition, was not at hand: give these as options",
        {"released_before": "2020-05-02"},
    ),
    "boltz": Recipe(
        "Wohlwend et al. 2024 after Abramson et al. 2024, suppl. 2.5.4: released up to 2021-09-30, at most 9 A, 4 "
        "residues observed, not all unknown, at most 5,000 residues, no jump above 10 A between consecutive alpha "
        "carbons, at most 30% of the atoms within 1.7 A of another chain",
        {
            "max_resolution": 9.0,
            "keep_unstated_resolution": True,
            "min_length": 4,
            "max_length": 5000,
            "min_observed": 4,
            "min_ca_fraction": 0.0,
            "max_unknown_fraction": 0.9999,  # one residue of 5,000 may be known
            "released_before": "2021-10-01",
            "max_ca_jump": 10.0,
            "max_clash_fraction": 0.3,
        },
    ),
}
"""By the name that ``--recipe`` takes."""
