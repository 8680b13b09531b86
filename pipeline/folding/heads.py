"""Heads on the trunk's output: distogram, pLDDT and predicted aligned error."""

import torch
from torch import nn

from pipeline.folding.initialization import linear


class DistogramHead(nn.Linear):
    """Symmetric distogram logits (Jumper et al. 2021, suppl. 1.9.8)."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__(c_z, bins)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, N, N, bins] from ``z`` [B, N, N, c_z]."""
        logits = super().forward(z)
        return (logits + logits.transpose(1, 2)).mul_(0.5)  # mean, as ESMFold; OpenFold adds


class PlddtHead(nn.Sequential):
    """Logits of the lDDT bins per residue and atom, from the structure module's single states.

    ESMFold's layers: no activation between the Linears; ``atoms`` is 37 there, 1 gives one value per residue.
    """

    def __init__(self, c_s: int, c_hidden: int, atoms: int, bins: int) -> None:
        super().__init__(
            nn.LayerNorm(c_s),
            linear(c_s, c_hidden),
            linear(c_hidden, c_hidden),
            linear(c_hidden, atoms * bins, init="zero"),
        )
        self.atoms = atoms

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """[..., N, atoms, bins] from ``s`` [..., N, c_s]."""
        return super().forward(s).unflatten(-1, (self.atoms, -1))


class AlignedErrorHead(nn.Linear):
    """Logits of the aligned error's bins (Jumper et al. 2021, suppl. 1.9.7); ``losses/pae.py`` reads them."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__(c_z, bins)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, N, N, bins] from ``z`` [B, N, N, c_z]: error of residue j seen from frame i, not symmetric."""
        return super().forward(z)
