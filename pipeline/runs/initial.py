"""Whole models that exist already, by name or as local files: to predict with, or to start training from.

``esmfold_v1`` is looked for where fair-esm and Hugging Face keep it, and downloaded if it is in neither place.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.esm2_weights import canonical_name, locate_weights, pretrained_file
from pipeline.folding.hub import DownloadError, cached_file, download, hugging_face_snapshot
from pipeline.folding.model import FoldingModel
from pipeline.folding.model_files import Converted, needs_stem, read, read_config
from pipeline.folding.weights import UNUSED, WeightsError, config_from_folding, model_from_state

MERGED_FILE = "model.safetensors"
"""In a directory of ``pipeline.export --to merged``, with ``model.toml`` beside it."""

PUBLISHED = {"esmfold_v1": "esmfold_3B_v1.pt", "esmfold_v0": "esmfold_3B_v0.pt"}
"""fair-esm's files by the names that its loaders and papers use."""

FREE_FIELDS = frozenset(
    (
        *("stem.weights", "trunk.checkpoint_blocks", "trunk.dropout", "trunk.structure_module.dropout"),
        *("trunk.chunk_size", "heads.masked_lm"),
    )
)
"""Fields of the sections that describe a model which its weights leave open."""


def find(source: str) -> Path | None:
    """The file or directory behind ``source``, a path or a name in ``PUBLISHED``; None if it is not on this machine.

    Raises:
        WeightsError: neither a path nor a name.
    """
    path = Path(source).expanduser()
    if (path / MERGED_FILE).is_file() and (path / MERGED_FILE).with_suffix(".toml").is_file():
        return path / MERGED_FILE
    if path.exists():
        return path
    if source not in PUBLISHED:
        names = ", ".join(PUBLISHED)
        raise WeightsError(f"{source}: no such file or directory, and not the name of a published model ({names})")
    cached = cached_file(PUBLISHED[source])
    return cached if cached.is_file() else hugging_face_snapshot(f"facebook/{source}")


def locate(source: str) -> Path:
    """What ``find`` finds, downloaded if need be.

    Raises:
        WeightsError: neither a path nor a name, or a published model that cannot be had.
    """
    found = find(source)
    if found is not None:
        return found
    file = PUBLISHED[source]
    cached = cached_file(file)
    try:
        return download(file)
    except DownloadError as error:
        raise WeightsError(
            f"{source} cannot be had: no file {cached}, nothing in Hugging Face's cache and {error}. "
            f"Two ways out: (1) copy {file} to {cached.parent}, (2) name a local file or directory "
            f"in place of {source}"
        ) from None


def read_source(source: str, esm_weights: str = "") -> tuple[Converted, Path]:
    """A whole model with its configuration, and the path it was read from.

    Args:
        source: a name in ``PUBLISHED``, fair-esm's .pt, a Hugging Face directory, or our .safetensors with its TOML.
        esm_weights: ESM-2's own weights, for a .pt without the stem, as the published one is; empty: the caches, or a
            download where ``source`` is a name.

    Raises:
        WeightsError, StemError, ConfigError: what cannot be had, read safely, or does not fit together.
    """
    path = locate(source)
    stem = locate_weights(esm_weights) if esm_weights else None
    if stem is None and source in PUBLISHED and path.suffix == ".pt":
        missing = needs_stem(path)
        stem = pretrained_file(missing) if missing else None
    return read(path, stem), path


def load_published(source: str, esm_weights: str = "") -> tuple[FoldingModel, str]:
    """A whole model to predict with: float32, eval mode, on the CPU, without an adapter; and one line about it.

    Arguments and errors as those of ``read_source``.
    """
    converted, path = read_source(source, esm_weights)
    return model_from_state(converted.config, converted.state, path), describe(converted, path)


def describe(model: Converted, path: Path) -> str:
    """One line: shape, size and origin."""
    numbers = sum(value.numel() for name, value in model.state.items() if not name.startswith(UNUSED))
    blocks, stem = model.config.trunk.blocks, model.config.stem
    untrained = ", a stem that was never pretrained" if stem.init == "random" else ""
    return f"{blocks} blocks over {stem.name}{untrained}, {numbers:,} numbers, from {path}"


def shape_layer(config: RunConfig, *, only_shape: bool = False) -> dict[str, Any]:
    """What the weights of a model decide: ``stem.name`` and ``init``, ``trunk.*``, ``heads.*``; and its recycles.

    With ``only_shape`` without the fields that the weights leave open.
    """

    def section(values: Any, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in fields(values):
            name, value = f"{prefix}.{item.name}", getattr(values, item.name)
            if is_dataclass(value):
                found[item.name] = section(value, name)
            elif not (only_shape and name in FREE_FIELDS):
                found[item.name] = value
        return found

    layer: dict[str, Any] = {
        "stem": {"name": config.stem.name, "init": config.stem.init},
        "trunk": section(config.trunk, "trunk"),
        "heads": section(config.heads, "heads"),
    }
    return layer if only_shape else layer | {"data": {"max_recycles": config.data.max_recycles}}


def check_agreement(wanted: Mapping[str, Any], shape: Mapping[str, Any], source: object, prefix: str = "") -> None:
    """Raise ConfigError, naming the field, where a layer of the user says another shape than the weights have.

    Args:
        wanted: what preset, file and options set; what they leave out is the weights' own.
        shape: ``shape_layer`` with ``only_shape``.
        source: of the weights, for the message.
        prefix: of the section.
    """
    for key, value in wanted.items():
        if key not in shape:
            continue
        name, has = f"{prefix}{key}", shape[key]
        if name == "stem.name":
            value = canonical_name(value)
        if isinstance(has, Mapping) and isinstance(value, Mapping):
            check_agreement(value, has, source, f"{name}.")
        elif value != has:
            raise ConfigError(
                f"configuration: {name} = {value!r}, but the weights of {source} have {has!r}: leave {name} out"
            )


def source_config(source: str) -> RunConfig:
    """The configuration of a whole model, whose tensors are left alone.

    That of ``esmfold_v1`` is known without its file.

    Raises:
        WeightsError, ConfigError: as ``read_source``.
    """
    found = find(source)
    known = found is None and source == "esmfold_v1"
    config = config_from_folding({}, "esm2_t36_3B") if known else read_config(found or locate(source))
    return replace(config, stem=replace(config.stem, weights=""))
