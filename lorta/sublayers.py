"""Where the attention and the feed-forward of every layer end: the linear modules before the residual is added."""

from dataclasses import dataclass

from torch import nn

from lorta.sites import features, find_sites

FEED_FORWARD = ("fc2", "mlp.down_proj", "output.dense", "mlp.c_proj", "mlp.dense_4h_to_h", "ffn.lin2")
"""Paths of the last linear module of the feed-forward, below a layer: fair-esm, BART and OPT; Llama and relatives;
BERT, RoBERTa and ESM; GPT-2; GPT-NeoX and BLOOM; DistilBERT."""


@dataclass(frozen=True)
class SublayerEnd:
    """One linear module whose output is added to the residual stream."""

    path: str
    layer: int
    kind: str
    """``attention`` or ``feedforward``."""
    width: int
    """Its outputs."""


def sublayer_ends(model: nn.Module) -> list[SublayerEnd]:
    """Both ends of every layer, in order. ``ValueError`` where a layer has no feed-forward of a known name."""
    modules = dict(model.named_modules())
    ends, seen = [], set()
    for site in find_sites(model, ("o",)):
        path = _feed_forward(modules, site.module)
        if path is None or path in seen:
            raise ValueError(f"no feed-forward found beside {site.module}; known names are {', '.join(FEED_FORWARD)}")
        seen.add(path)
        ends.append(SublayerEnd(site.module, site.layer, "attention", features(modules[site.module], site.module)[1]))
        ends.append(SublayerEnd(path, site.layer, "feedforward", features(modules[path], path)[1]))
    return ends


def _feed_forward(modules: dict[str, nn.Module], attention_end: str) -> str | None:
    """In the closest module around ``attention_end`` that has one: the layer, whatever the depth of the attention."""
    around = attention_end
    while around:
        around = around.rpartition(".")[0]
        for tail in FEED_FORWARD:
            path = f"{around}.{tail}" if around else tail
            if path in modules and path != attention_end:
                return path
    return None
