"""Between atoms, torsion angles and rigid groups (Jumper et al. 2021, suppl. 1.8.4 and 1.2.9).

Backwards, from a known structure to training targets: ``atom37_to_torsions``, ``atom37_to_rigid_groups``,
``atom37_to_atom14``, ``pseudo_beta``. Forwards, from the network's output to atoms: ``torsions_to_frames``,
``frames_to_atom14``, ``atom14_to_atom37``. Positions are in angstrom, ``...`` are any batch dimensions, and every
function computes in the dtype of its floating-point input. Masks may be bool or 0/1 floats on the way in and are 0/1
floats of the positions' dtype on the way out. A residue sees only itself and, for omega and phi, the row before it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from data_prep.structure import residues, rigid_groups
from data_prep.structure.residues import ATOM37_INDEX, RESNAMES
from pipeline.folding.frames import Rigid, compose_rotations

_EPS = 1e-8  # under the square roots of torsion sines and cosines, as in the reference
_GLY = RESNAMES.index("GLY")
_N, _CA, _C, _O, _CB = (ATOM37_INDEX[name] for name in ("N", "CA", "C", "O", "CB"))

_TABLES: dict[str, np.ndarray] = {
    "atom14_to_atom37": residues.RESTYPE_ATOM14_TO_ATOM37,
    "atom37_to_atom14": residues.RESTYPE_ATOM37_TO_ATOM14,
    "atom14_mask": residues.RESTYPE_ATOM14_MASK,
    "atom37_mask": residues.RESTYPE_ATOM37_MASK,
    "renaming_partner": residues.ATOM14_RENAMING_PARTNER,
    "is_ambiguous": residues.ATOM14_IS_AMBIGUOUS,
    "chi_atoms": residues.CHI_ATOM37_INDEX,
    "chi_mask": residues.CHI_MASK,
    "chi_pi_periodic": residues.CHI_PI_PERIODIC,
    "atom14_to_group": rigid_groups.ATOM14_TO_RIGID_GROUP,
    "ideal_atom14": rigid_groups.IDEAL_ATOM14_POSITIONS,
    "default_frames": rigid_groups.DEFAULT_GROUP_FRAMES,
    "group_atoms": rigid_groups.GROUP_FRAME_ATOMS,
    "group_exists": rigid_groups.GROUP_EXISTS,
    "group_is_ambiguous": rigid_groups.GROUP_IS_AMBIGUOUS,
}


@lru_cache(maxsize=256)
def _constant(name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    # A tensor made under inference_mode could not take part in a later training step.
    with torch.inference_mode(False):
        return torch.as_tensor(_TABLES[name]).to(device=device, dtype=dtype)


def residue_table(name: str, aatype: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Rows of a per-residue-type table (the names of ``_TABLES``) for each residue of ``aatype`` [..., N]."""
    return _constant(name, aatype.device, dtype)[aatype]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``values`` [..., A, 3] at ``index`` [..., B]: [..., B, 3]."""
    return torch.take_along_dim(values, index[..., None], dim=-2)


@dataclass(frozen=True, eq=False)
class Torsions:
    """Torsion angles of N residues in the order omega, phi, psi, chi1 to chi4."""

    sin_cos: Tensor
    """[..., N, 7, 2], unit vectors where the mask is 1. Omega is that of the peptide bond before the residue. Psi is
    the angle that places O, 180 degrees from the usual one."""
    alt_sin_cos: Tensor
    """[..., N, 7, 2]: the same, with chis that are symmetric under 180 degrees turned by as much."""
    mask: Tensor
    """[..., N, 7]: all four atoms are known."""


def atom37_to_torsions(aatype: Tensor, positions: Tensor, mask: Tensor) -> Torsions:
    """Torsion angles from atoms.

    ``aatype`` int [..., N], ``positions`` [..., N, 37, 3], ``mask`` [..., N, 37]. "Before" is the row before,
    whatever the residue numbers say, as in OpenFold; the first row has no omega and phi.
    """
    mask = mask.to(positions.dtype)
    previous = torch.nn.functional.pad(positions[..., :-1, :, :], (0, 0, 0, 0, 1, 0))  # [..., N, 37, 3]
    previous_mask = torch.nn.functional.pad(mask[..., :-1, :], (0, 0, 1, 0))
    chi_atoms = residue_table("chi_atoms", aatype)  # [..., N, 4, 4]
    chis = _pick(positions, chi_atoms.flatten(-2)).unflatten(-2, (4, 4))  # [..., N, 4 chis, 4 atoms, 3]
    chi_mask = torch.take_along_dim(mask, chi_atoms.flatten(-2), dim=-1).unflatten(-1, (4, 4)).prod(-1)
    chi_mask = chi_mask * residue_table("chi_mask", aatype, positions.dtype)

    n, ca, c, o = (positions[..., atom, :] for atom in (_N, _CA, _C, _O))  # [..., N, 3]
    ca_before, c_before = previous[..., _CA, :], previous[..., _C, :]
    omega_phi_psi = (ca_before, c_before, n, ca), (c_before, n, ca, c), (n, ca, c, o)
    backbone = torch.stack([torch.stack(atoms, dim=-2) for atoms in omega_phi_psi], dim=-3)  # [..., N, 3, 4, 3]
    whole = mask[..., _N] * mask[..., _CA]
    omega_mask = previous_mask[..., _CA] * previous_mask[..., _C] * whole
    phi_mask = previous_mask[..., _C] * whole * mask[..., _C]
    psi_mask = whole * mask[..., _C] * mask[..., _O]

    atoms = torch.cat((backbone, chis), dim=-3)  # [..., N, 7, 4, 3]
    a, b, c, d = atoms.unbind(-2)
    local = Rigid.from_3_points(b, c, a, eps=_EPS).invert_apply(d)  # x axis along the bond b-c, a in the xy plane
    sin_cos = torch.stack((local[..., 2], local[..., 1]), dim=-1)
    sin_cos = sin_cos / (sin_cos.square().sum(-1, keepdim=True) + _EPS).sqrt()
    # O lies opposite to the next N, which defines psi.
    sin_cos = torch.cat((sin_cos[..., :2, :], -sin_cos[..., 2:3, :], sin_cos[..., 3:, :]), dim=-2)

    periodic = residue_table("chi_pi_periodic", aatype, positions.dtype)
    mirror = torch.nn.functional.pad(1 - 2 * periodic, (3, 0), value=1.0)  # [..., N, 7]
    angle_mask = torch.cat((torch.stack((omega_mask, phi_mask, psi_mask), dim=-1), chi_mask), dim=-1)
    return Torsions(sin_cos, sin_cos * mirror[..., None], angle_mask)


@dataclass(frozen=True, eq=False)
class RigidGroups:
    """Frames of the 8 rigid groups (backbone, pre-omega, phi, psi, chi1 to chi4) of N residues of a known structure."""

    frames: Rigid
    """[..., N, 8]; identity where ``exists`` is 0 (OpenFold: undefined)."""
    alt_frames: Rigid
    """[..., N, 8]: the frames after interchangeable atoms have swapped their names."""
    exists: Tensor
    """[..., N, 8]: the three atoms of the frame are known."""
    group_exists: Tensor
    """[..., N, 8]: the residue type has this group."""
    is_ambiguous: Tensor
    """[..., N, 8]: groups where ``frames`` and ``alt_frames`` differ."""

    @property
    def backbone(self) -> Rigid:
        """[..., N]: origin on CA, C on the x axis, N in the xy plane."""
        return self.frames[..., 0]

    @property
    def backbone_mask(self) -> Tensor:
        """[..., N]."""
        return self.exists[..., 0]


def atom37_to_rigid_groups(aatype: Tensor, positions: Tensor, mask: Tensor) -> RigidGroups:
    """Rigid group frames from atoms (Alg. 21): ``aatype`` int [..., N], ``positions`` [..., N, 37, 3], ``mask``."""
    dtype = positions.dtype
    atoms = residue_table("group_atoms", aatype)  # [..., N, 8, 3]
    points = _pick(positions, atoms.flatten(-2)).unflatten(-2, (8, 3))  # [..., N, 8, 3 atoms, 3]
    known = torch.take_along_dim(mask.to(dtype), atoms.flatten(-2), dim=-1).unflatten(-1, (8, 3)).amin(-1)
    group_exists = residue_table("group_exists", aatype, dtype)
    exists = known * group_exists
    ambiguous = residue_table("group_is_ambiguous", aatype, dtype)

    before, origin, beside = points.unbind(-2)
    frames = Rigid.from_3_points(before, origin, beside, eps=_EPS)
    # Backbone: the table puts C on the negative x axis, the convention wants it on the positive one.
    turn = torch.ones(8, 3, dtype=dtype, device=positions.device)
    turn[0, 0] = turn[0, 2] = -1
    rot = frames.rot * turn[:, None, :]  # scales columns, that is R diag(turn)
    # A function of the mask, not of the values: garbage under the mask, NaN included, must not come out.
    there = exists.bool()
    rot = torch.where(there[..., None, None], rot, torch.eye(3, dtype=dtype, device=positions.device))
    trans = torch.where(there[..., None], frames.trans, torch.zeros_like(frames.trans))
    flip = 1 - 2 * ambiguous  # 180 degrees about x: y and z axes change sign
    alt_rot = rot * torch.stack((torch.ones_like(flip), flip, flip), dim=-1)[..., None, :]
    return RigidGroups(Rigid(rot, trans), Rigid(alt_rot, trans), exists, group_exists, ambiguous)


@dataclass(frozen=True, eq=False)
class Atom14:
    """Known atoms of N residues in the dense layout, with both namings of interchangeable atoms."""

    positions: Tensor
    """[..., N, 14, 3]; 0 where unknown."""
    exists: Tensor
    """[..., N, 14]: atoms whose position is known."""
    alt_positions: Tensor
    """[..., N, 14, 3]: positions after interchangeable atoms have swapped their names."""
    alt_exists: Tensor
    """[..., N, 14]."""
    atom_exists: Tensor
    """[..., N, 14]: atoms that the residue type has, known or not."""
    is_ambiguous: Tensor
    """[..., N, 14]: atoms with an interchangeable partner."""


def atom37_to_atom14(aatype: Tensor, positions: Tensor, mask: Tensor) -> Atom14:
    """The dense layout: ``aatype`` int [..., N], ``positions`` [..., N, 37, 3], ``mask`` [..., N, 37]."""
    dtype = positions.dtype
    index = residue_table("atom14_to_atom37", aatype)  # [..., N, 14]
    atom_exists = residue_table("atom14_mask", aatype, dtype)
    exists = atom_exists * torch.take_along_dim(mask.to(dtype), index, dim=-1)
    dense = torch.where(exists[..., None].bool(), _pick(positions, index), 0.0)
    partner = residue_table("renaming_partner", aatype)
    return Atom14(
        positions=dense,
        exists=exists,
        alt_positions=_pick(dense, partner),
        alt_exists=torch.take_along_dim(exists, partner, dim=-1),
        atom_exists=atom_exists,
        is_ambiguous=residue_table("is_ambiguous", aatype, dtype),
    )


def pseudo_beta(aatype: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Position [..., N, 3] and mask [..., N] of CB, of CA in glycine; from atom37 (suppl. 1.9.8)."""
    is_gly = aatype == _GLY
    position = torch.where(is_gly[..., None], positions[..., _CA, :], positions[..., _CB, :])
    known = torch.where(is_gly, mask[..., _CA], mask[..., _CB])
    return position, known.to(positions.dtype)


