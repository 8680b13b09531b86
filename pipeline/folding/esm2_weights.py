"""ESM-2's weights: the published models, where their files are, reading them, and the names of their tensors.

fair-esm's own loaders unpickle without restriction (and fail since torch 2.6); here the one class that its checkpoints
hold, ``argparse.Namespace``, is let in and nothing else. Names of tensors are fair-esm's, which are ours, and Hugging
Face's (``EsmModel``, without any prefix).
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_prep.files.errors import UserError
from pipeline.folding.hub import DownloadError, cached_file, download, hugging_face_cache, hugging_face_snapshot
from pipeline.folding.tensor_files import UnreadableError, read_pickle, weight_files

ESM2_SHAPES: dict[str, tuple[int, int, int]] = {
    "esm2_t6_8M": (6, 320, 20),
    "esm2_t12_35M": (12, 480, 20),
    "esm2_t30_150M": (30, 640, 20),
    "esm2_t33_650M": (33, 1280, 20),
    "esm2_t36_3B": (36, 2560, 40),
    "esm2_t48_15B": (48, 5120, 40),
}
"""Layers, width and heads of the published models (Lin et al. 2023, table S1)."""

DEMO_STEM = "esm2_t3_demo"
DEMO_SHAPE = (3, 64, 4)


class StemError(UserError):
    """The stem cannot be built or its weights cannot be had; the message is one line."""


def canonical_name(name: str) -> str:
    """The ESM-2 name without ``_UR50D`` and ``facebook/``. Raises StemError for an unknown one."""
    short = name.removeprefix("facebook/").removesuffix("_UR50D")
    if short not in ESM2_SHAPES and short != DEMO_STEM:
        known = ", ".join([*ESM2_SHAPES, DEMO_STEM])
        raise StemError(f"unknown ESM-2 model {name!r}: one of {known} (with or without _UR50D)")
    return short


def hub_name(name: str) -> str:
    """fair-esm's file of a published ESM-2."""
    return f"{name}_UR50D.pt"


def cached_weights(name: str) -> Path | None:
    """Return a published ESM-2 in torch's hub cache (a file) or in Hugging Face's (a directory); None if in neither."""
    cached = cached_file(hub_name(name))
    return cached if cached.is_file() else hugging_face_snapshot(f"facebook/{name}_UR50D")


def pretrained_file(name: str) -> Path:
    """Return what ``cached_weights`` does, downloaded to torch's hub cache if it is in neither. Raises StemError."""
    name = canonical_name(name)
    if name == DEMO_STEM:
        raise StemError(f"{name} has no pretrained weights: use --esm-init random, or the name of a published ESM-2")
    found = cached_weights(name)
    if found is not None:
        return found
    cached = cached_file(hub_name(name))
    try:
        return download(cached.name)
    except DownloadError as error:
        raise StemError(
            f"pretrained weights of {name} were not found: no file {cached}, nothing in Hugging Face's cache "
            f"({hugging_face_cache()}) and {error}. Three ways out: (1) copy {cached.name} to {cached.parent}, "
            f"(2) --esm-weights FILE (fair-esm's .pt or a Hugging Face directory), (3) for a new run, "
            f"--esm-init random: an untrained stem"
        ) from None


_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_name(weights: str) -> bool:
    """Whether this could be the ``owner/name`` of a model on Hugging Face's hub."""
    return _HUB_NAME.fullmatch(weights) is not None


