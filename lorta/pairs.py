"""Methods with two thin matrices for every site: trained (LoRA, LoRA-FA), scaled (VeRA), or made of fewer numbers
(NOLA, LoRETTA_rep, TT-LoRA)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lorta.config import LortaConfig
from lorta.factors import Factors, SiteUpdate, every_site, new_parameter, uniform
from lorta.sites import Site


class LoRA(Factors):
    """LoRA (arXiv 2106.09685): dW = B A with A [r, in] and B [out, r] of its own for every site.

    B starts at 0; A uniform within 1/sqrt(in) (``official``, as in PEFT) or normal with variance 1/in (``unit``).
    """

    zero = ("B",)
    group = staticmethod(every_site)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        self.A = self.factor(config.r, site.in_features)
        self.B = self.factor(site.out_features, config.r)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        if self.config.init == "official":
            return uniform(shape, shape[1] ** -0.5, generator)
        return torch.randn(shape, generator=generator) * shape[1] ** -0.5

    def update(self, site: Site) -> SiteUpdate:
        """Return A and B themselves."""
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

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        self.A = self.factor(config.r, max(site.in_features for site in sites))
        self.B = self.factor(max(site.out_features for site in sites), config.r)
        self.b = nn.ParameterDict({site.key: self.factor(site.out_features) for site in sites})
        self.d = nn.ParameterDict({site.key: self.factor(config.r) for site in sites})
        self.zero = tuple(f"b.{key}" for key in self.b)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return uniform(shape, (6 / shape[1]) ** 0.5, generator) if name in self.fixed else torch.full(shape, 0.1)

    def update(self, site: Site) -> SiteUpdate:
        """Return the site's part of A, with its rows scaled by d, and of B, with its rows scaled by b."""
        down = self.A[:, : site.in_features] * self.d[site.key][:, None]
        return SiteUpdate(down=down, up=self.B[: site.out_features] * self.b[site.key][:, None])


class NOLA(Factors):
    """NOLA (arXiv 2310.02556): A = sum_i a_i A_i and B = sum_j b_j B_j over random bases that a seed gives.

    A site trains ``bases`` numbers a and as many b; b starts at 0, a normal with variance 1 / bases. Bases are
    uniform within 1/sqrt(in) and 1/sqrt(r), drawn from ``config.seed`` (0 without one), shared by the sites of one
    shape, and no part of the file: it holds the seed.
    """

    A: Tensor
    B: Tensor

    @staticmethod
    def group(site: Site, config: LortaConfig) -> str:
        """Return a key per shape: such sites share the bases."""
        return f"{site.in_features}to{site.out_features}"

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        assert config.bases is not None
        self.a = nn.ParameterDict({site.key: self.factor(config.bases) for site in sites})
        self.b = nn.ParameterDict({site.key: self.factor(config.bases) for site in sites})
        self.zero = tuple(f"b.{site.key}" for site in sites)
        generator = torch.Generator().manual_seed(config.seed or 0)
        for name, shape in (("A", (config.r, sites[0].in_features)), ("B", (sites[0].out_features, config.r))):
            basis = uniform(torch.Size((config.bases, *shape)), shape[1] ** -0.5, generator)
            self.register_buffer(name, basis.to(device, dtype), persistent=False)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return torch.randn(shape, generator=generator) * shape[0] ** -0.5

    def update(self, site: Site) -> SiteUpdate:
        """Return the two combinations."""
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
    group = staticmethod(every_site)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        assert config.tt_rank is not None
        self.A = new_train((*modes_of(site.in_features), config.r), config.tt_rank, like=self._like)
        self.B = new_train((*modes_of(site.out_features), config.r), config.tt_rank, like=self._like)
        self._scales = {"A": train_scale(self.A, site.in_features**-1.0), "B": train_scale(self.B, 1.0)}

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        return torch.randn(shape, generator=generator) * self._scales[name.partition(".")[0]]

    def update(self, site: Site) -> SiteUpdate:
        """Return both trains contracted."""
        return SiteUpdate(down=contract(self.A).T, up=contract(self.B))


class TTLoRA(Factors):
    """TT-LoRA (arXiv 2408.01008): dW^T [in, out] of every site is one tensor train of rank ``r``.

    Modes: three factors of the input's width, then three of the output's, as equal as their divisors allow. Count: the
    sum of r_{i-1} k_i r_i over the six cores. Cut between the two widths it is a product of two thin matrices, of rank
    r. The last core starts at 0, the others have the variance that gives the first matrix elements of 1/in: our
    reading.
    """

    zero = ("G.5",)
    group = staticmethod(every_site)

    def __init__(self, sites: list[Site], config: LortaConfig, device: torch.device, dtype: torch.dtype):
        super().__init__(sites, config, device, dtype)
        (site,) = sites
        self._width = site.in_features
        self.G = new_train((*modes_of(site.in_features), *modes_of(site.out_features)), config.r, like=self._like)

    def start(self, name: str, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """See the class."""
        r = self.config.r
        first, second = (1 / self._width / r**2) ** (1 / 6), r**-0.5  # r^2 paths to an element of the first matrix
        return torch.randn(shape, generator=generator) * (first if name in ("G.0", "G.1", "G.2") else second)

    def update(self, site: Site) -> SiteUpdate:
        """Return both halves of the train contracted."""
        down = contract([*self.G[:2], self.G[2].flatten(1)[..., None]]).view(site.in_features, -1)
        first, middle, last = self.G[3:]
        up = (first @ middle.flatten(1)).reshape(len(last), -1, len(last)) @ last.flatten(1)  # [r, k_4 k_5, k_6]
        return SiteUpdate(down=down.T, up=up.flatten(1).T)


def modes_of(width: int) -> tuple[int, int, int]:
    """Return three factors of ``width``, the most equal ones (smallest sum), ascending: 768 -> (8, 8, 12)."""
    splits = [
        (a, b, width // (a * b))
        for a in range(1, math.isqrt(width) + 1)
        if width % a == 0
        for b in range(a, width // a + 1)
        if width // a % b == 0 and b <= width // (a * b)
    ]
    return min(splits, key=sum)


def new_train(modes: tuple[int, ...], rank: int, like: tuple[torch.device, torch.dtype]) -> nn.ParameterList:
    """Return zero cores [r_{i-1}, k_i, r_i] over ``modes``, with r_i = ``rank`` inside and 1 at both ends."""
    ranks = (1, *[rank] * (len(modes) - 1), 1)
    return nn.ParameterList(new_parameter(ranks[i], mode, ranks[i + 1], like=like) for i, mode in enumerate(modes))


def train_scale(cores: nn.ParameterList, variance: float) -> float:
    """Return the deviation of normal cores that gives the elements of their product ``variance``."""
    paths = cores[0].shape[2] ** (len(cores) - 1)  # products that add up to one element
    return (variance / paths) ** (0.5 / len(cores))


def contract(cores: Iterable[Tensor]) -> Tensor:
    """Return the matrix [k_1 ... k_{p-1}, k_p] of cores [r_{i-1}, k_i, r_i] with r_0 = r_p = 1."""
    first, *others = cores
    left = first[0]  # [k_1, r_1]
    for core in others:
        left = (left @ core.flatten(1)).view(-1, core.shape[2])  # [k_1 ... k_i, r_i]
    return left.view(-1, others[-1].shape[1])
