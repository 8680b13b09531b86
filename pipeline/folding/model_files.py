"""A whole ESMFold-like model in files: read from fair-esm's, Hugging Face's and ours, written to the last two.

Nothing that a file holds is run: pickles are read with ``weights_only`` and an allow-list. ``esmfold_3B_v1.pt`` carries
its configuration as omegaconf objects; inert classes stand in for these, and omegaconf itself is not imported.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_prep.files.atomic import writing, writing_directory
from data_prep.files.bounded_reading import read_json
from data_prep.structure.residues import RESTYPES_WITH_X
from pipeline.config.layers import config_file_text, file_layer, resolve
from pipeline.config.schema import RunConfig
from pipeline.folding.esm2_weights import cached_weights, hub_name, read_esm2_weights
from pipeline.folding.stem import Stem
from pipeline.folding.tensor_files import UnreadableError, read_pickle, weight_files, write_tensors
from pipeline.folding.weights import (
    UNUSED,
    State,
    WeightsError,
    check_state,
    config_from_folding,
    config_from_hugging_face,
    from_fair_esm,
    from_hugging_face,
    hugging_face_config,
    stem_name,
    to_hugging_face,
)

NEITHER = "neither a Hugging Face directory nor a .pt (fair-esm) nor a .safetensors (ours)"


@dataclass(frozen=True)
class Converted:
    """A model between two layouts."""

    config: RunConfig
    state: State
    """In our layout."""


class _StandIn:
    """In place of a class that a file names: takes the state that the file gives it and does nothing with it."""


class _Any(_StandIn):
    """In place of ``typing.Any`` and of classes that only say of what type a value is."""


_SAFE: list[Any] = [
    argparse.Namespace,
    (_Any, "typing.Any"),
    defaultdict,
    *((kind, f"builtins.{kind.__name__}") for kind in (dict, list, int, float, str, bool)),
    *(
        (type(name, (_StandIn,), {}), f"omegaconf.{name}")
        for name in (
            *("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata"),
            *(f"nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "Boolean", "String")),
        )
    ),
]
"""Beyond tensors and containers, which torch reads anyhow."""


def read_content(path: Path) -> Any:
    """``read_pickle`` with the classes of ESMFold's files. Raises WeightsError."""
    try:
        return read_pickle(path, _SAFE)
    except UnreadableError as error:
        raise WeightsError(str(error)) from error


def read_safetensors(path: Path) -> State:
    """Tensors of a safetensors file. Raises WeightsError."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from error


def plain(value: Any) -> Any:
    """Dictionaries, lists and values of a configuration, whatever objects held them."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    elif isinstance(value, _StandIn):
        held = vars(value)
        return plain(held["_content"] if "_content" in held else held.get("_val"))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _tensors(content: Any, path: Path) -> State:
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state dict of tensors")
    return dict(content)


@dataclass(frozen=True)
class _FairEsm:
    """Content of an ``esmfold_*.pt``."""

    described: Mapping[str, Any]
    """What it says of the model's shape."""
    state: State
    """In our layout, perhaps without the stem."""
    stem: str
    """Name of the ESM-2."""
    has_stem: bool


def _open_fair_esm(path: Path) -> _FairEsm:
    content = read_content(path)
    if not isinstance(content, Mapping) or not {"cfg", "model"} <= set(content):
        raise WeightsError(f"{path}: not fair-esm's ESMFold: it has no 'cfg' and 'model'")
    described = plain(content["cfg"])
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise WeightsError(f"{path}: its 'cfg' has no 'model'")
    state = from_fair_esm(_tensors(content["model"], path))
    for needed in ("esm_s_combine", "esm_s_mlp.0.weight"):
        if needed not in state:
            raise WeightsError(f"{path}: not fair-esm's ESMFold: the tensor {needed} is missing")
    stem = stem_name(len(state["esm_s_combine"]) - 1, len(state["esm_s_mlp.0.weight"]))
    has_stem = any(name.startswith("stem.esm.layers.") for name in state)
    return _FairEsm(described["model"], state, stem, has_stem)


def needs_stem(path: Path) -> str | None:
    """Name of the ESM-2 whose own file a fair-esm file needs beside it; None if it has it. Raises WeightsError."""
    file = _open_fair_esm(path)
    return None if file.has_stem else file.stem


