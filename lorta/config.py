"""LortaConfig: what an adapter is, checked when it is made."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

ROLES = ("q", "k", "v", "o")
"""Query, key, value and output projection: the paper's matrix mode, in the order of its rows."""

MODES = ("heads", "matrices", "layers")
"""What one CP tensor may span besides the two widths of a matrix."""

METHODS = ("lorta", "lora")
INITS = ("unit", "official")


@dataclass(frozen=True)
class LortaConfig:
    """Settings of one adapter. Frozen; ``None`` fields are resolved on construction, so a saved one is complete.

    Every wrong value is a one-line ``ValueError`` that names the field.
    """

    method: str = "lorta"
    """``lorta``: CP tensors (arXiv 2410.04060). ``lora``: an independent pair of factors per matrix (2106.09685)."""
    r: int = 8
    """Rank: the number of CP components of a tensor; of a LoRA pair, its inner width."""
    alpha: float | None = None
    """Updates are scaled by alpha / r. Default: r (a scale of 1), or the paper's 16 with LoRTA's official init."""
    targets: tuple[str, ...] = ROLES
    """Which projections are adapted; M = len(targets) is the length of the matrix mode."""
    modes: tuple[str, ...] | None = None
    """``lorta`` only: what a tensor spans (paper, Table 2). All three: one tensor for the model. ``("heads",
    "matrices")``: one per layer. ``("heads",)``: one per matrix. Default: all three."""
    init: str | None = None
    """``unit`` (default of lorta) or ``official`` (default of lora); see ``lorta.factors``."""
    dropout: float = 0.0
    """Probability with which an element of the update's input is dropped in training mode."""
    seed: int | None = None
    """Seed of the initial factors, the same on every device; ``None`` takes torch's global generator."""

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"r must be a positive whole number, got {self.r!r}")
        self._resolve("targets", _subset("targets", self.targets, ROLES))
        if not self.targets:
            raise ValueError(f"targets is empty; name at least one of {', '.join(ROLES)}")
        if self.method == "lorta":
            self._resolve("modes", _subset("modes", MODES if self.modes is None else self.modes, MODES))
        elif self.modes is not None:
            raise ValueError(f"modes is a setting of method 'lorta', not of {self.method!r}; leave it out")
        self._resolve("init", self.init or ("official" if self.method == "lora" else "unit"))
        _one_of("init", self.init, INITS)
        if self.alpha is None:
            self._resolve("alpha", 16.0 if (self.method, self.init) == ("lorta", "official") else float(self.r))
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, got {self.alpha!r}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise ValueError(f"seed must be a whole number or None, got {self.seed!r}")

    def _resolve(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one place where a frozen field is set

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return self.alpha / self.r

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LortaConfig":
        """The config of a saved dictionary; an unknown key is a ``ValueError``."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown setting {unknown[0]!r}; LortaConfig has {', '.join(sorted(known))}")
        return cls(**values)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _subset(name: str, values: object, choices: tuple[str, ...]) -> tuple[str, ...]:
    """``values`` in the order of ``choices``: the order in which they were written carries no meaning."""
    if isinstance(values, str) or not isinstance(values, (tuple, list)):
        raise ValueError(f"{name} must be a tuple of names out of {', '.join(choices)}, got {values!r}")
    for value in values:
        _one_of(f"an entry of {name}", value, choices)
    if len(set(values)) != len(values):
        raise ValueError(f"{name} has a repeated entry: {values!r}")
    return tuple(choice for choice in choices if choice in values)
