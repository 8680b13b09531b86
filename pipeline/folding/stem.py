"""The ESM-2 stem: building it, loading published weights safely, and running it on aatype.

fair-esm's own loaders unpickle without restriction (and fail since torch 2.6); here the one class that its checkpoints
hold, ``argparse.Namespace``, is let in and nothing else.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from esm.multihead_attention import MultiheadAttention
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from data_prep.structure.residues import RESTYPES_WITH_X
from pipeline.config.schema import StemConfig
from pipeline.folding import esm2_names
from pipeline.folding.hub import DownloadError, cached_file, download, hugging_face_cache, hugging_face_snapshot
from pipeline.folding.tensor_files import UnreadableError, is_finite, read_pickle, weight_files

ESM2_SHAPES: dict[str, tuple[int, int, int]] = {
    "esm2_t6_8M": (6, 320, 20),
    "esm2_t12_35M": (12, 480, 20),
    "esm2_t30_150M": (30, 640, 20),
    "esm2_t33_650M": (33, 1280, 20),
    "esm2_t36_3B": (36, 2560, 40),
    "esm2_t48_15B": (48, 5120, 40),
}
"""Layers, width and heads of the published models (Lin et al. 2023, table S1)."""

MASKED = 22
"""In place of a residue that is not shown; the index of ESMFold's residue embedding (21 is reserved there)."""

DEMO_STEM = "esm2_t3_demo"
DEMO_SHAPE = (3, 64, 4)


class StemError(ValueError):
    """The stem cannot be built or its weights cannot be had; the message is one line."""


def canonical_name(name: str) -> str:
    """The ESM-2 name without ``_UR50D`` and ``facebook/``. Raises StemError for an unknown one."""
    short = name.removeprefix("facebook/").removesuffix("_UR50D")
    if short not in ESM2_SHAPES and short != DEMO_STEM:
        known = ", ".join([*ESM2_SHAPES, DEMO_STEM])
        raise StemError(f"unknown ESM-2 model {name!r}: one of {known} (with or without _UR50D)")
    return short


class FusedAttention(MultiheadAttention):
    """fair-esm's self-attention through ``scaled_dot_product_attention``, which keeps no attention weights.

    A class without state of its own, which takes the place of a block's class: parameters, names and the calls of the
    projections, on which an adapter may sit, stay as they are.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_head_weights: bool = False,
        **options: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attended values [T, B, E] of ``query`` [T, B, E], and None for the weights, unless a caller needs those."""
        if need_head_weights:
            options |= {"key_padding_mask": key_padding_mask, "need_head_weights": True}
            return super().forward(query, key, value, **options)
        time, batch, width = query.shape
        q, k, v = (
            projection(query).view(time, batch, self.num_heads, self.head_dim).permute(1, 2, 0, 3)  # [B, H, T, d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        with torch.inference_mode(False):  # fair-esm keeps the tables, and a later training step may need them
            self.rot_emb._update_cos_sin_tables(k, seq_dimension=-2)
        q, k = self.rot_emb(q, k)
        visible = None if key_padding_mask is None else ~key_padding_mask[:, None, None, :]
        rate = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, visible, dropout_p=rate, scale=self.scaling)
        return self.out_proj(out.permute(2, 0, 1, 3).reshape(time, batch, width)), None


class Stem(nn.Module):
    """ESM-2 over aatype, all hidden representations; without its masked-LM head and contact head.

    Gradients flow through it: fair-esm's ESMFold detaches the stem's output, which would leave an adapter without
    gradient. Whether anything in it trains is decided by ``requires_grad`` of its parameters.
    """

    aatype_to_token: torch.Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        name = canonical_name(name)
        layers, width, heads = DEMO_SHAPE if name == DEMO_STEM else ESM2_SHAPES[name]
        alphabet = Alphabet.from_architecture("ESM-1b")
        self.name = name
        self.num_layers = layers
        self.embed_dim = width
        self.esm = ESM2(layers, width, heads, alphabet=alphabet, token_dropout=True)
        for layer in self.esm.layers:
            layer.self_attn.__class__ = FusedAttention
        # The stem is what its representations depend on; what is in no parameter is in no hash and no checkpoint.
        del self.esm.contact_head
        self.esm.lm_head = nn.Identity()  # fair-esm's forward pass calls it
        tokens = [alphabet.get_idx(letter) for letter in (*RESTYPES_WITH_X, "X", "<mask>")]
        self.register_buffer("aatype_to_token", torch.tensor(tokens), persistent=False)

    def forward(self, aatype: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden representations [B, N, L + 1, E]: embeddings first, the last one after the final layer norm.

        Args:
            aatype: int64 [B, N], 0-20, or ``MASKED``.
            mask: [B, N], 1 for residues, which come first, 0 for padding.
        """
        mask = mask.bool()
        batch = len(aatype)
        tokens = torch.full((batch, aatype.shape[1] + 2), self.esm.padding_idx, device=aatype.device)
        tokens[:, 0] = self.esm.cls_idx
        tokens[:, 1:-1] = torch.where(mask, self.aatype_to_token[aatype], self.esm.padding_idx)
        tokens[torch.arange(batch, device=aatype.device), mask.sum(dim=1) + 1] = self.esm.eos_idx
        layers = range(self.num_layers + 1)
        representations = self.esm(tokens, repr_layers=layers)["representations"]
        return torch.stack([representations[i] for i in layers], dim=2)[:, 1:-1]


def build_stem(config: StemConfig, seed: int) -> Stem:
    """The stem of a run with its weights.

    Args:
        config: name, initialisation and optional local weights.
        seed: of the random initialisation.

    Raises:
        StemError: unknown name, or weights that cannot be had or do not fit.
    """
    name = canonical_name(config.name)
    if config.init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Stem(name)
    stem = Stem(name)
    path = locate_weights(config.weights) if config.weights else pretrained_file(name)
    state = read_esm2_weights(path)
    files = weight_files(path) if path.is_dir() else [path]
    load_esm2_state(stem, state, str(files[0] if len(files) == 1 else path))
    return stem


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
    renamed = {esm2_names.from_hugging_face(name): value for name, value in state.items()}
    if esm2_names.SHARED_FREQUENCIES in state:
        for layer in {name.split(".")[1] for name in renamed if name and name.startswith("layers.")}:
            renamed[f"layers.{layer}.self_attn.rot_emb.inv_freq"] = state[esm2_names.SHARED_FREQUENCIES].clone()
    return {name: value for name, value in renamed.items() if name is not None}


def load_esm2_state(stem: Stem, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy ``state`` (fair-esm's names) into the stem; every tensor that the stem computes with must be there.

    Raises:
        StemError: a missing tensor, another shape, or a value that is not a finite number, with the first example.
    """
    own = stem.esm.state_dict()
    computed = {name for name in own if name.endswith("rot_emb.inv_freq")}  # anew, where the file does not have them
    missing = sorted(set(own) - set(state) - computed)  # what is there beside it, such as heads, is not looked at
    if missing:
        raise StemError(
            f"{source}: {len(missing)} tensors of {stem.name} are missing, e.g. {missing[0]}: is this another model?"
        )
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            raise StemError(
                f"{source}: {name} has shape {list(state[name].shape)}, {stem.name} needs {list(tensor.shape)}: "
                f"is --esm right?"
            )
        if name in state and not is_finite(state[name]):
            raise StemError(f"{source}: {name} has values that are not finite (NaN or infinity): get the weights again")
    stem.esm.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def parameter_hash(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 over names, shapes and bytes of (name, tensor) pairs, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda pair: pair[0]):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