def torsions_to_frames(aatype: Tensor, backbone: Rigid, torsions: Tensor) -> Rigid:
    """Frames of all rigid groups from the backbone and the torsion angles (Alg. 24, lines 1-10).

    ``aatype`` int [..., N], ``backbone`` [..., N] in angstrom, ``torsions`` [..., N, 7, 2] unit vectors (sin, cos) in
    the order omega, phi, psi, chi1 to chi4. Returns [..., N, 8], global. Chis that the residue lacks have a zero
    rotation matrix, as in AlphaFold.
    """
    default = Rigid.from_tensor_4x4(residue_table("default_frames", aatype, torsions.dtype))  # [..., N, 8]
    sin, cos = torsions.unbind(-1)  # [..., N, 7]
    zero, one = torch.zeros_like(sin), torch.ones_like(sin)
    about_x = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), dim=-1).unflatten(-1, (3, 3))
    rot = torch.cat((default.rot[..., :1, :, :], compose_rotations(default.rot[..., 1:, :, :], about_x)), dim=-3)
    groups = Rigid(rot, default.trans)
    in_backbone = [groups[..., i] for i in range(5)]  # these hang on the backbone
    for i in range(5, 8):  # chi2 to chi4 hang on the chi before
        in_backbone.append(in_backbone[-1].compose(groups[..., i]))
    return backbone.unsqueeze(-1).compose(Rigid.stack(in_backbone, dim=-1))


