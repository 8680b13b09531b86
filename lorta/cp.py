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
from torch import nn

from lorta.config import MODES, ROLES, LortaConfig
from lorta.factors import (
    Factors,
    SiteUpdate,
    count_rows,
    fill,
    group_heads,
    new_parameter,
    ordinals,
    role_rows,
    shared,
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
    Grouped queries: see ``group_heads``. ``config.axis`` puts the heads elsewhere, as the authors' codes do.
    A mode outside of ``config.modes`` has no factor: its indices get tensors of their own (Table 2); without
    ``heads``, B is [d, r].

    A feed-forward matrix is slices of the shape of the query projection, the last one cut, and each slice a row of C_M
    (as FacT slices, arXiv 2212.03145): W_up [f, d] has KR diag(c_s) at the rows of slice s and A at its input, W_down
    [d, f] the transpose of that, so each matrix has an update of rank r and A meets its activations once. A tensor
    without the matrix mode keeps C_M for the slices of its one role.
    """

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """One key per index of the modes that the tensor does not span."""
        return unspanned_modes(site, config)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        self.zero = ("A",) if config.init == "balanced" else ("B",)
        self._axis = config.axis
        self.gain = 1.0
        residual = shared(sites, "residual_width")
        if "heads" in config.modes:
            shared(sites, "heads")
            heads = max(site.own_heads for site in sites)
            inner = shared(sites, "head_dim")
        else:
            heads, inner = 1, shared(sites, "head_width")
        self._layers = ordinals(sites)
        self._rows = role_rows(sites)

        def factor(rows: int) -> nn.Parameter:
            return new_parameter(rows, config.r, like=(device, dtype))

        self.A = factor(residual)
        self.B = factor(inner)
        self.C_H = factor(heads) if "heads" in config.modes else None
        self.C_L = factor(len(self._layers)) if "layers" in config.modes else None
        matrices = count_rows(self._rows)
        self.C_M = factor(matrices) if "matrices" in config.modes or matrices > 1 else None

        if config.init == "balanced":
            factors = len(list(self.parameters())) - 1  # those beside A
            self.gain = BALANCED**-factors * (3 * residual) ** -0.5

        if config.axis == "litgpt" and (config.modes != MODES or config.targets != ROLES):
            raise ValueError("axis 'litgpt' needs all three modes and all four roles, as in the authors' code")
        if config.axis != "paper" and any(site.in_features != site.out_features for site in sites):
            raise ValueError(
                f"axis {config.axis!r} needs square matrices; {sites[0].name} and its like are not all square"
            )

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """See the module."""
        width, r = self.A.shape
        for name, parameter in self.named_parameters():
            if name in self.zero:
                fill(parameter, torch.zeros(parameter.shape))
            elif config.init == "official":
                fill(parameter, uniform(parameter.shape, r**-0.5, generator))
            elif config.init == "balanced":
                draw = torch.randn(parameter.shape, generator=generator)
                fill(parameter, BALANCED * draw / draw.square().mean(0).sqrt())
            elif name == "A":
                fill(parameter, torch.randn(parameter.shape, generator=generator) * width**-0.5)
            else:
                fill(parameter, (torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1).float())

    def update(self, site: Site) -> SiteUpdate:
        """Down and up of ``site``, r components; the small C factors are multiplied first, so it costs O(d r)."""
        weights = self.B.new_ones(1, 1)  # [slices, r], or [slices, H, r] with the head mode
        if self.C_L is not None:
            weights = self.C_L[self._layers[site.layer], None]
        if self._axis == "litgpt" and site.role != "o":
            weights = weights * self.C_M[self._scrambled(site, 0)]  # [H, r]
        elif self.C_M is not None:
            weights = weights * self.C_M[self._rows[site.role]]
        if self.C_H is not None:
            heads = group_heads(self.C_H, site.own_heads)
            if self._axis == "litgpt" and site.role != "o":
                weights = heads[self._scrambled(site, 1)] * weights
            else:
                weights = (heads * weights[:, None]).flatten(0, 1)
        inner = (weights[:, None] * self.B).flatten(0, 1)  # [slices H, d/H, r] -> [slices d, r], head-major
        if self.gain != 1:
            inner = inner * self.gain
        if self._axis == "paper":
            return toward_heads(site, self.A, inner)
        return SiteUpdate(down=inner.T, up=self.A) if self._axis == "input" else SiteUpdate(down=self.A.T, up=inner)

    def _scrambled(self, site: Site, which: int) -> list[int]:
        """For each head of q, k or v, whose rows the authors' litgpt code gives it: roles (0) or heads (1).

        It adds [dQ; dK; dV], one after the other, to a fused matrix that holds q, k, v of head 0, then of head 1, ...
        """
        rows = [divmod(3 * head + self._rows[site.role].start, site.heads) for head in range(site.heads)]
        return [row[which] for row in rows]
