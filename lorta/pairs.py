"""Methods with a pair of matrices for every site: LoRA, LoRA-FA and VeRA."""

import torch
from torch import nn

from lorta.config import LortaConfig
from lorta.factors import Factors, SiteUpdate, fill, new_parameter, uniform
from lorta.sites import Site


class LoRA(Factors):
    """LoRA (arXiv 2106.09685): dW = B A with A [r, in] and B [out, r] of its own for every site."""

    zero = ("B",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Every site by itself."""
        return site.key

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        like = device, dtype
        self.A = new_parameter(config.r, site.in_features, like=like, trains="A" not in self.fixed)
        self.B = new_parameter(site.out_features, config.r, like=like)

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """B = 0; A uniform within 1/sqrt(in) (``official``, as in PEFT) or normal with variance 1/in (``unit``)."""
        width = self.A.shape[1]
        if config.init == "official":
            fill(self.A, uniform(self.A.shape, width**-0.5, generator))
        else:
            fill(self.A, torch.randn(self.A.shape, generator=generator) * width**-0.5)
        fill(self.B, torch.zeros(self.B.shape))

    def update(self, site: Site) -> SiteUpdate:
        """A and B themselves."""
        return SiteUpdate(down=self.A, up=self.B)


class LoRAFA(LoRA):
    """LoRA-FA (arXiv 2308.03303): LoRA whose A stays as it was drawn; B alone trains."""

    fixed = ("A",)


class VeRA(Factors):
    """VeRA (arXiv 2310.11454): dW = diag(b) B diag(d) A, with A [r, in] and B [out, r] random, fixed and shared.

    A site trains b [out], which starts at 0, and d [r], which starts at 0.1. Where sites differ in shape, A and B have
    the largest and a site takes their first columns and rows, as PEFT's does. A and B are uniform within
    sqrt(6 / fan-in) (kaiming).
    """

    fixed = ("A", "B")
    start = 0.1

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        like = device, dtype
        self.A = new_parameter(config.r, max(site.in_features for site in sites), like=like, trains=False)
        self.B = new_parameter(max(site.out_features for site in sites), config.r, like=like, trains=False)
        self.b = nn.ParameterDict({site.key: new_parameter(site.out_features, like=like) for site in sites})
        self.d = nn.ParameterDict({site.key: new_parameter(config.r, like=like) for site in sites})
        self.zero = tuple(f"b.{key}" for key in self.b)

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """Projections at random, d at 0.1, b at 0."""
        for projection in (self.A, self.B):
            fill(projection, uniform(projection.shape, (6 / projection.shape[1]) ** 0.5, generator))
        for values, start in ((self.b, 0.0), (self.d, self.start)):
            for parameter in values.values():
                fill(parameter, torch.full(parameter.shape, start))

    def update(self, site: Site) -> SiteUpdate:
        """The site's part of A, with its rows scaled by d, and of B, with its rows scaled by b."""
        down = self.A[:, : site.in_features] * self.d[site.key][:, None]
        return SiteUpdate(down=down, up=self.B[: site.out_features] * self.b[site.key][:, None])
