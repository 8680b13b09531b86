"""Where the attention and the feed-forward of every layer end: the linear modules before the residual is added."""

from dataclasses import dataclass

from torch import nn

from lorta.sites import FEED_FORWARDS, features, feed_forward, find_sites


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
        path = (feed_forward(modules, site.module) or {}).get("down")
        if path is None or path in seen:
            known = ", ".join(dict.fromkeys(tails["down"] for tails in FEED_FORWARDS))
            raise ValueError(f"no feed-forward found beside {site.module}; known names are {known}")
        seen.add(path)
        ends.append(SublayerEnd(site.module, site.layer, "attention", features(modules[site.module], site.module)[1]))
        ends.append(SublayerEnd(path, site.layer, "feedforward", features(modules[path], path)[1]))
    return ends
