"""Tensors over sites in other forms than CP with one scale: LoTR, FacT, MetaTT, TensLoRA and CaRA.

The sources put the first factor on the input and the last on the output of every matrix (LoTR, FacT, MetaTT-4D). Where
a method has a mode of heads, the factor without heads lies on the residual stream, as in LoRTA: on the input of q, k, v
and on the output of o, because the heads of o are on its input.

A feed-forward matrix counts as slices of the shape of the query projection (as FacT counts 12 L matrices), each with a
core of its own; side by side they are one update of the matrix, of the rank that a slice has.
"""

import torch
from torch import Tensor, nn

from lorta.config import LortaConfig
from lorta.factors import (
    Factors,
    SiteUpdate,
    count_rows,
    group_heads,
    ordinals,
    role_rows,
    shared,
    shared_shape,
    signs,
    toward_heads,
    uniform,
    unspanned_modes,
)
from lorta.sites import Site


class _Indexed(Factors):
    """Factors with rows per layer, role or site; U and V for the two widths of all matrices."""

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        self._layers = ordinals(sites)
        self._roles = role_rows(sites)
        self._sites: dict[tuple[int, str], slice] = {}
        for site in sites:
            start = count_rows(self._sites)
            self._sites[site.layer, site.role] = slice(start, start + site.slices)

    def _rows(self, site: Site) -> slice:
        return self._sites[site.layer, site.role]


def between(site: Site, U: Tensor, cores: Tensor, V: Tensor) -> SiteUpdate:
    """Return the update whose slices are V cores[n]^T U^T: U [slice in, r], cores [slices, r, r], V [slice out, r]."""
    if site.slices == 1 and site.far_width == site.head_width:
        return SiteUpdate(down=U.T, up=V, core=cores[0].T)
    if site.ends_sublayer:
        return SiteUpdate(down=(U @ cores).flatten(0, 1)[: site.far_width].T, up=V)
    return SiteUpdate(down=U.T, up=(V @ cores.transpose(1, 2)).flatten(0, 1)[: site.far_width])


class FacTTT(_Indexed):
    """FacT-TT (arXiv 2212.03145): dW = V S_n^T U^T, with U [in, r] and V [out, r] shared, S_n [r, r] of its own.

    Count 2 d r + n r^2 for n sites. V starts at 0; U and S as torch's Linear starts: uniform within 1/sqrt(in) and
    1/sqrt(r).
    """

    zero: tuple[str, ...] = ("V",)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        inputs, outputs = shared_shape(sites)
        self.U = self.factor(inputs, config.r)
        self.V = self.factor(outputs, config.r)
        self.S = self.factor(count_rows(self._sites), config.r, config.r)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return uniform(shape, (shape[0] if name == "U" else self.config.r) ** -0.5, generator)

    def update(self, site: Site) -> SiteUpdate:
        """Join U, the site's cores and V."""
        return between(site, self.U, self.S[self._rows(site)], self.V)


class LoTR(FacTTT):
    """LoTR (arXiv 2402.01376): the form of FacT-TT with another start: U and V standard normal, the cores at 0.

    r = 2 on q and v of RoBERTa-base has 3,168 parameters. The published scale is 1 / r.
    """

    zero = ("S",)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return torch.randn(shape, generator=generator)


class FacTTK(_Indexed):
    """FacT-TK (arXiv 2212.03145): dW = V (C x_3 P_n)^T U^T, with a core C [r, r, r] and P [n, r].

    Count 2 d r + n r + r^3. V starts at 0, U uniform within 1/sqrt(in), C and P normal with variance 1/r.
    """

    zero = ("V",)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        inputs, outputs = shared_shape(sites)
        self.U = self.factor(inputs, config.r)
        self.V = self.factor(outputs, config.r)
        self.C = self.factor(config.r, config.r, config.r)
        self.P = self.factor(count_rows(self._sites), config.r)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        if name == "U":
            return uniform(shape, shape[0] ** -0.5, generator)
        return torch.randn(shape, generator=generator) * self.config.r**-0.5

    def update(self, site: Site) -> SiteUpdate:
        """Contract C with the site's rows of P to its cores."""
        return between(site, self.U, (self.C @ self.P[self._rows(site)].T).movedim(2, 0), self.V)


class MetaTT4D(_Indexed):
    """MetaTT-4D (arXiv 2506.09105): dW^T = G_in G_L[l] G_M[m] G_out, a tensor train over (in, layer, matrix, out).

    Count 2 d r + (L + M) r^2. G_in starts at 0, the inner cores at the identity, G_out normal with variance 1/d: then
    the first step has LoRA's size whatever the number of cores. The paper compares several starts; this is our reading.
    """

    zero = ("G_in",)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        inputs, outputs = self._widths(sites)
        self._width = max(site.head_width for site in sites)
        self.G_in = self.factor(inputs, config.r)
        self.G_L = self.factor(len(self._layers), config.r, config.r)
        self.G_M = self.factor(count_rows(self._roles), config.r, config.r)
        self.G_out = self.factor(outputs, config.r)

    def _widths(self, sites: list[Site]) -> tuple[int, int]:
        return shared_shape(sites)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        if name == "G_out":
            return torch.randn(shape, generator=generator) * self._width**-0.5
        return torch.eye(self.config.r).expand(shape)

    def _cores(self, site: Site) -> Tensor:
        return self.G_L[self._layers[site.layer]] @ self.G_M[self._roles[site.role]]  # [slices, r, r]

    def update(self, site: Site) -> SiteUpdate:
        """Multiply the two inner cores."""
        return between(site, self.G_in, self._cores(site), self.G_out)


