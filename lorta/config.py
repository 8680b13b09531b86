"""LortaConfig: what an adapter is, checked when it is made."""

import math
from dataclasses import dataclass
from typing import ClassVar

from lorta.settings import Settings, one_of, seed_or_none, whole_number

ROLES = ("q", "k", "v", "o")
"""Query, key, value and output projection: the paper's matrix mode, in the order of its rows."""

ALL_ROLES = (*ROLES, "up", "gate", "down")
"""The linear maps of a layer: attention, then the feed-forward, whose gate only some models have."""

ALL_LINEAR = "all-linear"
"""Short for ``ALL_ROLES``, as PEFT has it; the one form in which a model may lack a role."""

MODES = ("heads", "matrices", "layers")
"""What one CP tensor may span besides the two widths of a matrix."""

AXES = ("paper", "input", "output", "litgpt")


@dataclass(frozen=True)
class Method:
    """What a method takes besides r, alpha, targets, dropout and seed."""

    inits: tuple[str, ...] = ("official",)
    """Its starts; the first is the default."""
    alpha: float | None = None
    """Default alpha; ``None``: r, so that the scale is 1."""
    settings: tuple[str, ...] = ()
    """Further fields of LortaConfig that it has."""


METHODS = {
    "lorta": Method(inits=("balanced", "official", "unit"), settings=("modes", "axis")),
    "lora": Method(inits=("official", "unit")),
    "lora-fa": Method(inits=("official", "unit")),
    "vera": Method(),
    "nola": Method(settings=("bases",)),
    "lotr": Method(alpha=1.0),
    "fact-tt": Method(),
    "fact-tk": Method(),
    "metatt-4d": Method(),
    "metatt-5d": Method(),
    "tenslora": Method(settings=("modes", "ranks")),
    "cara": Method(),
    "loretta-rep": Method(alpha=16.0, settings=("tt_rank",)),
    "tt-lora": Method(),
}
DEFAULTS = {"modes": MODES, "axis": "paper", "bases": 64, "tt_rank": 5, "ranks": ()}
"""Of the fields that only some methods have; ``None`` for the others."""


