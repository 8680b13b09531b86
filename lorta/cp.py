"""LoRTA: one tensor of order up to five in CP form.

Initialisation. All choices start from dW = 0 with one zero factor; the others have no gradient until it has moved.

``balanced``, the default: A = 0; B and every C normal, each column scaled to a root mean square of t = 0.02, and a
fixed gain t^-n / sqrt(3 d) of the update (n factors beside A), so that

- the first Adam step moves an element of dW by (alpha/r) sqrt(r / 3d) eta, exactly as LoRA's: its learning rates serve,
  and at alpha = r they serve every rank alike;
- every factor turns at one speed, eta / t per step (5 % at 1e-3, as LoRA's A does): a site moves along its own gradient
  only as far as the C factors point there, and with elements of size 1 they would need a thousand steps to change sign;
- the zero factor is the longest one. It is the one that the first step aligns with the gradient whatever the others
  are; those stay at random, and a random direction holds the fewer parts of a gradient the longer it is: 1/d of it for
  A, H/d for B.

Normal and not signs: products of normal numbers are unequal, so each component starts on a few sites of its own, and
the elements near zero change sign within a few steps.

``official``, the authors' code: B = 0, A and every C by ``kaiming_uniform(a=sqrt 5)`` of a (rows x r) matrix, that is
uniform within 1/sqrt(r). One Adam step of size eta moves an element of dW by about (alpha/r) sqrt(r) (3r)^-2 eta, which
falls as r^-2.5 at a fixed alpha: each rank needs its own learning rate.

``unit``: B = 0, A normal with variance 1/d, each C a random sign: LoRA's step too, but C turns by eta, 20 times slower
than A.
"""

import torch
from torch import Tensor

from lorta.config import LortaConfig
from lorta.factors import (
    Factors,
    SiteUpdate,
    count_rows,
    group_heads,
    ordinals,
    role_rows,
    shared,
    signs,
    toward_heads,
    uniform,
    unspanned_modes,
)
from lorta.sites import Site

BALANCED = 0.02
"""Root mean square of each column of B and of every C with ``balanced``."""


class CP(Factors):
    """LoRTA (arXiv 2410.04060, section 4): a tensor of order up to five in CP form.

    A [d, r] lies on the residual stream, B [d/H, r] within a head, C_H [H, r], C_L [L, r] and C_M [M, r] on heads,
    layers and matrices. With KR [d, r] the Khatri-Rao product of C_H and B (row h*(d/H)+i is C_H[h] * B[i]) and
    c = C_L[l] * C_M[m]: dW = KR diag(c) A^T for q, k, v, and A diag(c) KR^T for o, whose heads are on its input.
    Grouped queries: see ``group_heads``. ``config.axis`` puts the heads elsewhere.
    A mode outside of ``config.modes`` has no factor: its indices get tensors of their own (Table 2); without
    ``heads``, B is [d, r].

    A feed-forward matrix is slices of the shape of the query projection, the last one cut, and each slice a row of C_M
    (as FacT slices, arXiv 2212.03145): W_up [f, d] has KR diag(c_s) at the rows of slice s and A at its input, W_down
    [d, f] the transpose of that, so each matrix has an update of rank r and A meets its activations once. A tensor
    without the matrix mode keeps C_M for the slices of its one role.
    """

    group = staticmethod(unspanned_modes)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        self.zero = ("A",) if config.init == "balanced" else ("B",)
        self.gain = 1.0
        residual = shared(sites, "residual_width")
        heads = 0
        if config.spans("heads"):
            shared(sites, "heads")
            heads = max(site.own_heads for site in sites)
        self._layers = ordinals(sites)
        self._rows = role_rows(sites)
        matrices = count_rows(self._rows)
        self.A = self.factor(residual, config.r)
        self.B = self.factor(shared(sites, "head_dim" if heads else "head_width"), config.r)
        self.C_H = self.factor(heads, config.r) if heads else None
        self.C_L = self.factor(len(self._layers), config.r) if config.spans("layers") else None
        self.C_M = self.factor(matrices, config.r) if config.spans("matrices") or matrices > 1 else None
        if config.init == "balanced":
            factors = len(list(self.parameters())) - 1  # those beside A
            self.gain = BALANCED**-factors * (3 * residual) ** -0.5
        if config.axis != "paper" and any(site.in_features != site.out_features for site in sites):
            raise ValueError(
                f"axis {config.axis!r} needs square matrices; {sites[0].name} and its like are not all square"
            )

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the module."""
        if self.config.init == "official":
            return uniform(shape, self.config.r**-0.5, generator)
        if self.config.init == "balanced":
            draw = torch.randn(shape, generator=generator)
            return BALANCED * draw / draw.square().mean(0).sqrt()
        return torch.randn(shape, generator=generator) * shape[0] ** -0.5 if name == "A" else signs(shape, generator)

    def update(self, site: Site) -> SiteUpdate:
        """Return down and up of ``site``, r components; the small C are multiplied first, so it costs O(d r)."""
        weights = self.B.new_ones(1, 1)  # [slices, r], or [slices H, r] with the head mode
        if self.C_L is not None:
            weights = self.C_L[self._layers[site.layer], None]
        if self.C_M is not None:
            weights = weights * self.C_M[self._rows[site.role]]
        if self.C_H is not None:
            weights = (group_heads(self.C_H, site.own_heads) * weights[:, None]).flatten(0, 1)
        inner = (weights[:, None] * self.B).flatten(0, 1)  # [slices H, d/H, r] -> [slices d, r], head-major
        if self.gain != 1:
            inner = inner * self.gain
        if self.config.axis == "paper":
            return toward_heads(site, self.A, inner)
        return SiteUpdate(inner.T, self.A) if self.config.axis == "input" else SiteUpdate(self.A.T, inner)