class MetaTT5D(MetaTT4D):
    """MetaTT-5D (arXiv 2506.09105): a further core G_H[h], and G_out [d/H, r] within a head.

    Count (d + d/H) r + (L + M + H) r^2. G_in lies on the residual stream, see the module.
    """

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        self.G_H = self.factor(max(site.own_heads for site in sites), config.r, config.r)

    def _widths(self, sites: list[Site]) -> tuple[int, int]:
        shared(sites, "heads")
        return shared(sites, "residual_width"), shared(sites, "head_dim")

    def update(self, site: Site) -> SiteUpdate:
        """Multiply all inner cores and G_out head by head: O(d r^2), no activation involved."""
        cores = self._cores(site)[:, None] @ group_heads(self.G_H, site.own_heads)  # [slices, H, r, r]
        return toward_heads(site, self.G_in, (self.G_out @ cores.transpose(2, 3)).flatten(0, 2))


class TensLoRA(_Indexed):
    """TensLoRA (arXiv 2509.19391): Tucker over (in, out) and any of heads, matrices, layers: seven sets of modes.

    dW^T[..., h] = sum over the core C of U, V and the rows of F_H, F_M, F_L. A mode of n entries has rank min(r, n), or
    the one in ``config.ranks``. Count sum n_i r_i + prod r_i per tensor. Factors start orthogonal; the core starts at
    0, our reading of how dW does. U is the mode ``in`` and V ``out`` for q, k, v; for o, U is on the output. A tensor
    without the matrix mode keeps F_M for the slices of its one role.
    """

    zero = ("C",)
    group = staticmethod(unspanned_modes)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        chosen, ranks = dict(config.ranks or ()), []

        def factor(mode: str, rows: int) -> nn.Parameter:
            rank = chosen.get(mode, min(config.r, rows))
            if rank > rows:  # columns could not be orthogonal
                raise ValueError(f"ranks: mode {mode!r} has {rows} entries, so its rank is at most that, got {rank}")
            ranks.append(rank)
            return self.factor(rows, rank)

        matrices = count_rows(self._roles)
        self.U = factor("in", shared(sites, "residual_width"))
        self.V = factor("out", shared(sites, "head_dim" if config.spans("heads") else "head_width"))
        self.F_H = factor("heads", max(site.own_heads for site in sites)) if config.spans("heads") else None
        self.F_M = factor("matrices", matrices) if config.spans("matrices") or matrices > 1 else None
        self.F_L = factor("layers", len(self._layers)) if config.spans("layers") else None
        self.C = self.factor(*ranks)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return torch.linalg.qr(torch.randn(shape, generator=generator)).Q

    def update(self, site: Site) -> SiteUpdate:
        """Contract the core with the site's rows, last mode first; what is left is [r, r] or [r, r, r_H]."""
        core: Tensor = self.C
        if self.F_L is not None:
            core = core @ self.F_L[self._layers[site.layer]]
        core = core[..., None] if self.F_M is None else core @ self.F_M[self._roles[site.role]].T
        core = core.movedim(-1, 0)  # slices first
        if self.F_H is None:
            return toward_heads(site, self.U, (self.V @ core.transpose(1, 2)).flatten(0, 1))
        cores = torch.einsum("siok,hk->shio", core, group_heads(self.F_H, site.own_heads))
        return toward_heads(site, self.U, (self.V @ cores.transpose(2, 3)).flatten(0, 2))


class CaRA(_Indexed):
    """CaRA (ICML 2025, openreview vexHifrbJg): CP with weights w, one tensor for q, k, v and one for the others.

    q, k, v: [3 L, d, H, d/H], one row of S per layer and matrix: r (3 L + d + H + d/H + 1) parameters. o: [L, d, d]: r
    (L + 2 d + 1); with up and down of width 4 d it is the source's [9 L, d, d].
    B starts at 0, w at 1, the others as LoRTA's ``unit`` factors: our reading.
    """

    zero = ("B",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Return the tensor with heads, or the one without, which is named by its attention matrix."""
        return "qkv" if site.role in "qkv" else "o"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        with_heads = sites[0].role in "qkv"
        self.A = self.factor(shared(sites, "residual_width"), config.r)
        self.B = self.factor(shared(sites, "head_dim" if with_heads else "head_width"), config.r)
        self.C_H = self.factor(max(site.own_heads for site in sites), config.r) if with_heads else None
        self.S = self.factor(count_rows(self._sites), config.r)
        self.w = self.factor(config.r)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        if name == "A":
            return torch.randn(shape, generator=generator) * shape[0] ** -0.5
        return torch.ones(shape) if name == "w" else signs(shape, generator)

    def update(self, site: Site) -> SiteUpdate:
        """Return the update of CP, with the rows of the site times w."""
        weights = self.S[self._rows(site)] * self.w  # [slices, r], or [H, r] with heads
        if self.C_H is not None:
            weights = group_heads(self.C_H, site.own_heads) * weights
        return toward_heads(site, self.A, (weights[:, None] * self.B).flatten(0, 1))
