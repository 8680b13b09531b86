"""Decompositions: from the shared factors of an adapter to the factored update of one site.

Every method answers one question, ``update(site) -> SiteUpdate``: a thin matrix down, a thin matrix up and perhaps
a small one between. The layer multiplies activations by them; no dense dW exists outside of ``merge``. To add a
method, write a ``Factors`` class, say which sites share an instance (``group``), and enter it in ``DECOMPOSITIONS``.

Initialisation. Both choices start from dW = 0 with B = 0, so A and the C factors have no gradient at step 0.

``official``: A and every C by ``kaiming_uniform(a=sqrt 5)`` of a (rows x r) matrix, that is uniform within
1/sqrt(r), as in the authors' code. One Adam step of size eta moves B by eta, hence an element of dW by about
(alpha/r) sqrt(r) (3r)^-2 eta, which falls as r^-2.5 at a fixed alpha: each rank needs its own learning rate.

``unit``: A normal with variance 1/d, each C a random sign. The same step moves an element of dW by about
(alpha/r) sqrt(r/d) eta, exactly as for LoRA, so learning rates carry over from LoRA and, as with LoRA, from rank to
rank. Signs and not ones: with C = 1 every component starts on the same mean of the sites' gradients, with signs
each starts on a different combination of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorta.config import LortaConfig
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


class Factors(nn.Module):
    """The factors that one group of sites shares. Subclasses create them in ``__init__`` and fill ``zero``."""

    zero: tuple[str, ...] = ()
    """Names of the parameters that are zero at the start, so that dW is."""
    fixed: tuple[str, ...] = ()
    """Names of the parameters that never train: random projections, which are part of the file all the same."""

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Sites with the same key share an instance; keys hold no dot."""
        raise NotImplementedError

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__()

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """Draw the initial factors."""
        raise NotImplementedError

    def update(self, site: Site) -> SiteUpdate:
        """The factored update of one of this group's sites."""
        raise NotImplementedError


class CP(Factors):
    """LoRTA (arXiv 2410.04060, section 4): a tensor of order up to five in CP form.

    A [d, r] lies on the residual stream, B [d/H, r] within a head, C_H [H, r], C_L [L, r] and C_M [M, r] on heads,
    layers and matrices. With KR [d, r] the Khatri-Rao product of C_H and B (row h*(d/H)+i is C_H[h] * B[i]) and
    c = C_L[l] * C_M[m]: dW = KR diag(c) A^T for q, k, v, and A diag(c) KR^T for o, whose heads are on its input.
    Where queries are grouped, a key or value head takes the sum of its group's rows of C_H over the root of their
    number: each query head keeps a row of its own, and the step of the random signs its size.
    A mode outside of ``config.modes`` has no factor: its indices get tensors of their own (Table 2); without
    ``heads``, B is [d, r].
    """

    zero = ("B",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """One key per index of the modes that the tensor does not span."""
        layer = [] if "layers" in config.modes else [f"layer{site.layer}"]
        role = [] if "matrices" in config.modes else [site.role]
        return "_".join(layer + role) or "all"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        residual = _shared(sites, "residual_width")
        if "heads" in config.modes:
            _shared(sites, "heads")
            self._heads = max(site.own_heads for site in sites)
            inner = _shared(sites, "head_dim")
        else:
            inner = _shared(sites, "head_width")
        self._layers = {layer: row for row, layer in enumerate(sorted({site.layer for site in sites}))}
        self._roles = {role: row for row, role in enumerate(config.targets)}

        def factor(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(rows, config.r, device=device, dtype=dtype))

        self.A = factor(residual)
        self.B = factor(inner)
        self.C_H = factor(self._heads) if "heads" in config.modes else None
        self.C_L = factor(len(self._layers)) if "layers" in config.modes else None
        self.C_M = factor(len(self._roles)) if "matrices" in config.modes else None

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """B = 0 and the others as the module's docstring says."""
        width, r = self.A.shape
        for name, parameter in self.named_parameters():
            if name in self.zero:
                _fill(parameter, torch.zeros(parameter.shape))
            elif config.init == "official":
                _fill(parameter, _uniform(parameter.shape, r**-0.5, generator))
            elif name == "A":
                _fill(parameter, torch.randn(parameter.shape, generator=generator) * width**-0.5)
            else:
                _fill(parameter, torch.randint(0, 2, parameter.shape, generator=generator) * 2.0 - 1.0)

    def update(self, site: Site) -> SiteUpdate:
        """Down and up of ``site``, r components; the small C factors are multiplied first, so it costs O(d r)."""
        weights = None  # [r], or [H, r] with the head mode
        if self.C_L is not None:
            weights = self.C_L[self._layers[site.layer]]
        if self.C_M is not None:
            row = self.C_M[self._roles[site.role]]
            weights = row if weights is None else weights * row
        if self.C_H is not None:
            heads = self.C_H
            if site.own_heads < self._heads:  # grouped queries
                heads = heads.unflatten(0, (site.own_heads, -1)).sum(1) * (site.own_heads / self._heads) ** 0.5
            weights = heads if weights is None else heads * weights
            inner = (weights[:, None] * self.B).flatten(0, 1)  # [H, d/H, r] -> [d, r], head-major
        else:
            inner = self.B if weights is None else self.B * weights
        return SiteUpdate(down=inner.T, up=self.A) if site.role == "o" else SiteUpdate(down=self.A.T, up=inner)


class LoRA(Factors):
    """LoRA (arXiv 2106.09685): dW = B A with A [r, in] and B [out, r] of its own for every site."""

    zero = ("B",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Every site by itself."""
        return f"layer{site.layer}_{site.role}"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        self.A = nn.Parameter(torch.zeros(config.r, site.in_features, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(site.out_features, config.r, device=device, dtype=dtype))

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """B = 0; A uniform within 1/sqrt(in) (``official``, as in PEFT) or normal with variance 1/in (``unit``)."""
        width = self.A.shape[1]
        if config.init == "official":
            _fill(self.A, _uniform(self.A.shape, width**-0.5, generator))
        else:
            _fill(self.A, torch.randn(self.A.shape, generator=generator) * width**-0.5)
        _fill(self.B, torch.zeros(self.B.shape))

    def update(self, site: Site) -> SiteUpdate:
        """A and B themselves."""
        return SiteUpdate(down=self.A, up=self.B)


DECOMPOSITIONS: dict[str, type[Factors]] = {"lorta": CP, "lora": LoRA}


def _shared(sites: list[Site], attribute: str) -> int:
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


def _uniform(shape: torch.Size, bound: float, generator: torch.Generator | None) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


@torch.no_grad()
def _fill(parameter: nn.Parameter, value: Tensor) -> None:
    """Values are drawn on the CPU in float32, so that a seed means the same on every device."""
    parameter.copy_(value)
