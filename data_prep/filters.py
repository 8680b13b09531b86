"""Which chains are worth training on: thresholds, and the reason with value and threshold for each rejection."""

from dataclasses import dataclass

from data_prep.record import ProteinRecord
from data_prep.residues import ATOM37_INDEX

_BACKBONE = [ATOM37_INDEX[name] for name in ("N", "CA", "C")]


@dataclass(frozen=True)
class FilterSettings:
    """Permissive by default: what is left out could not be learnt from at all."""

    min_length: int = 20
    """Residues of the sequence, observed or not; shorter peptides have no fold of their own."""
    max_length: int | None = None
    min_ca_fraction: float = 0.1
    """Residues with an alpha carbon / residues of the sequence."""
    min_backbone_fraction: float = 0.5
    """Residues with N, CA and C / residues with an alpha carbon: a chain of alpha carbons alone has no frames."""
    max_unknown_fraction: float = 0.5
    """X / residues of the sequence."""
    max_resolution: float | None = None
    """angstrom; if given, a chain without a stated resolution (NMR, predictions) is left out too."""

    def __post_init__(self) -> None:
        for name in ("min_ca_fraction", "min_backbone_fraction", "max_unknown_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}")


def rejection(record: ProteinRecord, settings: FilterSettings) -> str | None:
    """Why a chain is left out, None if it is not: ``what: value (threshold)``, the first test that it fails."""
    length = len(record)
    if length < settings.min_length:
        return f"too short: {length} residues (minimum {settings.min_length})"
    if settings.max_length is not None and length > settings.max_length:
        return f"too long: {length} residues (maximum {settings.max_length})"
    if settings.max_resolution is not None:
        if record.resolution is None:
            return f"resolution: none stated (maximum {settings.max_resolution:g} A)"
        if record.resolution > settings.max_resolution:
            return f"resolution: {record.resolution:g} A (maximum {settings.max_resolution:g} A)"
    n_ca = int(record.ca_mask.sum())
    if n_ca < settings.min_ca_fraction * length or n_ca == 0:
        share = n_ca / length
        return f"too few alpha carbons: {n_ca} of {length}, {share:.0%} (minimum {settings.min_ca_fraction:.0%})"
    n_backbone = int(record.atom37_mask[:, _BACKBONE].all(axis=1).sum())
    if n_backbone < settings.min_backbone_fraction * n_ca:
        share = n_backbone / n_ca
        return (
            f"backbone incomplete: N, CA and C in {n_backbone} of {n_ca} residues with an alpha carbon, {share:.0%} "
            f"(minimum {settings.min_backbone_fraction:.0%})"
        )
    unknown = record.sequence.count("X")
    if unknown > settings.max_unknown_fraction * length:
        share = unknown / length
        return f"unknown residues: {unknown} of {length}, {share:.0%} (maximum {settings.max_unknown_fraction:.0%})"
    return None
