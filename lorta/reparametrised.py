"""LoRA whose two matrices are functions of fewer numbers: NOLA, LoRETTA_rep and TT-LoRA."""

import math

import torch
from torch import Tensor, nn

from lorta.config import LortaConfig
from lorta.factors import Factors, SiteUpdate, fill, new_parameter
from lorta.sites import Site


class NOLA(Factors):
    """NOLA (arXiv 2310.02556): A = sum_i a_i A_i and B = sum_j b_j B_j over random bases that a seed gives.

    A site trains ``bases`` numbers a and as many b; b starts at 0, a normal with variance 1 / bases. Bases are
    uniform within 1/sqrt(in) and 1/sqrt(r), drawn from ``config.seed`` (0 without one), shared by the sites of one
    shape, and no part of the file: it holds the seed.
    """

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Sites of one shape share the bases."""
        return f"{site.in_features}to{site.out_features}"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        like = device, dtype
        keys = [site.key for site in sites]
        self.a = nn.ParameterDict({key: new_parameter(config.bases, like=like) for key in keys})
        self.b = nn.ParameterDict({key: new_parameter(config.bases, like=like) for key in keys})
        self.zero = tuple(f"b.{key}" for key in keys)
        generator = torch.Generator().manual_seed(config.seed or 0)
        for name, shape in (("A", (config.r, sites[0].in_features)), ("B", (sites[0].out_features, config.r))):
            basis = (torch.rand((config.bases, *shape), generator=generator) * 2 - 1) * shape[1] ** -0.5
            self.register_buffer(name, basis.to(device, dtype), persistent=False)

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """See the class."""
        for key, parameter in self.a.items():
            fill(parameter, torch.randn(parameter.shape, generator=generator) * config.bases**-0.5)
            fill(self.b[key], torch.zeros(parameter.shape))

    def update(self, site: Site) -> SiteUpdate:
        """The two combinations."""
        return SiteUpdate(
            down=torch.einsum("n,nri->ri", self.a[site.key], self.A),
            up=torch.einsum("n,nor->or", self.b[site.key], self.B),
        )


class LoRETTARep(Factors):
    """LoRETTA_rep (arXiv 2402.11417): A^T [in, r] and B [out, r] of every site are tensor trains of rank ``tt_rank``.

    Modes: three factors of the width, as equal as its divisors allow, then r. Count: the sum of r_{i-1} k_i r_i over
    the cores. The published code has a table of modes for the widths of its models and no core at 0, so that its dW
    is not 0 at the start; here the last core of B is, and the others have the variance that gives A's elements 1/in.
    """

    zero = ("B.3",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Every site by itself."""
        return site.key

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        self._target = {"A": site.in_features**-1.0, "B": 1.0}  # variance of an element, were no core zero
        for name, width in (("A", site.in_features), ("B", site.out_features)):
            modes = (*modes_of(width), config.r)
            ranks = (1, *[config.tt_rank] * (len(modes) - 1), 1)
            cores = [new_parameter(ranks[i], mode, ranks[i + 1], like=(device, dtype)) for i, mode in enumerate(modes)]
            self.add_module(name, nn.ParameterList(cores))

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """See the class."""
        for name, variance in self._target.items():
            cores = getattr(self, name)
            paths = config.tt_rank ** (len(cores) - 1)  # products that add up to one element
            scale = (variance / paths) ** (0.5 / len(cores))
            for index, core in enumerate(cores):
                if f"{name}.{index}" in self.zero:
                    fill(core, torch.zeros(core.shape))
                else:
                    fill(core, torch.randn(core.shape, generator=generator) * scale)

    def update(self, site: Site) -> SiteUpdate:
        """Both trains contracted."""
        return SiteUpdate(down=contract(list(self.A)).T, up=contract(list(self.B)))


class TTLoRA(Factors):
    """TT-LoRA (arXiv 2408.01008): dW^T [in, out] of every site is one tensor train of rank ``r``.

    Modes: three factors of the input's width, then three of the output's, as equal as their divisors allow. Count: the
    sum of r_{i-1} k_i r_i over the six cores. Cut between the two widths it is a product of two thin matrices, of rank
    r. The last core starts at 0, the others have the variance that gives the first matrix elements of 1/in: our
    reading.
    """

    zero = ("G.5",)

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Every site by itself."""
        return site.key

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        modes = (*modes_of(site.in_features), *modes_of(site.out_features))
        ranks = (1, *[config.r] * 5, 1)
        self.G = nn.ParameterList(
            new_parameter(ranks[i], mode, ranks[i + 1], like=(device, dtype)) for i, mode in enumerate(modes)
        )

    def reset_parameters(self, config: LortaConfig, generator: torch.Generator | None) -> None:
        """See the class."""
        width = self.G[0].shape[1] * self.G[1].shape[1] * self.G[2].shape[1]
        first, second = (1 / width / config.r**2) ** (1 / 6), config.r**-0.5  # r^2 paths to an element of the first
        for index, core in enumerate(self.G[:5]):
            fill(core, torch.randn(core.shape, generator=generator) * (first if index < 3 else second))
        fill(self.G[5], torch.zeros(self.G[5].shape))

    def update(self, site: Site) -> SiteUpdate:
        """Both halves of the train contracted."""
        down = contract([*self.G[:2], self.G[2].flatten(1)[..., None]]).view(site.in_features, -1)
        first, middle, last = self.G[3:]
        up = (first @ middle.flatten(1)).reshape(len(last), -1, len(last)) @ last.flatten(1)  # [r, k_4 k_5, k_6]
        return SiteUpdate(down=down.T, up=up.flatten(1).T)


def modes_of(width: int) -> tuple[int, int, int]:
    """Three factors of ``width``, the most equal ones (smallest sum), in ascending order: 768 -> (8, 8, 12)."""
    splits = [
        (a, b, width // (a * b))
        for a in range(1, math.isqrt(width) + 1)
        if width % a == 0
        for b in range(a, width // a + 1)
        if width // a % b == 0 and b <= width // (a * b)
    ]
    return min(splits, key=sum)


def contract(cores: list[Tensor]) -> Tensor:
    """Cores [r_{i-1}, k_i, r_i] with r_0 = r_p = 1 to the matrix [k_1 ... k_{p-1}, k_p]."""
    left = cores[0][0]  # [k_1, r_1]
    for core in cores[1:]:
        left = (left @ core.flatten(1)).view(-1, core.shape[2])  # [k_1 ... k_i, r_i]
    return left.view(-1, cores[-1].shape[1])
