"""The configuration of a run from TOML and command line, and back.

Layers, later ones win: the defaults of ``pipeline.config.schema``, a preset (``pipeline/presets/*.toml``), a file
(``--config``), dotted options (``--trunk.blocks 4``) and the named options of the command. The resolved configuration
is written to the run directory.
"""

import ast
import difflib
import inspect
import itertools
import json
import os
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from data_prep.files.bounded_reading import read_document
from data_prep.files.command_line import program
from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.config.schema import ConfigError, RunConfig

Resolved = TypeVar("Resolved")
"""The class of a resolved configuration."""


RETIRED_FIELDS = ("training.kernels",)
"""Fields of earlier versions: left out of a configuration that has them, such as that of an old run."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return bundled_names("pipeline", "presets", ".toml")


def preset_layer(name: str) -> dict[str, Any]:
    """The values that a preset sets, over those of the one that it ``extends``. Raises ConfigError: unknown name."""
    if name not in preset_names():
        raise ConfigError(f"preset {name!r} is unknown: one of {', '.join(preset_names())}")
    own = tomllib.loads(bundled_text("pipeline", "presets", f"{name}.toml"))
    base = own.pop("extends", None)
    return own if base is None else merge(preset_layer(base), own)


def file_layer(path: Path) -> dict[str, Any]:
    """The values that a TOML file sets. Raises ConfigError when it cannot be read."""
    try:
        return tomllib.loads(read_document(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: not TOML of a configuration: nested too deeply") from None


def dotted_layer(arguments: Sequence[str], kind: type | None = None) -> dict[str, Any]:
    """Options such as ``--trunk.blocks 4`` or ``--trunk.blocks=4`` as a nested dictionary.

    Values are TOML values (``4``, ``1e-3``, ``true``); what is not one is a string. Raises ConfigError: another option,
    with the fields of ``kind``, if given, that it may mean.
    """
    layer: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        name, equals, text = option.partition("=")
        if not name.startswith("--") or "." not in name:
            close = " or ".join(f"--{field}" for field in _fields_like(name.removeprefix("--"), kind)) if kind else ""
            hint = f"did you mean {close}?" if close else "see --help; fields of the configuration are --section.field"
            raise ConfigError(f"unknown option {option!r}: {hint}")
        if not equals:
            if not rest:
                raise ConfigError(f"option {name} needs a value")
            text = rest.pop(0)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        nested = value
        for key in reversed(name[2:].split(".")):
            nested = {key: nested}
        layer = merge(layer, nested)
    return layer


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` put over it, section by section.

    Raises ConfigError where one has a section and the other a value: what comes later would hide the mistake.
    """
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key, {}), Mapping):
            merged[key] = merge(merged.get(key, {}), value)
        elif isinstance(value, Mapping) or isinstance(merged.get(key), Mapping):
            other = merged[key] if isinstance(value, Mapping) else value
            raise ConfigError(f"configuration: {key} is a section with fields of its own, found {other!r}")
        else:
            merged[key] = value
    return merged


def has_field(layer: Mapping[str, Any], name: str) -> bool:
    """Whether a layer sets the field of this dotted name, or something in it."""
    here: Any = layer
    for key in name.split("."):
        if not isinstance(here, Mapping) or key not in here:
            return False
        here = here[key]
    return True


def resolve(*layers: Mapping[str, Any], kind: type[Resolved] = RunConfig) -> Resolved:  # type: ignore[assignment]
    """The configuration ``kind`` from layers of nested dictionaries, later ones win. Raises ConfigError."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, layer)
    if kind is RunConfig:
        for section, name in (field.split(".") for field in RETIRED_FIELDS):
            if isinstance(values.get(section), dict):
                values[section].pop(name, None)
    try:
        # Through JSON: in strict mode pydantic takes sections from JSON objects, from Python dictionaries it does not.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(_explain(error, kind)) from error


def _explain(error: ValidationError, kind: type) -> str:
    """One line for the first problem of a validation."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(path[:-1], kind)
        close = difflib.get_close_matches(path[-1], known, n=1) or _fields_like(name, kind)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"configuration: unknown key {name!r}: {hint}"
    if not path or first["type"] == "value_error":  # of a whole section, whose other values say nothing
        return f"configuration: {first['msg'].removeprefix('Value error, ')}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"configuration: {name} = {first['input']!r}: {message}"


def _known_keys(section: Sequence[str], kind: Any) -> list[str]:
    for part in section:
        kind = next((f.type for f in fields(kind) if f.name == part), None)
        if not is_dataclass(kind):
            return []
    return [f.name for f in fields(kind)]


def _fields_like(name: str, kind: type) -> list[str]:
    """Dotted names of the fields in any section that end as ``name`` does, or else nearly so."""
    names = _field_names(kind)
    last = name.rpartition(".")[2].replace("-", "_")
    ends = {field.rpartition(".")[2] for field in names}
    wanted = [last] if last in ends else difflib.get_close_matches(last, ends, n=1)
    return [field for field in names if field.rpartition(".")[2] in wanted]


def _field_names(kind: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for item in fields(kind):
        name = f"{prefix}{item.name}"
        names += _field_names(item.type, f"{name}.") if is_dataclass(item.type) else [name]
    return names


def to_toml(config: Any) -> str:
    """The resolved configuration as TOML; ``resolve(tomllib.loads(text))`` gives it back."""
    return tomli_w.dumps(asdict(config))


def with_absolute_paths(config: RunConfig, is_name: Callable[[str], bool]) -> RunConfig:
    """Return the configuration with paths that hold in every working directory; what ``is_name`` says is none stays."""

    def absolute(value: str) -> str:
        path = os.path.expanduser(value)
        return value if not value or (not os.path.exists(path) and is_name(value)) else os.path.abspath(path)

    return replace(
        config,
        stem=replace(config.stem, weights=absolute(config.stem.weights)),
        init=replace(config.init, weights=absolute(config.init.weights)),
        data=replace(config.data, extra=absolute(config.data.extra)),
        training=replace(config.training, panel=absolute(config.training.panel)),
    )


def config_file_text(config: Any) -> str:
    """What a configuration file holds: the resolved values below a comment that says what wrote them."""
    return f"# Written by {program()}.\n\n{to_toml(config)}"


def dotted_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field of a configuration by its dotted name, as the options of the commands have it."""
    values: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        name = f"{prefix}{item.name}"
        values |= dotted_values(value, f"{name}.") if is_dataclass(value) else {name: value}
    return values


def describe_fields(kind: type = RunConfig) -> str:
    """Every field of a configuration with its default and what is said of it there, for ``--help``."""
    lines = []

    def walk(kind: Any, prefix: str) -> None:
        said = _field_docstrings(kind)
        for item in fields(kind):
            if is_dataclass(item.type):
                walk(item.type, f"{prefix}{item.name}.")
                continue
            default = item.default if item.default_factory is MISSING else item.default_factory()
            lines.append(f"  --{prefix}{item.name} (default {default!r})")
            text = " ".join(said.get(item.name, "").replace("``", "").split())
            lines.extend(textwrap.wrap(text, 100, initial_indent="        ", subsequent_indent="        "))

    walk(kind, "")
    return "\n".join(lines)


def _field_docstrings(kind: type) -> dict[str, str]:
    """The string after each field of a class, by field: Python does not keep them."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    found: dict[str, str] = {}
    if not isinstance(node, ast.ClassDef):
        raise TypeError(f"{kind} is not a class")
    for item, after in itertools.pairwise(node.body):
        match item, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found
