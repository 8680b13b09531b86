"""Random inputs, made in float64 from a seed and given in the default type, so that both types see the same numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.structure.residues import ATOM37_INDEX, RESNAMES
from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import atom14_to_atom37, frames_to_atom14, torsions_to_frames
from tests.pipeline.rigid_forms import from_tensor_7, to_tensor_4x4, to_tensor_7

Features = dict[str, Tensor]
"""Tensors [B, ...] by OpenFold's names."""

LAYERS, BATCH, RESIDUES, PADDING = 3, 2, 26, 6
UNKNOWN = RESNAMES.index("UNK")
_BACKBONE_ATOMS = [ATOM37_INDEX[name] for name in ("N", "CA", "C", "O", "CB")]


class Random:
    """Numbers from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers."""
        numbers = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return numbers.to(torch.get_default_dtype())

    def unit(self, *shape: int) -> Tensor:
        """Unit vectors along the last dimension."""
        vectors = self.normal(*shape)
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1.0 with the probability, else 0.0."""
        numbers = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (numbers < probability).to(torch.get_default_dtype())

    def aatype(self, *shape: int) -> Tensor:
        """Residue types, the unknown one among them."""
        return torch.randint(0, len(RESNAMES), shape, generator=self.generator)

    def rigid(self, *shape: int, spread: float = 10.0) -> Rigid:
        """Transforms with translations of about ``spread`` angstrom."""
        return from_tensor_7(torch.cat((self.unit(*shape, 4), spread * self.normal(*shape, 3)), dim=-1))


def residue_mask() -> Tensor:
    """[B, N], the last sample padded."""
    mask = torch.ones(BATCH, RESIDUES)
    mask[-1, -PADDING:] = 0
    return mask


def protein(seed: int) -> Features:
    """Chains whose alpha carbons are 3.8 angstrom apart, otherwise random; atoms are missing, numbers jump once.

    The first sample has every residue type. Atoms are 0.1 angstrom from where ideal residues have them, and there are
    numbers under the mask.
    """
    rng = Random(seed)
    aatype = rng.aatype(BATCH, RESIDUES)
    order = torch.randperm(len(RESNAMES), generator=rng.generator)
    aatype[0, : len(RESNAMES)] = order
    trans = (3.8 * rng.unit(BATCH, RESIDUES, 3)).cumsum(1)
    backbone = Rigid(rng.rigid(BATCH, RESIDUES).rot, trans)
    drawn = torch.where(aatype == UNKNOWN, RESNAMES.index("ALA"), aatype)  # an unknown residue has a backbone too
    groups = torsions_to_frames(drawn, backbone, rng.unit(BATCH, RESIDUES, 7, 2))
    atoms, mask = atom14_to_atom37(drawn, frames_to_atom14(drawn, groups))
    there = torch.where(mask[..., None].bool(), atoms, 10 * rng.normal(*atoms.shape))
    residue_index = torch.arange(3, RESIDUES + 3).repeat(BATCH, 1)
    residue_index[:, RESIDUES // 2 :] += 4
    return {
        "aatype": aatype,
        "residue_index": residue_index,
        "seq_mask": residue_mask(),
        "all_atom_positions": there + 0.1 * rng.normal(*atoms.shape),
        "all_atom_mask": mask * rng.chance(0.95, *mask.shape) * residue_mask()[..., None],
    }


@dataclass(frozen=True)
class Prediction:
    """What a structure module could give for ``protein(seed)``; all leaves require gradients."""

    trajectory: Tensor
    """[layers, B, N, 7]: backbones nearer and nearer to the true ones, unit quaternions."""
    sidechain_frames: Tensor
    """[B, N, 8, 4, 4] of the last layer."""
    atom14: Tensor
    """[B, N, 14, 3] of the last layer."""
    unnormalized_angles: Tensor
    """[layers, B, N, 7, 2]."""
    angles: Tensor
    """[layers, B, N, 7, 2], unit vectors."""


def prediction(seed: int, features: Features) -> Prediction:
    """A prediction with errors of 20 to 1 angstrom, so that some pairs are clamped and some are not."""
    rng = Random(seed + 100)
    aatype, trans = features["aatype"], features["all_atom_positions"][..., ATOM37_INDEX["CA"], :]
    noise = torch.tensor([20.0, 5.0, 1.0])[:, None, None, None] * rng.normal(LAYERS, BATCH, RESIDUES, 3)
    backbone = Rigid(rng.rigid(LAYERS, BATCH, RESIDUES).rot, trans + noise)
    raw = rng.normal(LAYERS, BATCH, RESIDUES, 7, 2)
    angles = raw / raw.norm(dim=-1, keepdim=True)
    groups = torsions_to_frames(aatype, backbone[-1], angles[-1])
    leaves = (to_tensor_7(backbone), to_tensor_4x4(groups), frames_to_atom14(aatype, groups), raw, angles)
    return Prediction(*(leaf.requires_grad_() for leaf in leaves))
