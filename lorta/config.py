"""What an adapter is: its method and settings, checked when they are made. Needs neither torch nor PEFT.

``LortaConfig`` is for methods that update the weights of linear maps, ``OutputAdapterConfig`` for those that act on the
outputs of modules. ``WEIGHT_METHODS`` and ``OUTPUT_METHODS`` say which settings each method has.
"""

import math
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar, Self

ROLES = ("q", "k", "v", "o")
"""Query, key, value and output projection: the paper's matrix mode, in the order of its rows."""

ALL_ROLES = (*ROLES, "up", "gate", "down")
"""The linear maps of a layer: attention, then the feed-forward, whose gate only some models have."""

ALL_LINEAR = "all-linear"
"""Short for ``ALL_ROLES``, as PEFT has it; the one form in which a model may lack a role."""

MODES = ("heads", "matrices", "layers")
"""What one CP tensor may span besides the two widths of a matrix."""

AXES = ("paper", "input", "output")


@dataclass(frozen=True)
class WeightMethod:
    """What a method of ``LortaConfig`` takes besides r, alpha, targets, dropout and seed."""

    inits: tuple[str, ...] = ("official",)
    """Its starts; the first is the default."""
    alpha: float | None = None
    """Default alpha; ``None``: r, so that the scale is 1."""
    settings: tuple[str, ...] = ()
    """Further fields of LortaConfig that it has."""


WEIGHT_METHODS = {
    "lorta": WeightMethod(inits=("balanced", "official", "unit"), settings=("modes", "axis")),
    "lora": WeightMethod(inits=("official", "unit")),
    "lora-fa": WeightMethod(inits=("official", "unit")),
    "vera": WeightMethod(),
    "nola": WeightMethod(settings=("bases",)),
    "lotr": WeightMethod(alpha=1.0),
    "fact-tt": WeightMethod(),
    "fact-tk": WeightMethod(),
    "metatt-4d": WeightMethod(),
    "metatt-5d": WeightMethod(),
    "tenslora": WeightMethod(settings=("modes", "ranks")),
    "cara": WeightMethod(),
    "loretta-rep": WeightMethod(alpha=16.0, settings=("tt_rank",)),
    "tt-lora": WeightMethod(),
}
"""Methods that update weights; their classes are in ``lorta.methods``."""

DEFAULTS = {"modes": MODES, "axis": "paper", "bases": 64, "tt_rank": 5, "ranks": ()}
"""Of the fields that only some of them have; ``None`` for the others."""

OUTPUT_METHODS: dict[str, dict[str, int]] = {
    "bitfit": {},
    "houlsby": {"size": 64},
    "pfeiffer": {"size": 64},
    "adapterdrop": {"size": 64, "drop": 5},
    "loretta-adp": {"size": 64, "tt_rank": 5},
}
"""Methods that act on outputs, with their settings and defaults; their classes are in ``lorta.outputs``."""

METHODS_OF_PEFT = {
    "adalora": ("total_step", "tinit", "tfinal", "deltaT", "init_r", "beta1", "beta2", "orth_reg_weight"),
    "dora": (),
}
"""Methods that PEFT has, and their settings besides r, alpha, targets and dropout; ``lorta.peft_config`` makes them."""

PEFT_METHODS = (*WEIGHT_METHODS, *OUTPUT_METHODS, *METHODS_OF_PEFT)
"""Every name that ``lorta.peft_config`` takes."""


