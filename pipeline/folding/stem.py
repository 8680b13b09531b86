"""The stem, a language model of proteins: building it, and running it on aatype."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from esm.multihead_attention import MultiheadAttention
from torch import nn

from data_prep.structure.residues import RESTYPES_WITH_X
from pipeline.config.schema import StemConfig
from pipeline.folding.esm2_weights import (
    DEMO_SHAPE,
    DEMO_STEM,
    ESM2_SHAPES,
    StemError,
    canonical_name,
    locate_weights,
    pretrained_file,
    read_esm2_weights,
)
from pipeline.folding.tensor_files import is_finite, weight_files

MASKED = 22
"""In place of a residue that is not shown; the index of ESMFold's residue embedding (21 is reserved there)."""


class FusedLayer(TransformerLayer):
    """fair-esm's block with a GELU of one operator, which keeps one tensor for the backward pass in place of three.

    As ``FusedAttention``, a class without state of its own.
    """

    def forward(
        self,
        x: torch.Tensor,
        self_attn_mask: torch.Tensor | None = None,
        self_attn_padding_mask: torch.Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States [T, B, E] of ``x`` [T, B, E], and the attention's weights if asked for."""
        y = self.self_attn_layer_norm(x)
        attended, weights = self.self_attn(
            y, y, y, key_padding_mask=self_attn_padding_mask, need_head_weights=need_head_weights
        )
        x = x + attended
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), weights


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
            layer.__class__, layer.self_attn.__class__ = FusedLayer, FusedAttention
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