def locate_weights(weights: str) -> Path:
    """Return the file or directory of ``stem.weights``: a path, or a name on the hub that is in Hugging Face's cache.

    One of a published ESM-2 is looked for, and downloaded, as ``pretrained_file`` does.

    Raises:
        StemError: it is nowhere.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if not is_hub_name(weights):
        raise StemError(f"{weights}: no such file or directory (ESM-2 weights, --esm-weights)")
    snapshot = hugging_face_snapshot(weights)
    if snapshot is not None:
        return snapshot
    if weights in {f"facebook/{name}_UR50D" for name in ESM2_SHAPES}:
        return pretrained_file(weights)
    raise StemError(
        f"{weights}: no such file or directory, and no such model in Hugging Face's cache ({hugging_face_cache()}): "
        f"give --esm-weights a path, or run: hf download {weights}"
    )


def read_esm2_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return a state dict in fair-esm's names from a local file, without running anything that the file holds.

    Args:
        path: fair-esm's ``esm2_*_UR50D.pt``; or a Hugging Face directory of an ``EsmModel``, ``EsmForMaskedLM`` or a
            classifier, whose weights may be in shards (those of 3B and 15B are), or its ``model.safetensors`` or
            ``pytorch_model.bin``.

    Raises:
        StemError: no such file, not such a file, one of an ESM-1, or one that would need unsafe loading.
    """
    state = read_tensors(path)
    if any(name.endswith(_ONLY_IN_ESM1) for name in state):
        raise StemError(f"{path}: weights of an ESM-1, which has learned positions; an ESM-2 is needed")
    if any("attention.self.query." in name for name in state):
        return _from_hugging_face(state)
    return {re.sub(r"^encoder\.(sentence_encoder\.)?", "", name): value for name, value in state.items()}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of such a file or directory in their own names. Raises StemError."""
    state: dict[str, torch.Tensor] = {}
    try:
        for file in weight_files(path) if path.is_dir() else [path]:
            state |= _read_state(file)
    except UnreadableError as error:
        raise StemError(f"{error} (ESM-2 weights)") from error
    return state


_ONLY_IN_ESM1 = ("emb_layer_norm_before.weight", "embeddings.layer_norm.weight")
"""In fair-esm's names and in Hugging Face's: all else of ESM-1b and ESM-1v has the names and shapes of ESM-2 650M."""


def _read_state(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors of one file. Raises StemError, UnreadableError."""
    if not path.is_file():
        raise StemError(f"{path}: no such file (ESM-2 weights)")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = read_pickle(path, [argparse.Namespace])
    except (SafetensorError, OSError) as error:
        raise StemError(f"{path}: cannot be read: {error} (ESM-2 weights)") from error
    state = state.get("model", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise StemError(f"{path}: holds no state dict of tensors; expected fair-esm's or Hugging Face's ESM-2 layout")
    return state


def _from_hugging_face(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what of the state is ESM-2's, in fair-esm's names: without heads of any kind."""
    state = {name.removeprefix("esm."): value for name, value in state.items()}
    renamed = {name_from_hugging_face(name): value for name, value in state.items()}
    if SHARED_FREQUENCIES in state:
        for layer in {name.split(".")[1] for name in renamed if name and name.startswith("layers.")}:
            renamed[f"layers.{layer}.self_attn.rot_emb.inv_freq"] = state[SHARED_FREQUENCIES].clone()
    return {name: value for name, value in renamed.items() if name is not None}


_OUTSIDE_LAYERS = (
    ("embeddings.word_embeddings.", "embed_tokens."),
    ("encoder.emb_layer_norm_after.", "emb_layer_norm_after."),
)
_IN_A_LAYER = (
    ("attention.self.query.", "self_attn.q_proj."),
    ("attention.self.key.", "self_attn.k_proj."),
    ("attention.self.value.", "self_attn.v_proj."),
    ("attention.output.dense.", "self_attn.out_proj."),
    ("attention.LayerNorm.", "self_attn_layer_norm."),
    ("intermediate.dense.", "fc1."),
    ("output.dense.", "fc2."),
    ("LayerNorm.", "final_layer_norm."),
)
"""Hugging Face's beginning of a name, and fair-esm's; a weight or a bias follows."""


_FREQUENCIES = r"encoder\.layer\.(\d+)\.attention\.self\.rotary_embeddings\.inv_freq"
SHARED_FREQUENCIES = "rotary_embeddings.inv_freq"
"""Hugging Face's newer name of the rotary frequencies, which all layers share."""


def current_name(name: str) -> str:
    """``name`` with weight and bias for gamma and beta, as some versions of transformers call those of layer norms."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def name_from_hugging_face(name: str) -> str | None:
    """fair-esm's name of a tensor; None for one that ESM-2 has not.

    Rotary frequencies are not learned, but those of the published weights are rounded to half precision, and both
    fair-esm and transformers compute with them.
    """
    if layer := re.fullmatch(_FREQUENCIES, name):
        return f"layers.{layer[1]}.self_attn.rot_emb.inv_freq"
    return _renamed(current_name(name), "encoder.layer.", "layers.", _OUTSIDE_LAYERS, _IN_A_LAYER)


def name_to_hugging_face(name: str) -> str | None:
    """Hugging Face's name of a tensor; None for one that has no place there."""
    outside, inside = ([(ours, theirs) for theirs, ours in table] for table in (_OUTSIDE_LAYERS, _IN_A_LAYER))
    return _renamed(name, "layers.", "encoder.layer.", outside, inside)


def _renamed(
    name: str, old: str, new: str, outside: Sequence[tuple[str, str]], inside: Sequence[tuple[str, str]]
) -> str | None:
    layer = re.match(rf"{re.escape(old)}(\d+)\.", name)
    here = name[layer.end() :] if layer else name
    for theirs, ours in inside if layer else outside:
        if here in (theirs + "weight", theirs + "bias"):  # not what an adapter has wrapped
            return (f"{new}{layer[1]}." if layer else "") + ours + here[len(theirs) :]
    return None
