"""InsertConfig: settings of the methods that add something behind modules instead of updating their weights."""

from dataclasses import dataclass
from typing import ClassVar

from lorta.settings import Settings, one_of, seed_or_none, whole_number


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


@dataclass(kw_only=True, eq=False)
class InsertConfig(Settings):
    """Settings of one such adapter. Fixed; ``None`` fields take the method's default on construction.

    A wrong value, or a setting that the method does not have, is a one-line ``ValueError``. With PEFT imported a new
    instance is a ``peft.PeftConfig`` as well, as ``LortaConfig`` is.
    """

    with_peft: ClassVar[type["InsertConfig"] | None] = None

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
        one_of("method", self.method, INSERT_METHODS)
        method = INSERT_METHODS[self.method]
        for name, least in (("size", 1), ("tt_rank", 1), ("drop", 0)):
            value, default = getattr(self, name), getattr(method, name)
            if default is None and value is not None:
                owners = ", ".join(key for key, other in INSERT_METHODS.items() if getattr(other, name) is not None)
                raise ValueError(f"{name} is a setting of {owners}, not of {self.method!r}; leave it out")
            if value is None:
                self._resolve(name, default)
            else:
                whole_number(name, value, least)
        seed_or_none(self.seed)
        self._finish()
