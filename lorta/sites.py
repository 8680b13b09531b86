"""Sites: the attention projections of a model, found by the names of its modules.

A layout says how a family of models names the four projections below one attention block. Neither transformers
nor fair-esm is imported: names and attributes are all that is read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lorta.config import ROLES


@dataclass(frozen=True)
class Site:
    """One adapted matrix: where it is, and where it stands in the tensor."""

    name: str
    """Path of the Linear in the model, e.g. ``layers.3.self_attn.q_proj``."""
    role: str
    """q, k, v or o."""
    layer: int
    """Ordinal of its attention block in the model, from 0."""
    heads: int
    """H: attention heads of the block."""
    in_features: int
    out_features: int

    @property
    def residual_width(self) -> int:
        """d on the side of the residual stream: the input of q, k, v and the output of o."""
        return self.out_features if self.role == "o" else self.in_features

    @property
    def head_width(self) -> int:
        """d on the side of the heads, H * (d/H): the output of q, k, v and the input of o; head-major."""
        return self.in_features if self.role == "o" else self.out_features


@dataclass(frozen=True)
class Layout:
    """Paths of the projections below an attention block, and of the module that knows the number of heads."""

    family: str
    paths: dict[str, str]
    attention: str = ""


LAYOUTS = (
    Layout("fair-esm, BART, OPT", {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}),
    Layout("Llama, Mistral, Qwen", {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}),
    Layout(
        "BERT, RoBERTa, ESM (transformers)",
        {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"},
        attention="self",
    ),
    Layout("DistilBERT", {"q": "q_lin", "k": "k_lin", "v": "v_lin", "o": "out_lin"}),
)

FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj")
"""Names under which models keep q, k and v in one matrix."""

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def find_sites(model: nn.Module, targets: Iterable[str] = ROLES) -> list[Site]:
    """All sites of ``model`` for the roles in ``targets``, block by block, in the order q, k, v, o.

    Raises a one-line ``ValueError`` when there is no attention block that a layout describes, when a block lacks a
    projection, reads weights behind the module's back, or has fewer key and value heads than query heads.
    """
    modules = dict(model.named_modules())
    blocks = [(path, layout) for path in modules for layout in LAYOUTS if _is_block(modules, path, layout)]
    if not blocks:
        raise ValueError(_nothing_found(model, modules))
    sites = []
    for layer, (path, layout) in enumerate(blocks):
        attention = modules[_join(path, layout.attention)]
        _refuse_weight_readers(_join(path, layout.attention), attention)
        linears = {role: base_linear(modules[_join(path, tail)]) for role, tail in layout.paths.items()}
        for role, linear in linears.items():
            if not isinstance(linear, nn.Linear):
                name = _join(path, layout.paths[role])
                raise ValueError(f"{name} is a {type(linear).__name__}; only torch.nn.Linear can be adapted")
        heads = _head_count(path, attention, model, linears["q"].out_features)
        for role in ("k", "v"):
            if linears[role].out_features != linears["q"].out_features:
                raise ValueError(
                    f"{path} has grouped queries: {layout.paths[role]} has {linears[role].out_features} outputs and "
                    f"{layout.paths['q']} {linears['q'].out_features}; only blocks with equal heads can be adapted"
                )
        sites += [
            Site(_join(path, layout.paths[role]), role, layer, heads, linears[role].in_features, linear.out_features)
            for role, linear in linears.items()
            if role in tuple(targets)
        ]
    return sites


def base_linear(module: nn.Module) -> nn.Module:
    """The original module of an adapted one, else the module itself."""
    return getattr(module, "base_layer", module)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _is_block(modules: dict[str, nn.Module], path: str, layout: Layout) -> bool:
    return all(_join(path, tail) in modules for tail in layout.paths.values())


def _head_count(path: str, attention: nn.Module, model: nn.Module, width: int) -> int:
    """H from the attention module, its config, or the model's config; or from its ``head_dim``."""
    for owner in (attention, getattr(attention, "config", None), getattr(model, "config", None)):
        for name in HEAD_COUNTS:
            heads = getattr(owner, name, None)
            if isinstance(heads, int) and heads > 0:
                if width % heads:
                    raise ValueError(f"{path} has {heads} heads, which do not divide its query width {width}")
                return heads
    head_dim = getattr(attention, "head_dim", None)
    if isinstance(head_dim, int) and head_dim > 0 and width % head_dim == 0:
        return width // head_dim
    raise ValueError(f"{path} does not state its number of heads; give the module one of {', '.join(HEAD_COUNTS)}")


def _refuse_weight_readers(path: str, attention: nn.Module) -> None:
    """Blocks that hand ``proj.weight`` to a function never call the projection, so an adapter would do nothing."""
    if isinstance(attention, nn.MultiheadAttention):
        raise ValueError(f"{path} is torch.nn.MultiheadAttention, which reads weights directly; it cannot be adapted")
    # fair-esm: without rotary embeddings (ESM-1b, ESM-1v) the block calls F.multi_head_attention_forward.
    if getattr(attention, "enable_torch_version", False) and not getattr(attention, "rot_emb", True):
        raise ValueError(
            f"{path} has no rotary embeddings and reads weights directly (fair-esm's ESM-1 models); "
            "it cannot be adapted, ESM-2 can"
        )


def _nothing_found(model: nn.Module, modules: dict[str, nn.Module]) -> str:
    known = "; ".join(f"{layout.family}: {', '.join(layout.paths.values())}" for layout in LAYOUTS)
    for path in modules:
        if path.rpartition(".")[2] in FUSED:
            return f"{path} holds q, k and v in one matrix, which cannot be adapted; known are separate ones ({known})"
    if any(isinstance(module, nn.MultiheadAttention) for module in modules.values()):
        return "torch.nn.MultiheadAttention reads its weights directly; use a block with separate projections"
    return f"no attention projections found in {type(model).__name__}; known names are {known}"