def read_fair_esm(path: Path, esm_weights: Path | None) -> Converted:
    """``esmfold_3B_v1.pt``: ``cfg``, whose ``model`` describes the trunk, and ``model``, the tensors.

    Args:
        path: the file.
        esm_weights: ESM-2's own file, for a model without the stem, as the published one is; None: the caches.

    Raises:
        WeightsError, StemError: not such a file, or the stem is missing or there twice.
    """
    file = _open_fair_esm(path)
    state = file.state
    if file.has_stem and esm_weights is not None:
        raise WeightsError(f"{path}: has its own stem: do not give --esm-weights")
    if not file.has_stem:
        esm_weights = esm_weights or cached_weights(file.stem)
        if esm_weights is None or not esm_weights.exists():
            raise WeightsError(
                f"{path}: has no stem: add --esm-weights {hub_name(file.stem)} (or its Hugging Face directory)"
            )
        with torch.device("meta"):
            own = Stem(file.stem).esm.state_dict()
        published = {f"esm.{name}": value for name, value in read_esm2_weights(esm_weights).items() if name in own}
        state = state | from_fair_esm(published)
    return Converted(config_from_folding(file.described, file.stem), state)


def read_hugging_face(path: Path) -> Converted:
    """Directory of an ``EsmForProteinFolding``: config.json, weights in one file or in shards. Raises WeightsError."""
    config = _hugging_face_config(path)
    state: State = {}
    try:
        files = weight_files(path)
    except UnreadableError as error:
        raise WeightsError(str(error)) from error
    for file in files:
        state |= read_safetensors(file) if file.suffix == ".safetensors" else _tensors(read_content(file), file)
    return Converted(config_from_hugging_face(config), from_hugging_face(state))


def _hugging_face_config(path: Path) -> dict[str, Any]:
    config_file = path / "config.json"
    try:
        config = read_json(config_file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{config_file}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{config_file}: not a JSON object")
    return config


def read_ours(path: Path) -> Converted:
    """Our safetensors file and the TOML of the same name beside it. Raises WeightsError, ConfigError."""
    config, state = read_config(path), read_safetensors(path)
    head = "stem.esm.lm_head."  # as an earlier version named what is not in the model
    return Converted(config, {name.replace(head, f"{UNUSED}esm.lm_head."): value for name, value in state.items()})


def read(path: Path, esm_weights: Path | None = None) -> Converted:
    """A model from a file or directory of any of the three layouts, checked against its configuration.

    Raises:
        WeightsError, StemError, ConfigError: what is there is none of them, or does not fit together.
    """
    if path.suffix == ".pt":
        converted = read_fair_esm(path, esm_weights)
    elif esm_weights is not None:
        raise WeightsError(f"{path}: has its own stem: do not give --esm-weights")
    elif path.is_dir():
        converted = read_hugging_face(path)
    elif path.suffix == ".safetensors":
        converted = read_ours(path)
    else:
        raise WeightsError(f"{path}: {NEITHER}")
    check_state(converted.config, converted.state, path)
    return converted


def read_config(path: Path) -> RunConfig:
    """The configuration of a model in a file or directory of any of the three layouts, its tensors left alone.

    Raises:
        WeightsError, ConfigError: what is there is none of them.
    """
    if path.suffix == ".pt":
        file = _open_fair_esm(path)  # tensors are mapped, not read
        return config_from_folding(file.described, file.stem)
    if path.is_dir():
        return config_from_hugging_face(_hugging_face_config(path))
    if path.suffix == ".safetensors":
        return resolve(file_layer(path.with_suffix(".toml")))
    raise WeightsError(f"{path}: {NEITHER}")


def write_hugging_face(model: Converted, out: Path) -> None:
    """A directory for ``from_pretrained`` of ``EsmForProteinFolding`` and ``AutoTokenizer``. Raises WeightsError.

    As with the published files, tokens are residue types, without special ones, and padding is alanine, which the
    attention mask leaves out.
    """
    stem = [v for name, v in model.state.items() if name.startswith("stem.") and not name.endswith("inv_freq")]
    half = all(value.dtype == torch.float16 for value in stem)
    config = hugging_face_config(model.config, half_stem=half)
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_directory(out) as folder:
        write_tensors(folder / "model.safetensors", to_hugging_face(model.state), {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "vocab.txt").write_text("\n".join(RESTYPES_WITH_X) + "\n")
        tokenizer = {"tokenizer_class": "EsmTokenizer", "pad_token": RESTYPES_WITH_X[0]}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")


def write_ours(model: Converted, out: Path) -> None:
    """Our safetensors file, and the configuration as TOML beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out.with_suffix(".toml")) as toml:
        toml.write(config_file_text(model.config))
        write_tensors(out, model.state, {"format": "pt"})
