"""Settings: what the configs of all adapters share. They are checked when made, fixed from then on, and complete."""

from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar, Self


@dataclass(kw_only=True, eq=False)
class Settings:
    """Base of ``LortaConfig`` and ``InsertConfig``, which set ``with_peft`` and check their fields.

    Not ``dataclass(frozen=True)``: PEFT writes its own fields into its configs. Ours are fixed all the same.
    """

    with_peft: ClassVar[type["Settings"] | None] = None
    """The subclass that is a ``peft.PeftConfig`` too; set when the tuner is registered."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """One call for both: with PEFT imported, an instance of ``with_peft``."""
        return super().__new__(cls.__dict__.get("with_peft") or cls)

    def _resolve(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one place where a checked field is set

    def _finish(self) -> None:
        """From here on the fields are fixed."""
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
        """The class without PEFT."""
        return next(base for base in cls.__mro__ if "with_peft" in base.__dict__)

    def settings(self) -> dict[str, Any]:
        """The fields without PEFT's; JSON writes them and ``from_dict`` reads them back."""
        return {field.name: getattr(self, field.name) for field in fields(self._plain())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config of saved ``settings()``; an unknown key is a ``ValueError``."""
        known = {field.name for field in fields(cls._plain())}
        unknown = sorted(set(values) - known)
        if unknown:
            method = values.get("method", "lorta")
            raise ValueError(f"{unknown[0]!r} is no setting of {method!r}; there are {', '.join(sorted(known))}")
        return cls(**values)


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def whole_number(name: str, value: object, least: int) -> None:
    """``ValueError`` unless ``value`` is a whole number of at least ``least``; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def seed_or_none(seed: object) -> None:
    """``ValueError`` unless ``seed`` is None or a whole number that torch's generators take."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of 64 bits or None, got {seed!r}")
