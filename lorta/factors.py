"""What every method gives: the factored update of one site, from factors that sites share.

``update(site) -> SiteUpdate``: a thin matrix down, a thin matrix up and perhaps a small one between. The layer
multiplies activations by them; no dense dW exists outside of ``merge``. To add a method, write a ``Factors`` class, say
which sites share an instance (``group``), and enter it in ``lorta.methods``.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorta.config import ALL_ROLES, LortaConfig
from lorta.sites import Site


class SiteUpdate(NamedTuple):
    """dW (out x in) = up @ core @ down, without the scale alpha / r."""

    down: Tensor
    """[k, in]"""
    up: Tensor
    """[out, m]"""
    core: Tensor | None = None
    """[m, k]; ``None`` is the identity."""

    def dense(self) -> Tensor:
        """dW [out, in]: for merging and for tests, never for a forward pass."""
        return self.up @ self.down if self.core is None else self.up @ self.core @ self.down


def stack(parts: list[tuple[Site, SiteUpdate]], out_features: int) -> SiteUpdate:
    """The update of a module that holds several roles, from those of its sites; each keeps its own rows.

    Their downs are stacked, their ups lie in rows of their own: one product of rank sum(k) in place of several. The
    roles that are not adapted have zero rows.
    """
    downs, ups = [], []
    for site, update in parts:
        downs.append(update.down if update.core is None else update.core @ update.down)
        rows = site.rows.index(site.out_features, update.up.device)
        ups.append(update.up.new_zeros(out_features, update.up.shape[1]).index_copy(0, rows, update.up))
    return SiteUpdate(down=torch.cat(downs), up=torch.cat(ups, dim=1))


class Factors(nn.Module, ABC):
    """The factors that one group of sites shares. Subclasses create them in ``__init__`` and fill ``zero``."""

    zero: tuple[str, ...] = ()
    """Names of the parameters that are zero at the start, so that dW is."""
    fixed: tuple[str, ...] = ()
    """Names of the parameters that never train: random projections, which are part of the file all the same."""

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Sites with the same key share an instance; keys hold no dot. Default: all sites of the model."""
        return "all"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__()

    @abstractmethod
    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """Draw the initial factors."""

    @abstractmethod
    def update(self, site: Site) -> SiteUpdate:
        """The factored update of one of this group's sites."""


def toward_heads(site: Site, residual: Tensor, inner: Tensor) -> SiteUpdate:
    """The update with ``residual`` [d, k] on the residual stream and ``inner`` on the heads or slices.

    ``inner`` [far width, k], or longer by what the last slice is cut. dW is inner residual^T, and residual inner^T for
    o and down, whose heads or slices are on their input.
    """
    inner = inner[: site.far_width]
    return SiteUpdate(down=inner.T, up=residual) if site.ends_sublayer else SiteUpdate(down=residual.T, up=inner)


def unspanned_modes(site: Site, config: LortaConfig) -> str:
    """Group of ``site`` where a tensor spans ``config.modes``: the layer and role that it does not span, or ``all``."""
    layer = [] if "layers" in config.modes else [f"layer{site.layer}"]
    role = [] if "matrices" in config.modes else [site.role]
    return "_".join(layer + role) or "all"


def group_heads(rows: Tensor, own_heads: int) -> Tensor:
    """One row per query head, [H, ...], to one per head of the site, [own_heads, ...].

    Where queries are grouped, a key or value head takes the sum of its group's rows over the root of their number: each
    query head keeps a row of its own, and a sum of random signs keeps the size of one.
    """
    heads = rows.shape[0]
    return rows if own_heads == heads else rows.unflatten(0, (own_heads, -1)).sum(1) * (own_heads / heads) ** 0.5


def new_parameter(*shape: int, like: tuple[torch.device, torch.dtype], trains: bool = True) -> nn.Parameter:
    """Zeros of ``shape``; a factor that never trains is a parameter too, so that copies and files have it."""
    device, dtype = like
    return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype), requires_grad=trains)


def ordinals(sites: list[Site]) -> dict[int, int]:
    """Layer -> its row in a factor over layers."""
    return {layer: row for row, layer in enumerate(sorted({site.layer for site in sites}))}


def role_rows(sites: list[Site]) -> dict[str, slice]:
    """Role -> its rows in a factor over matrices: one, or in the feed-forward one for every slice."""
    rows: dict[str, slice] = {}
    start = 0
    for role in ALL_ROLES:
        slices = max((site.slices for site in sites if site.role == role), default=0)
        if slices:
            rows[role] = slice(start, start + slices)
            start += slices
    return rows


def count_rows(rows: dict) -> int:
    """Rows of all slices of ``rows`` together."""
    return sum(part.stop - part.start for part in rows.values())


def shared(sites: list[Site], attribute: str) -> int:
    """The value that all sites have; a tensor has one length per mode."""
    first = getattr(sites[0], attribute)
    for site in sites:
        value = getattr(site, attribute)
        if value != first:
            raise ValueError(
                f"one tensor needs the same {attribute.replace('_', ' ')} at all its sites: {sites[0].name} has "
                f"{first}, {site.name} has {value}; use fewer modes or method 'lora'"
            )
    return first


def uniform(shape: torch.Size, bound: float, generator: torch.Generator | None) -> Tensor:
    """Uniform within ``bound``."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


@torch.no_grad()
def fill(parameter: nn.Parameter, value: Tensor) -> None:
    """Values are drawn on the CPU in float32, so that a seed means the same on every device."""
    parameter.copy_(value)
