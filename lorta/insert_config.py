"""InsertConfig: settings of the methods that add something behind modules instead of updating their weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class InsertMethod:
    """Which settings a method takes besides ``seed``, and their defaults."""

    size: int | None = None
    """Inner width of its bottlenecks; ``None``: it has none."""
    tt_rank: int | None = None
    """Rank of its tensor trains; ``None``: it has none."""
    drop: int | None = None
    """Lower layers that it leaves out; ``None``: none, and no choice."""


INSERT_METHODS = {
    "bitfit": InsertMethod(),
    "houlsby": InsertMethod(size=64),
    "pfeiffer": InsertMethod(size=64),
    "adapterdrop": InsertMethod(size=64, drop=5),
    "loretta-adp": InsertMethod(size=64, tt_rank=5),
}


@dataclass(frozen=True, kw_only=True)
class InsertConfig:
    """Settings of one such adapter; ``None`` fields take the method's default on construction.

    A wrong value, or a setting that the method does not have, is a one-line ``ValueError``.
    """

    method: str
    size: int | None = None
    """Inner width of a bottleneck. Default 64."""
    tt_rank: int | None = None
    """``loretta-adp``: rank of the tensor trains. Default 5."""
    drop: int | None = None
    """``adapterdrop``: how many of the lower layers get no bottleneck. Default 5."""
    seed: int | None = None
    """Seed of the initial numbers, the same on every device; ``None`` takes torch's global generator."""

    def __post_init__(self) -> None:
        if self.method not in INSERT_METHODS:
            raise ValueError(f"method must be one of {', '.join(INSERT_METHODS)}, got {self.method!r}")
        method = INSERT_METHODS[self.method]
        for name, least in (("size", 1), ("tt_rank", 1), ("drop", 0)):
            value, default = getattr(self, name), getattr(method, name)
            if default is None and value is not None:
                owners = ", ".join(key for key, other in INSERT_METHODS.items() if getattr(other, name) is not None)
                raise ValueError(f"{name} is a setting of {owners}, not of {self.method!r}; leave it out")
            if value is None:
                object.__setattr__(self, name, default)
            elif isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise ValueError(f"seed must be a whole number or None, got {self.seed!r}")

    def settings(self) -> dict[str, Any]:
        """All fields; JSON writes them and ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "InsertConfig":
        """The config of ``values``; an unknown key is a ``ValueError``."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no setting of {values.get('method')}; there are {', '.join(sorted(known))}"
            )
        return cls(**values)