def frames_to_atom14(aatype: Tensor, frames: Rigid) -> Tensor:
    """Atoms [..., N, 14, 3] from the frames [..., N, 8] of the rigid groups (Alg. 24, line 11); 0 for absent atoms."""
    group = residue_table("atom14_to_group", aatype)  # [..., N, 14]
    group = group.expand(*frames.shape[:-1], 14)  # frames may have leading dimensions, such as layers
    rot = torch.take_along_dim(frames.rot, group[..., None, None], dim=-3)  # [..., N, 14, 3, 3]
    trans = torch.take_along_dim(frames.trans, group[..., None], dim=-2)  # [..., N, 14, 3]
    ideal = residue_table("ideal_atom14", aatype, frames.dtype)
    return Rigid(rot, trans).apply(ideal) * residue_table("atom14_mask", aatype, frames.dtype)[..., None]


def atom14_to_atom37(aatype: Tensor, atom14: Tensor) -> tuple[Tensor, Tensor]:
    """Sparse layout [..., N, 37, 3] of [..., N, 14, 3], and the mask [..., N, 37] of the residue types' atoms."""
    mask = residue_table("atom37_mask", aatype, atom14.dtype)
    index = residue_table("atom37_to_atom14", aatype)
    return _pick(atom14, index.expand(*atom14.shape[:-2], 37)) * mask[..., None], mask
