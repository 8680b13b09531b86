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
        """Return dW [out, in]: for merging and for tests, never for a forward pass."""
        return self.up @ self.down if self.core is None else self.up @ self.core @ self.down

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return down and up with the core multiplied into down."""
        return self.down if self.core is None else self.core @ self.down, self.up


def stack(parts: list[tuple[Site, SiteUpdate]], out_features: int) -> SiteUpdate:
    """Return the update of a module that holds several roles, from those of its sites; each keeps its own rows.

    Their downs are stacked, their ups lie in rows of their own: one product of rank sum(k) in place of several. The
    roles that are not adapted have zero rows.
    """
    downs, ups = [], []
    for site, update in parts:
        down, up = update.pair()
        downs.append(down)
        ups.append(up.new_zeros(out_features, up.shape[1]).index_copy(0, site.row_index(up.device), up))
    return SiteUpdate(down=torch.cat(downs), up=torch.cat(ups, dim=1))


class Factors(nn.Module, ABC):
    """The factors that one group of sites shares. Subclasses create them in ``__init__`` and fill ``zero``."""

    zero: tuple[str, ...] = ()
    """Names of the parameters that are zero at the start, so that dW is."""
    fixed: tuple[str, ...] = ()
    """Names of the parameters that never train: random projections, which are part of the file all the same."""

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Return a key, without a dot; sites with the same key share an instance. Default: all sites of the model."""
        return "all"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.config = config
        self._like = device, dtype

    def factor(self, *shape: int) -> nn.Parameter:
        """Return a factor of ``shape``, zero until ``reset_parameters``."""
        return new_parameter(*shape, like=self._like)

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the initial factors, in the order in which they were created; those of ``zero`` are zero."""
        for name, parameter in self.named_parameters():
            shape = parameter.shape
            fill(parameter, torch.zeros(shape) if name in self.zero else self.start(name, shape, generator))

    @abstractmethod
    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Return the start of the factor ``name``, which is not one of ``zero``, drawn on the CPU in float32."""

    @abstractmethod
    def update(self, site: Site) -> SiteUpdate:
        """Return the factored update of one of this group's sites."""


def toward_heads(site: Site, residual: Tensor, inner: Tensor) -> SiteUpdate:
    """Return the update with ``residual`` [d, k] on the residual stream and ``inner`` on the heads or slices.

    ``inner`` [far width, k], or longer by what the last slice is cut. dW is inner residual^T, and residual inner^T for
    o and down, whose heads or slices are on their input.
    """
    inner = inner[: site.far_width]
    return SiteUpdate(down=inner.T, up=residual) if site.ends_sublayer else SiteUpdate(down=residual.T, up=inner)


def every_site(site: Site, config: LortaConfig) -> str:
    """Return a group for ``site`` alone."""
    return site.key


def unspanned_modes(site: Site, config: LortaConfig) -> str:
    """Return the group of ``site``: the layer and role, where ``config``'s tensors do not span them, or ``all``."""
    layer = [] if config.spans("layers") else [f"layer{site.layer}"]
    role = [] if config.spans("matrices") else [site.role]
    return "_".join(layer + role) or "all"


def group_heads(rows: Tensor, own_heads: int) -> Tensor:
    """Return one row per head of the site, [own_heads, ...], from one per query head, [H, ...].

    Where queries are grouped, a key or value head takes the sum of its group's rows over the root of their number: each
    query head keeps a row of its own, and a sum of random signs keeps the size of one.
    """
    heads = rows.shape[0]
    return rows if own_heads == heads else rows.unflatten(0, (own_heads, -1)).sum(1) * (own_heads / heads) ** 0.5


def new_parameter(*shape: int, like: tuple[torch.device, torch.dtype]) -> nn.Parameter:
    """Return zeros of ``shape``."""
    device, dtype = like
    return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))


def ordinals(sites: list[Site]) -> dict[int, int]:
    """Return layer -> its row in a factor over layers."""
    return {layer: row for row, layer in enumerate(sorted({site.layer for site in sites}))}


def role_rows(sites: list[Site]) -> dict[str, slice]:
    """Return role -> its rows in a factor over matrices: one, or in the feed-forward one for every slice."""
    rows: dict[str, slice] = {}
    for role in ALL_ROLES:
        slices = max((site.slices for site in sites if site.role == role), default=0)
        if slices:
            start = count_rows(rows)
            rows[role] = slice(start, start + slices)
    return rows


def count_rows(rows: dict) -> int:
    """Return the number of rows of all slices of ``rows`` together."""
    return sum(part.stop - part.start for part in rows.values())


def shared(sites: list[Site], attribute: str) -> int:
    """Return the number that all sites have under ``attribute``; a tensor has one length per mode."""
    first = getattr(sites[0], attribute)
    for site in sites:
        value = getattr(site, attribute)
        if value != first:
            raise ValueError(
                f"one tensor needs the same {attribute.replace('_', ' ')} at all its sites: {sites[0].name} has "
                f"{first}, {site.name} has {value}; use fewer modes or method 'lora'"
            )
    return first


def shared_shape(sites: list[Site]) -> tuple[int, int]:
    """Return (in, out), which all sites have."""
    shared(sites, "shape")
    return sites[0].shape


def uniform(shape: torch.Size, bound: float, generator: torch.Generator | None) -> Tensor:
    """Return numbers uniform within ``bound``."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def signs(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Return 1 or -1 at random."""
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


@torch.no_grad()
def fill(parameter: nn.Parameter, value: Tensor) -> None:
    """Copy ``value``, drawn on the CPU in float32, so that a seed means the same on every device."""
    parameter.copy_(value)