@dataclass(kw_only=True, eq=False)
class LortaConfig(Settings):
    """Settings of one adapter. Fixed; ``None`` fields are resolved on construction, so a saved one is complete.

    Every wrong value is a one-line ``ValueError`` that names the field. Once PEFT is imported, a new instance is a
    ``peft.PeftConfig`` as well (``lorta.peft_plugin``) and takes PEFT's fields, such as ``task_type`` and
    ``modules_to_save``. Two configs are equal when their settings are.
    """

    with_peft: ClassVar[type["LortaConfig"] | None] = None

    method: str = "lorta"
    """Name of the decomposition, see ``METHODS`` and docs/adapters.md."""
    r: int = 8
    """Rank: the number of CP components of a tensor; of a LoRA pair, its inner width."""
    alpha: float | None = None
    """Updates are scaled by alpha / r. Default: r (a scale of 1), or the paper's 16 with LoRTA's official init."""
    targets: tuple[str, ...] | str = ROLES
    """Roles that are adapted: q, k, v, o of the attention, up, gate, down of the feed-forward; ``"all-linear"`` is all
    that the model has. M, the length of the matrix mode, counts a feed-forward matrix once for every slice of d."""
    modes: tuple[str, ...] | None = None
    """``lorta``, ``tenslora``: what a tensor spans (paper, Table 2). All three: one tensor for the model. ``("heads",
    "matrices")``: one per layer. ``("heads",)``: one per matrix. Default: all three."""
    axis: str | None = None
    """``lorta``: the side of a matrix that has the heads. ``paper`` (default): output of q, k, v and input of o.
    ``input`` or ``output`` of all four, and ``litgpt``, the output with q, k and v scrambled: the authors' codes, for
    their checkpoints (``lorta.load_official``)."""
    bases: int | None = None
    """``nola``: random bases per matrix. Default 64."""
    tt_rank: int | None = None
    """``loretta-rep``: rank of the tensor trains. Default 5."""
    init: str | None = None
    """``lorta``: ``balanced`` (default), ``official`` or ``unit``, see ``lorta.cp``. ``lora``, ``lora-fa``:
    ``official`` (default) or ``unit``. The other methods have one start."""
    ranks: tuple[tuple[str, int], ...] | None = None
    """``tenslora``: rank of single modes, ``{"out": 16, "heads": 4}`` (modes: in, out, heads, matrices, layers). Of the
    others, and by default of all: r, or the length of the mode where that is less."""
    freeze: tuple[str, ...] = ()
    """Factors that keep their start instead of training, by the names of docs/adapters.md: ``("A",)`` of ``lora`` is
    LoRA-FA."""
    dropout: float = 0.0
    """Probability with which an element of the update's input is dropped in training mode."""
    seed: int | None = None
    """Seed of the initial factors, the same on every device; ``None`` takes torch's global generator."""

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        whole_number("r", self.r, 1)
        everything = self.targets in (ALL_LINEAR, (ALL_LINEAR,), [ALL_LINEAR])
        self._resolve("targets", ALL_ROLES if everything else _subset("targets", self.targets, ALL_ROLES))
        if not self.targets:
            raise ValueError(f"targets is empty; name at least one of {', '.join(ALL_ROLES)}")
        method = METHODS[self.method]
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if name in method.settings:
                self._resolve(name, default if value is None else value)
            elif value is not None:
                owners = ", ".join(key for key, other in METHODS.items() if name in other.settings)
                raise ValueError(f"{name} is a setting of {owners}, not of {self.method!r}; leave it out")
        if self.modes is not None:
            self._resolve("modes", _subset("modes", self.modes, MODES))
        if self.axis is not None:
            one_of("axis", self.axis, AXES)
        for name in ("bases", "tt_rank"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1)
        if self.ranks is not None:
            self._resolve("ranks", _ranks(self.ranks, ("in", "out", *self.modes)))
        named = isinstance(self.freeze, (tuple, list)) and all(isinstance(name, str) for name in self.freeze)
        if not named:
            raise ValueError(f"freeze must be a tuple of names of factors, got {self.freeze!r}")
        self._resolve("freeze", tuple(sorted(set(self.freeze))))
        self._resolve("init", self.init or method.inits[0])
        one_of("init", self.init, method.inits)
        if self.alpha is None:
            official = (self.method, self.init) == ("lorta", "official")
            self._resolve("alpha", 16.0 if official else method.alpha or float(self.r))
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, got {self.alpha!r}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        seed_or_none(self.seed)
        self._finish()

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return self.alpha / self.r


def _subset(name: str, values: object, choices: tuple[str, ...]) -> tuple[str, ...]:
    """``values`` in the order of ``choices``: the order in which they were written carries no meaning."""
    if isinstance(values, str) or not isinstance(values, (tuple, list)):
        short = f", or {ALL_LINEAR!r}" if name == "targets" else ""
        raise ValueError(f"{name} must be a tuple of names out of {', '.join(choices)}{short}, got {values!r}")
    for value in values:
        one_of(f"an entry of {name}", value, choices)
    if len(set(values)) != len(values):
        raise ValueError(f"{name} has a repeated entry: {values!r}")
    return tuple(choice for choice in choices if choice in values)


def _ranks(values: object, modes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Pairs of mode and rank in the order of ``modes``, from a mapping or from pairs, as JSON gives them back."""
    try:
        given = dict(values)
    except (TypeError, ValueError):
        raise ValueError(f'ranks must map modes to ranks, {{"out": 16}}, got {values!r}') from None
    for mode, rank in given.items():
        one_of("a mode of ranks", mode, modes)
        whole_number(f"the rank of {mode!r}", rank, 1)
    return tuple((mode, given[mode]) for mode in modes if mode in given)