@dataclass(kw_only=True, eq=False)
class Settings:
    """Base of both configs: fixed and complete once made, equal when the settings are.

    Not ``dataclass(frozen=True)``: PEFT writes its own fields into its configs. Ours are fixed all the same.
    """

    with_peft: ClassVar[type["Settings"] | None] = None
    """The subclass that is a ``peft.PeftConfig`` too; set by ``lorta.peft``."""

    method: str

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Return an instance of ``with_peft`` where there is one, so that one call serves with and without PEFT."""
        return super().__new__(cls.__dict__.get("with_peft") or cls)

    def _resolve(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one place where a checked field is set

    def _finish(self) -> None:
        """Fix the fields from here on."""
        self.__dict__["_complete"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_complete" in self.__dict__ and name in self.settings():
            plain = self._plain().__name__
            raise FrozenInstanceError(f"{name} is fixed, an adapter may be built from it; make another {plain}")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self._plain()) and self.settings() == other.settings()

    def __hash__(self) -> int:
        return hash(tuple(self.settings().values()))

    @classmethod
    def _plain(cls) -> type["Settings"]:
        """Return the class without PEFT."""
        return next(base for base in cls.__mro__ if "with_peft" in base.__dict__)

    def settings(self) -> dict[str, Any]:
        """Return the fields without PEFT's; JSON writes them and ``from_dict`` reads them back."""
        return {field.name: getattr(self, field.name) for field in fields(self._plain())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the config of saved ``settings()``; an unknown key is a ``ValueError``."""
        known = {field.name for field in fields(cls._plain())}
        unknown = sorted(set(values) - known)
        if unknown:
            method = values.get("method", "lorta")
            raise ValueError(f"{unknown[0]!r} is no setting of {method!r}; there are {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(kw_only=True, eq=False)
class LortaConfig(Settings):
    """Settings of one adapter that updates weights. ``None`` fields are resolved, so a saved config is complete.

    Every wrong value is a one-line ``ValueError`` that names the field. Once PEFT is imported, a new instance is a
    ``peft.PeftConfig`` as well (``lorta.peft``) and takes PEFT's fields, such as ``task_type`` and
    ``modules_to_save``.
    """

    with_peft: ClassVar[type[Settings] | None] = None

    method: str = "lorta"
    """Name of the decomposition, see ``WEIGHT_METHODS`` and docs/adapters.md."""
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
    """``lorta``: the side of a matrix that has the heads. ``paper`` (default): output of q, k, v and input of o;
    ``input`` or ``output`` of all four, which must be square."""
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
        one_of("method", self.method, WEIGHT_METHODS)
        whole_number("r", self.r, 1)
        everything = self.targets in (ALL_LINEAR, (ALL_LINEAR,), [ALL_LINEAR])
        self._resolve("targets", ALL_ROLES if everything else _subset("targets", self.targets, ALL_ROLES))
        if not self.targets:
            raise ValueError(f"targets is empty; name at least one of {', '.join(ALL_ROLES)}")
        method = WEIGHT_METHODS[self.method]
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if name in method.settings:
                self._resolve(name, default if value is None else value)
            elif value is not None:
                _refuse(name, self.method, [key for key, other in WEIGHT_METHODS.items() if name in other.settings])
        if self.modes is not None:
            self._resolve("modes", _subset("modes", self.modes, MODES))
        if self.axis is not None:
            one_of("axis", self.axis, AXES)
        for name in ("bases", "tt_rank"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1)
        if self.ranks is not None:
            self._resolve("ranks", _ranks(self.ranks, ("in", "out", *(self.modes or ()))))
        if not isinstance(self.freeze, (tuple, list)) or not all(isinstance(name, str) for name in self.freeze):
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
        assert self.alpha is not None  # resolved
        return self.alpha / self.r

    def spans(self, mode: str) -> bool:
        """Return whether a tensor of this config has the mode ``mode``."""
        return self.modes is not None and mode in self.modes


@dataclass(kw_only=True, eq=False)
class OutputAdapterConfig(Settings):
    """Settings of one adapter that acts on the outputs of modules. ``None`` fields take the method's default.

    A wrong value, or a setting that the method does not have, is a one-line ``ValueError``. With PEFT imported a new
    instance is a ``peft.PeftConfig`` as well, as ``LortaConfig`` is.
    """

    with_peft: ClassVar[type[Settings] | None] = None

    method: str
    """One of ``OUTPUT_METHODS``."""
    size: int | None = None
    """Inner width of a bottleneck. Default 64."""
    tt_rank: int | None = None
    """``loretta-adp``: rank of the tensor trains. Default 5."""
    drop: int | None = None
    """``adapterdrop``: how many of the lower layers get no bottleneck. Default 5."""
    seed: int | None = None
    """Seed of the initial parameters, the same on every device; ``None`` takes torch's global generator."""

    def __post_init__(self) -> None:
        one_of("method", self.method, OUTPUT_METHODS)
        defaults = OUTPUT_METHODS[self.method]
        for name, least in (("size", 1), ("tt_rank", 1), ("drop", 0)):
            value = getattr(self, name)
            if value is None:
                self._resolve(name, defaults.get(name))
            elif name in defaults:
                whole_number(name, value, least)
            else:
                _refuse(name, self.method, [key for key, other in OUTPUT_METHODS.items() if name in other])
        seed_or_none(self.seed)
        self._finish()


def config_for(**settings: Any) -> LortaConfig | OutputAdapterConfig:
    """Return the config of ``settings``, of the class that ``method`` (default: ``lorta``) needs.

    One-line ``ValueError``: an unknown method, a setting that it does not have, a wrong value.
    """
    method = settings.get("method", "lorta")
    one_of("method", method, (*WEIGHT_METHODS, *OUTPUT_METHODS))
    return (OutputAdapterConfig if method in OUTPUT_METHODS else LortaConfig).from_dict(settings)


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def whole_number(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least ``least``; a truth value is not one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def seed_or_none(seed: object) -> None:
    """Raise ``ValueError`` unless ``seed`` is None or a whole number that torch's generators take."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of 64 bits or None, got {seed!r}")


def _refuse(name: str, method: str, owners: list[str]) -> None:
    raise ValueError(f"{name} is a setting of {', '.join(owners)}, not of {method!r}; leave it out")


def _subset(name: str, values: object, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``values`` in the order of ``choices``: the order in which they were written carries no meaning."""
    if not isinstance(values, (tuple, list)):
        short = f", or {ALL_LINEAR!r}" if name == "targets" else ""
        raise ValueError(f"{name} must be a tuple of names out of {', '.join(choices)}{short}, got {values!r}")
    for value in values:
        one_of(f"an entry of {name}", value, choices)
    if len(set(values)) != len(values):
        raise ValueError(f"{name} has a repeated entry: {values!r}")
    return tuple(choice for choice in choices if choice in values)


def _ranks(values: Any, modes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Return pairs of mode and rank in the order of ``modes``, from a mapping or from pairs, as JSON gives them."""
    try:
        given = dict(values)
    except (TypeError, ValueError):
        raise ValueError(f'ranks must map modes to ranks, {{"out": 16}}, got {values!r}') from None
    for mode, rank in given.items():
        one_of("a mode of ranks", mode, modes)
        whole_number(f"the rank of {mode!r}", rank, 1)
    return tuple((mode, given[mode]) for mode in modes if mode in given)
