"""Adapter directories: ``adapter_model.safetensors`` and ``adapter_config.json``.

The config file holds the settings, the sites, and a fingerprint of the frozen weights that the adapter was trained
on, so that loading it onto another base is noticed and the difference named.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lorta.attaching import adapter_named, adapter_set, build, install, model_part
from lorta.config import config_for
from lorta.layer import AdaptedLinear, Adapter, AdapterSet

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
FORMAT = 1
MAX_CONFIG_BYTES = 64 << 20
"""Of a file of settings; with the fingerprint of the largest models it has some megabytes."""


def save(model: nn.Module, directory: str | Path, *, name: str = "default") -> Path:
    """Write the adapter ``name`` of ``model`` into ``directory`` (made if needed) and return the directory."""
    adapter = adapter_named(model, name)
    root = model_part(model, adapter_set(model))
    directory = Path(directory)
    document = {
        "format": FORMAT,
        "tool": written_by(),
        "config": adapter.config.settings(),
        "sites": adapter.places(),
        "parameters": adapter.num_parameters(),
        "base_model": type(root).__name__,
        "base_weights": base_fingerprint(root),
    }
    write_adapter(directory, adapter.state_dict(), document)
    return directory


def written_by() -> str:
    """Name and version of what is installed, for the files; a copy of this package that is not has no version."""
    try:
        return f"lorta-fold {version('lorta-fold')}"
    except PackageNotFoundError:
        return "lorta-fold 0+unknown"


def write_adapter(directory: Path, tensors: dict[str, Tensor], document: dict) -> None:
    """Both files of an adapter directory, which is made if needed. Each appears whole or not at all, tensors first."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = {name: directory / f"{name}.partial-{os.getpid()}" for name in (TENSOR_FILE, CONFIG_FILE)}
    try:
        # clone: the format wants a storage of its own for every tensor
        own = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        partial[TENSOR_FILE].write_bytes(save_tensors(own, metadata={"format": "pt", "tool": written_by()}))
        partial[CONFIG_FILE].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for name, path in partial.items():
            path.replace(directory / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def load(model: nn.Module, directory: str | Path, *, name: str = "default") -> Adapter:
    """Attach the adapter of ``directory`` to ``model`` (its base, as for ``attach``) and return it.

    Warns, and says what differs, when the frozen weights are not those it was trained on. Raises a one-line
    ``ValueError`` when a file is missing or not of this format, or when sites, names or shapes do not fit, and then
    leaves the model as it was.
    """
    directory = Path(directory)
    document = _read_config(directory)
    adapter = build(model, config_for(**document["config"]))
    tensors = _read_tensors(directory)
    _check_fit(directory, adapter, document["sites"], tensors)
    adapter.load_state_dict(tensors, strict=True)
    install(model, adapter, name)
    difference = describe_difference(document["base_weights"]["tensors"], base_fingerprint(model)["tensors"])
    if difference:
        warnings.warn(f"{directory}: not the base that this adapter was trained on: {difference}", stacklevel=2)
    return adapter


def base_fingerprint(model: nn.Module, exclude: Iterable[str] = ()) -> dict:
    """``sha256`` over all frozen parameters of ``model``, and ``tensors``: name -> "dtype shape sha256".

    Trainable parameters, adapters and the modules at the paths ``exclude`` are left out: they are no part of the
    base. A merged model has the fingerprint of its unmerged weights. Names are those of the model without adapter.
    """
    merged = {
        f"{path}.base_layer.weight": module.base_weight()
        for path, module in model.named_modules()
        if isinstance(module, AdaptedLinear)
    }
    inside = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, AdapterSet))
    inside += tuple(f"{path}." for path in exclude)
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or (inside and name.startswith(inside)):
            continue
        tensors[name.replace(".base_layer.", ".")] = _digest(merged.get(name, parameter))
    lines = "".join(f"{name} {tensors[name]}\n" for name in sorted(tensors))
    return {"sha256": hashlib.sha256(lines.encode()).hexdigest(), "tensors": tensors}


def _digest(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape))
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape} {hashlib.sha256(data.data).hexdigest()}"


def read_settings(path: Path) -> str:
    """Text of a JSON file, up to ``MAX_CONFIG_BYTES``. Raises ``OSError``, ``ValueError``."""
    with path.open("rb") as stream:
        data = stream.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes, the limit for such a file")
    return data.decode()


def _read_config(directory: Path) -> dict:
    path = directory / CONFIG_FILE
    try:
        document = json.loads(read_settings(path))
    except FileNotFoundError:
        raise ValueError(f"{directory} is no adapter directory: it has no {CONFIG_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{path} has format {found!r}; this version reads format {FORMAT}")
    for key in ("config", "sites", "base_weights"):
        if not isinstance(document.get(key), dict):
            raise ValueError(f"{path} is damaged: {key} is {document.get(key)!r:.80} and not an object with names")
    check_fingerprint(path, document["base_weights"])
    return document


def check_fingerprint(where: object, fingerprint: dict) -> None:
    """``ValueError`` unless this has the form of what ``base_fingerprint`` returns."""
    tensors = fingerprint.get("tensors")
    if not isinstance(tensors, dict):
        raise ValueError(f"{where} is damaged: its fingerprint of the base names no tensors")
    for name, digest in tensors.items():
        if not isinstance(digest, str) or digest.count(" ") != 2:
            raise ValueError(f"{where} is damaged: {digest!r:.80} is no fingerprint of {name}")


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / TENSOR_FILE
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{directory} is no adapter directory: it has no {TENSOR_FILE}") from None
    except Exception as error:  # safetensors has its own error type, and others for a damaged header
        raise ValueError(f"{path} cannot be read: {error}") from None


def check_tensors(where: object, saved: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names and shapes must agree exactly: a key that is left out would leave B = 0 and the adapter idle."""
    _check_names(where, "tensor", saved, expected)
    for key, tensor in saved.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{where} does not fit: {key} is {list(tensor.shape)} in the file and "
                f"{list(expected[key].shape)} for this model"
            )


def _check_fit(directory: Path, adapter: Adapter, saved_sites: dict, tensors: dict[str, Tensor]) -> None:
    sites = adapter.places()
    _check_names(directory, "site", saved_sites, sites)
    check_tensors(directory, tensors, adapter.state_dict())
    for key, value in saved_sites.items():
        if value != sites[key]:
            raise ValueError(f"{directory} does not fit: {key} is [{value}] in the file and [{sites[key]}] here")


def _check_names(where: object, what: str, saved: Iterable[str], here: Iterable[str]) -> None:
    for key in sorted(set(saved) ^ set(here)):
        side = "the file" if key in saved else "this model"
        raise ValueError(f"{where} does not fit: only {side} has the {what} {key}")


def describe_difference(saved: dict[str, str], here: dict[str, str]) -> str:
    """What differs between two fingerprints, in words; empty when nothing does."""
    names_of: dict[str, list[str]] = {}
    for name, digest in saved.items():
        kind = _kind_of_difference(digest, here.get(name))
        if kind:
            names_of.setdefault(kind, []).append(name)
    return ", ".join(
        f"{len(names)} of {len(saved)} tensors {kind} (first: {names[0]})" for kind, names in names_of.items()
    )


def _kind_of_difference(saved: str, here: str | None) -> str | None:
    if here is None:
        return "missing or trainable here"
    if saved == here:
        return None
    (dtype, shape, _), (dtype_here, shape_here, _) = saved.split(" "), here.split(" ")
    if dtype != dtype_here:
        return f"{dtype} there and {dtype_here} here"
    return "of another shape" if shape != shape_here else "with other values"
