"""Sites: the linear maps of a model's layers, found by the names of its modules.

A layout says how a family of models names the four projections below one attention block, ``FEED_FORWARDS`` how the
layer around it names those of its feed-forward. Neither transformers nor fair-esm is imported: names and attributes are
all that is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lorta.config import ALL_LINEAR, ALL_ROLES, ROLES


@dataclass(frozen=True)
class Rows:
    """Where the outputs of one role lie among those of a module that holds several.

    Output j is row ``start + (j // block) * stride + j % block``. Roles one after the other are a single block;
    roles interleaved by head have blocks of one head.
    """

    start: int
    block: int
    stride: int

    def index(self, count: int, device: torch.device) -> Tensor:
        """Return the rows [count] of the first ``count`` outputs."""
        j = torch.arange(count, device=device)
        return self.start + j // self.block * self.stride + j % self.block


@dataclass(frozen=True)
class Site:
    """One adapted matrix: where it is, and where it stands in the tensor."""

    name: str
    """Unique in the model: the path of its module, e.g. ``layers.3.self_attn.q_proj``; ``h.0.attn.c_attn:q`` for one
    role of a module that holds several."""
    role: str
    """q, k, v, o, up, gate or down."""
    layer: int
    """Ordinal of its attention block in the model, from 0."""
    heads: int
    """H: query heads of the block."""
    in_features: int
    out_features: int
    groups: int = 1
    """Query heads per head of this matrix: more than 1 for k and v where queries are grouped."""
    rows: Rows | None = None
    """Its outputs in the module; ``None``: all of them."""
    slice_width: int | None = None
    """Of the feed-forward: the width of all query heads. The matrix counts as slices of that many rows (``up``,
    ``gate``) or columns (``down``), the last one cut, so that one tensor spans it with the attention's."""

    @property
    def module(self) -> str:
        """Path of the Linear (or Conv1D) in the model."""
        return self.name if self.rows is None else self.name.removesuffix(f":{self.role}")

    def row_index(self, device: torch.device) -> Tensor:
        """Return the row in its module of every output."""
        if self.rows is None:
            return torch.arange(self.out_features, device=device)
        return self.rows.index(self.out_features, device)

    @property
    def key(self) -> str:
        """Layer and role, ``layer3_q``: the name of factors of its own, which holds no dot."""
        return f"layer{self.layer}_{self.role}"

    @property
    def own_heads(self) -> int:
        """Heads of this matrix: H, or fewer for k and v where queries are grouped."""
        return self.heads // self.groups

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.head_width // self.own_heads

    @property
    def ends_sublayer(self) -> bool:
        """Whether it writes to the residual stream, so that heads and slices are on its input."""
        return self.role in ("o", "down")

    @property
    def residual_width(self) -> int:
        """d on the side of the residual stream: the output of o and down, the input of the others."""
        return self.out_features if self.ends_sublayer else self.in_features

    @property
    def far_width(self) -> int:
        """Width on the other side, that of the heads or of the slices."""
        return self.in_features if self.ends_sublayer else self.out_features

    @property
    def head_width(self) -> int:
        """Width on the side of the heads, head-major; in the feed-forward, of one slice."""
        return self.slice_width or self.far_width

    @property
    def slices(self) -> int:
        """How many matrices of the tensor this one counts for."""
        return -(-self.far_width // self.head_width)

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out), in the feed-forward of a whole slice."""
        narrow = self.residual_width, self.head_width
        return narrow[::-1] if self.ends_sublayer else narrow


@dataclass(frozen=True)
class Layout:
    """How a family of models names the projections below an attention block.

    Where q, k and v share a path, ``order`` says how they lie in it, and ``classes`` names the blocks of which that is
    known: the names of the modules alone do not tell (Falcon and BLOOM use the same for different orders).
    """

    family: str
    names: str
    """Paths of q, k, v and o."""
    attention: str = ""
    """Path of the module that knows the number of heads."""
    order: Literal["separate", "blocks", "by head"] = "separate"
    classes: tuple[str, ...] = ()
    feed_forward: str = ""
    """Where the layer around it has several feed-forwards, up and down of this attention; else ``FEED_FORWARDS``."""

    @property
    def paths(self) -> dict[str, str]:
        """Paths by role."""
        return dict(zip(ROLES, self.names.split(), strict=True))


LAYOUTS = (
    Layout("fair-esm, BART, OPT", "q_proj k_proj v_proj out_proj"),
    Layout("Llama, Mistral, Qwen", "q_proj k_proj v_proj o_proj"),
    Layout("BERT, RoBERTa, ESM (transformers)", "self.query self.key self.value output.dense", attention="self"),
    Layout("DistilBERT", "q_lin k_lin v_lin out_lin"),
    Layout("Phi", "q_proj k_proj v_proj dense"),
    Layout("ALBERT", "query key value dense", classes=("AlbertAttention",)),
    Layout("DeBERTa-v2", "self.query_proj self.key_proj self.value_proj output.dense", attention="self"),
    Layout("T5, mT5, MPNet", "q k v o", classes=("T5Attention", "MT5Attention", "UMT5Attention", "MPNetSelfAttention")),
    Layout("ModernBERT", "Wqkv Wqkv Wqkv Wo", order="blocks", classes=("ModernBertAttention",)),
    Layout(
        "ESM-C (esm)",
        "layernorm_qkv.1 layernorm_qkv.1 layernorm_qkv.1 out_proj",
        order="blocks",
        classes=("MultiHeadAttention",),
    ),
    Layout("GPT-2", "c_attn c_attn c_attn c_proj", order="blocks", classes=("GPT2Attention",)),
    Layout("Phi-3", "qkv_proj qkv_proj qkv_proj o_proj", order="blocks", classes=("Phi3Attention",)),
    Layout(
        "GPT-NeoX, BLOOM",
        "query_key_value query_key_value query_key_value dense",
        order="by head",
        classes=("GPTNeoXAttention", "BloomAttention"),
    ),
    Layout(
        "trunk of ESMFold, over the sequence",
        "proj proj proj o_proj",
        order="by head",
        classes=("SequenceAttention", "EsmFoldSelfAttention"),
        feed_forward="mlp_seq.mlp.1 mlp_seq.mlp.3",
    ),
    Layout(
        "trunk of ESMFold, over rows and columns",
        "linear_q linear_k linear_v linear_o",
        classes=("GatedAttention",),
        feed_forward="mlp_pair.mlp.1 mlp_pair.mlp.3",
    ),
)

FEED_FORWARDS: tuple[dict[str, str], ...] = (
    {"up": "fc1", "down": "fc2"},  # fair-esm, BART and OPT
    {"up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"},  # Llama and relatives
    {"up": "intermediate.dense", "down": "output.dense"},  # BERT, RoBERTa and ESM
    {"up": "mlp.c_fc", "down": "mlp.c_proj"},  # GPT-2
    {"up": "mlp.fc1", "down": "mlp.fc2"},  # Phi and ViT
    {"up": "mlp.fc_in", "down": "mlp.fc_out"},  # GPT-J
    {"up": "ffn", "down": "ffn_output"},  # ALBERT
    {"up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},  # GPT-NeoX and BLOOM
    {"up": "ffn.lin1", "down": "ffn.lin2"},  # DistilBERT
    {"gate": "mlp.gate_up_proj", "up": "mlp.gate_up_proj", "down": "mlp.down_proj"},  # Phi-3
    {"gate": "mlp.Wi", "up": "mlp.Wi", "down": "mlp.Wo"},  # ModernBERT
    {"gate": "ffn.1", "up": "ffn.1", "down": "ffn.3"},  # ESM-C of the package esm
)
"""Paths of the linear maps of the feed-forward, below a layer; of one matrix, in the order in which they lie in it."""

FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj")
"""Names under which models keep q, k and v in one matrix."""

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def find_sites(model: nn.Module, targets: Iterable[str] = ROLES) -> list[Site]:
    """Return all sites of ``model`` for the roles in ``targets``, block by block, in the order of ``ALL_ROLES``.

    ``targets`` may be ``"all-linear"``, or all seven roles, which means the same: of a model without gates, the others.

    Raises a one-line ``ValueError`` when there is no attention block that a layout describes, when a block lacks a
    projection or a feed-forward of a known name that is wanted, reads weights behind the module's back, or has heads
    that do not fit its widths.
    """
    modules = dict(model.named_modules())
    blocks = [(path, layout) for path in modules for layout in LAYOUTS if _is_block(modules, path, layout)]
    if not blocks:
        raise ValueError(_nothing_found(model, modules))
    _refuse_half(modules, [path for path, _ in blocks])
    wanted = ALL_ROLES if targets == ALL_LINEAR else tuple(targets)
    found: dict[str, Site] = {}
    for layer, (path, layout) in enumerate(blocks):
        sites = list(_block_sites(model, modules, path, layout, layer))
        if set(wanted) - set(ROLES):
            sites += sorted(
                _feed_forward_sites(modules, path, layout, sites), key=lambda site: ALL_ROLES.index(site.role)
            )
        for site in sites:
            found.setdefault(site.name, site)  # cross-attention shares the feed-forward of its layer
    sites = [site for site in found.values() if site.role in wanted]
    for role in wanted:
        if set(wanted) != set(ALL_ROLES) and not any(site.role == role for site in sites):
            raise ValueError(f"{type(model).__name__} has no matrix for the role {role!r}: leave it out of targets")
    return sites


def _block_sites(
    model: nn.Module, modules: dict[str, nn.Module], path: str, layout: Layout, layer: int
) -> Iterator[Site]:
    attention = modules[_join(path, layout.attention)]
    _refuse_weight_readers(_join(path, layout.attention), attention)
    if layout.order != "separate" and getattr(attention, "is_cross_attention", False):
        raise ValueError(f"{path} is cross-attention: {layout.paths['q']} holds k and v alone, which is not supported")
    shapes = {role: features(modules[_join(path, tail)], _join(path, tail)) for role, tail in layout.paths.items()}
    # q's width: that of its module, or, where the module holds k and v too, what comes back at the output projection
    width = shapes["q"][1] if layout.order == "separate" else shapes["o"][0]
    heads = _head_count(path, attention, model, width)
    head_dim = width // heads
    if layout.order == "separate":
        widths = {role: shapes[role][1] for role in "qkv"}
    else:
        shared = shapes["q"][1] - width
        widths = {"q": width, "k": shared // 2, "v": shared - shared // 2}
    for role in "kv":
        if widths[role] <= 0 or widths[role] % head_dim or heads % (widths[role] // head_dim):
            raise ValueError(
                f"{path}: {layout.paths[role]} has {widths[role]} outputs for {role}, which is no whole number of "
                f"heads of width {head_dim} that divides the {heads} query heads"
            )
    if layout.order == "by head" and len(set(widths.values())) > 1:
        raise ValueError(f"{path}: {layout.paths['q']} is interleaved by head, but k and v have fewer heads than q")
    start = 0
    for role, tail in layout.paths.items():
        name, (inputs, outputs) = _join(path, tail), shapes[role]
        groups = 1 if role == "o" else heads * head_dim // widths[role]
        if role == "o" or layout.order == "separate":
            yield Site(name, role, layer, heads, inputs, outputs, groups)
            continue
        if layout.order == "by head":
            rows = Rows(start * head_dim, head_dim, 3 * head_dim)
            start += 1
        else:
            rows = Rows(start, widths[role], widths[role])
            start += widths[role]
        yield Site(f"{name}:{role}", role, layer, heads, inputs, widths[role], groups, rows)


def feed_forward(
    modules: Iterable[str], block: str, known: tuple[dict[str, str], ...] = FEED_FORWARDS
) -> dict[str, str] | None:
    """Return the paths of the feed-forward by role, in the layer around the attention ``block``, if known.

    The layer is the closest module around it that has them, below the list of layers.
    """
    around, last = block, ""
    while not last.isdecimal():
        for tails in known:
            paths = {role: _join(around, tail) for role, tail in tails.items()}
            if all(path in modules for path in paths.values()):
                return paths
        if not around:
            break
        around, _, last = around.rpartition(".")
    return None


def _feed_forward_sites(
    modules: dict[str, nn.Module], block: str, layout: Layout, attention: list[Site]
) -> Iterator[Site]:
    own = layout.feed_forward.split()
    known = ({"up": own[0], "down": own[1]},) if own else FEED_FORWARDS
    paths = feed_forward(modules, block, known)
    query = attention[0]
    if paths is None:
        raise ValueError(
            f"no feed-forward of a known name beside {block or query.name}; target the attention alone; known names "
            f"are {'; '.join(', '.join(dict.fromkeys(tails.values())) for tails in known)}"
        )
    shapes = {role: features(modules[path], path) for role, path in paths.items()}
    inner = shapes["down"][0]
    for place, (role, path) in enumerate(paths.items()):
        inputs, outputs = shapes[role]
        fused = list(paths.values()).count(path) > 1
        if role != "down" and outputs != inner * (1 + fused):
            raise ValueError(f"{path} has {outputs} outputs, which do not fit the {inner} inputs of {paths['down']}")
        yield Site(
            f"{path}:{role}" if fused else path,
            role,
            query.layer,
            query.heads,
            inputs,
            inner if fused else outputs,
            rows=Rows(place * inner, inner, inner) if fused else None,
            slice_width=query.head_width,
        )


def features(module: nn.Module, name: str) -> tuple[int, int]:
    """Return (in, out) of a Linear or of GPT-2's Conv1D, adapted or not; ``ValueError`` for anything else."""
    base = base_linear(module)
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    weight = base.weight if is_conv1d(base) else None
    if isinstance(weight, Tensor):
        return weight.shape[0], weight.shape[1]
    raise ValueError(f"{name} is a {type(base).__name__}; only torch.nn.Linear and Conv1D can be adapted")


def is_conv1d(module: nn.Module) -> bool:
    """Return whether this is transformers' Conv1D: a Linear that keeps its weight as [in, out]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def base_linear(module: nn.Module) -> nn.Module:
    """Return the original module of an adapted one, else the module itself."""
    return getattr(module, "base_layer", module)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _is_block(modules: dict[str, nn.Module], path: str, layout: Layout) -> bool:
    named = all(_join(path, tail) in modules for tail in layout.paths.values())
    return named and (not layout.classes or type(modules[path]).__name__ in layout.classes)


def _head_count(path: str, attention: nn.Module, model: nn.Module, width: int) -> int:
    """Return H from the attention module, its config, or the model's config; or from its ``head_dim``."""
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
    """Refuse blocks that hand ``proj.weight`` to a function: they never call the projection with its adapter."""
    # fair-esm: without rotary embeddings (ESM-1b, ESM-1v) the block calls F.multi_head_attention_forward.
    if getattr(attention, "enable_torch_version", False) and not getattr(attention, "rot_emb", True):
        raise ValueError(
            f"{path} has no rotary embeddings and reads weights directly (fair-esm's ESM-1 models); "
            "it cannot be adapted, ESM-2 can"
        )


def _refuse_half(modules: dict[str, nn.Module], blocks: list[str]) -> None:
    """Refuse a model whose other layers have attention, or what replaces it, that no layout describes."""
    for path, module in modules.items():
        kind = type(module).__name__
        apart = not any(_below(path, block) or _below(block, path) for block in blocks)
        if not apart:
            continue
        outer, _, last = path.rpartition(".")
        twin = last.isdecimal() and any(  # a layer of the list in which the adapted ones are, but without attention
            type(modules[f"{outer}.{other}" if outer else other]) is type(module)
            for block in blocks
            if _below(block, outer)
            for other in [block.removeprefix(f"{outer}.").partition(".")[0]]
        )
        linear = sum(isinstance(part, nn.Linear) for part in module.modules())
        if linear and (twin or (linear > 2 and "SelfAttention" in kind)):
            raise ValueError(
                f"{path} of {kind} mixes its tokens by modules of unknown names, beside attention that is known; "
                "a model is adapted whole or not at all"
            )


def _below(path: str, other: str) -> bool:
    return not other or path == other or path.startswith(f"{other}.")


def _nothing_found(model: nn.Module, modules: dict[str, nn.Module]) -> str:
    known = "; ".join(f"{layout.family}: {', '.join(layout.paths.values())}" for layout in LAYOUTS)
    for path in modules:
        owner = type(modules[path.rpartition(".")[0]]).__name__
        name = path.rpartition(".")[2]
        if name in FUSED and (name != "in_proj" or "attention" in owner.lower()):  # Mamba's in_proj is something else
            return f"{path} of {owner} holds q, k and v in one matrix in an order that is not known here"
    if any(isinstance(module, nn.MultiheadAttention) for module in modules.values()):
        return "torch.nn.MultiheadAttention reads its weights directly; use a block with separate projections"
    return f"no attention projections found in {type(model).__name__}; known names are {known}"
