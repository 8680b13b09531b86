"""Names of ESM-2's tensors: fair-esm's, which are ours, and Hugging Face's (``EsmModel``, without any prefix)."""

import re
from collections.abc import Sequence

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


def current(name: str) -> str:
    """``name`` with weight and bias for gamma and beta, as some versions of transformers call those of layer norms."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def from_hugging_face(name: str) -> str | None:
    """fair-esm's name of a tensor; None for one that ESM-2 has not.

    Rotary frequencies are not learned, but those of the published weights are rounded to half precision, and both
    fair-esm and transformers compute with them.
    """
    if layer := re.fullmatch(_FREQUENCIES, name):
        return f"layers.{layer[1]}.self_attn.rot_emb.inv_freq"
    return _renamed(current(name), "encoder.layer.", "layers.", _OUTSIDE_LAYERS, _IN_A_LAYER)


def to_hugging_face(name: str) -> str | None:
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
