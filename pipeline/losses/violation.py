"""Structural violations: broken peptide bonds, clashes, distorted residues (Jumper et al. 2021, suppl. 1.9.11).

Positions are atom14, in angstrom. The terms and their normalisation are OpenFold's, with one mean per sample instead of
one per batch. Quirks of the reference that are part of its numbers are kept: the tolerance of the angle CA-C-N is
computed from the deviation of the C-N bond length (0.014, where its own is 0.031); the exemption of disulfide bridges
from clashes covers any two atoms at atom14 index 5, SG in cysteine; the connection loss per residue (a diagnostic, not
used by the loss) is not masked.

A violation is a small difference of two numbers near 2 angstrom, of which float32 leaves few digits, so the terms are
computed in float64 (where the device has it) and returned in the dtype of the positions. Few pairs enter them.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad, relu

from data_prep.structure import bond_geometry
from data_prep.structure.residues import ATOM37_VDW_RADIUS, RESNAMES, RESTYPE_ATOM14_MASK, RESTYPE_ATOM14_TO_ATOM37
from pipeline.losses.reduce import masked_mean

_PRO = RESNAMES.index("PRO")
_N, _CA, _C, _SG = 0, 1, 2, 5  # atom14 indices
_BOND_EPS = 1e-6
_DISTANCE_EPS = 1e-10
_RADIUS_14 = ATOM37_VDW_RADIUS[RESTYPE_ATOM14_TO_ATOM37] * RESTYPE_ATOM14_MASK  # [21, 14]
_SEARCH_PAIRS = 4_000_000  # atom pairs that the search for clashes looks at together: 16 MB per float32 intermediate


def _widen(positions: Tensor) -> Tensor:
    return positions.to(torch.float32 if positions.device.type == "mps" else torch.float64)


def _distance(a: Tensor, b: Tensor, eps: float) -> Tensor:
    return ((a - b).square().sum(-1) + eps).sqrt()


@lru_cache(maxsize=16)
def _tables(tolerance_factor: float, overlap: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):  # so that they serve training whoever asked first
        arrays = (*bond_geometry.atom14_distance_bounds(tolerance_factor, overlap), _RADIUS_14)
        return tuple(torch.as_tensor(array).to(device=device, dtype=dtype) for array in arrays)


@dataclass(frozen=True, eq=False)
class Connections:
    """Peptide bonds between residues that follow each other."""

    c_n_loss: Tensor
    """[B]: mean excess of the C-N length over the tolerance, angstrom."""
    ca_c_n_loss: Tensor
    """[B]: mean excess of the cosine of CA-C-N."""
    c_n_ca_loss: Tensor
    """[B]: mean excess of the cosine of C-N-CA."""
    per_residue_loss: Tensor
    """[B, N]: half the sum of the three terms on either side of the residue."""
    per_residue_violation: Tensor
    """[B, N]: 1.0 where a term on either side is beyond the tolerance."""


@dataclass(frozen=True, eq=False)
class AtomViolations:
    """Pairs of atoms at a distance that they should not have, by atom."""

    per_atom_loss: Tensor
    """[B, N, 14]: sum of the excess over the bounds, angstrom."""
    per_atom_count: Tensor
    """[B, N, 14]: pairs in violation."""
    mean_loss: Tensor | None = None
    """[B]: the excess averaged over all pairs (clashes only)."""

    @property
    def per_atom_violation(self) -> Tensor:
        """[B, N, 14]: 1.0 where the atom is part of a pair in violation."""
        return (self.per_atom_count > 0).to(self.per_atom_loss.dtype)


@dataclass(frozen=True, eq=False)
class Violations:
    """All violations of a batch of structures."""

    connections: Connections
    clashes: AtomViolations
    """Between residues."""
    within: AtomViolations
    """Within residues."""
    atom_exists: Tensor
    """[B, N, 14]: the mask that they were found under."""

    @property
    def per_residue_violation(self) -> Tensor:
        """[B, N]: 1.0 for residues with any violation."""
        atoms = torch.maximum(self.clashes.per_atom_violation, self.within.per_atom_violation).amax(-1)
        return torch.maximum(self.connections.per_residue_violation, atoms)


def connection_violations(
    positions: Tensor, exists: Tensor, aatype: Tensor, residue_index: Tensor, tolerance_factor: float = 12.0
) -> Connections:
    """Lengths and angles of peptide bonds.

    ``positions`` [B, N, 14, 3], ``exists`` [B, N, 14], ``aatype`` and ``residue_index`` int [B, N]; the tolerance is in
    standard deviations. Residues are bonded if their numbers follow each other.
    """
    dtype, positions = positions.dtype, _widen(positions)
    ca, c = positions[:, :-1, _CA], positions[:, :-1, _C]  # [B, N - 1, 3]
    next_n, next_ca = positions[:, 1:, _N], positions[:, 1:, _CA]
    exists = exists.to(positions.dtype)
    has_ca, has_c = exists[:, :-1, _CA], exists[:, :-1, _C]
    has_next_n, has_next_ca = exists[:, 1:, _N], exists[:, 1:, _CA]
    bonded = (residue_index[:, 1:] - residue_index[:, :-1] == 1).to(positions.dtype)

    length = _distance(c, next_n, _BOND_EPS)
    to_ca = (ca - c) / _distance(ca, c, _BOND_EPS)[..., None]
    to_n = (next_n - c) / length[..., None]
    n_to_ca = (next_ca - next_n) / _distance(next_n, next_ca, _BOND_EPS)[..., None]
    proline = (aatype[:, 1:] == _PRO).to(positions.dtype)
    (pro_mean, pro_sd), (mean, sd) = (bond_geometry.PEPTIDE_BOND_LENGTH[key] for key in ("PRO", "other"))
    terms = (
        (length, mean + proline * (pro_mean - mean), sd + proline * (pro_sd - sd), has_c * has_next_n),
        ((to_ca * to_n).sum(-1), bond_geometry.CA_C_N_COSINE[0], sd, has_ca * has_c * has_next_n),
        ((-to_n * n_to_ca).sum(-1), *bond_geometry.C_N_CA_COSINE, has_c * has_next_n * has_next_ca),
    )
    losses, excesses, violations = [], [], []
    for value, ideal, deviation, mask in terms:
        error = ((value - ideal).square() + _BOND_EPS).sqrt()
        excess = relu(error - tolerance_factor * deviation)
        losses.append(masked_mean(excess, mask * bonded, -1, eps=_BOND_EPS))
        excesses.append(excess)
        violations.append(mask * bonded * (error > tolerance_factor * deviation))
    per_bond, violated = torch.as_tensor(sum(excesses)), torch.stack(violations).amax(0)  # [B, N - 1]
    results = (
        *losses,
        0.5 * (pad(per_bond, (0, 1)) + pad(per_bond, (1, 0))),
        torch.maximum(pad(violated, (0, 1)), pad(violated, (1, 0))),
    )
    return Connections(*(result.to(dtype) for result in results))


@torch.no_grad()
def _count_pairs(exists: Tensor, residue_index: Tensor) -> Tensor:
    """Pairs of atoms that could clash, for one sample: exists [N, 14], residue_index [N] to a scalar."""
    before = (residue_index[:, None] < residue_index).to(exists.dtype)  # [N, N]
    next_to = (residue_index[:, None] + 1 == residue_index).to(exists.dtype)
    atoms, c, n, sg = exists.sum(-1), exists[:, _C], exists[:, _N], exists[:, _SG]
    return atoms @ before @ atoms - c @ next_to @ n - sg @ before @ sg


@torch.no_grad()
def _close_pairs(
    positions: Tensor, radius: Tensor, residue: Tensor, slot: Tensor, overlap_tolerance: float
) -> tuple[Tensor, Tensor]:
    """Index pairs of atoms, the first in the earlier residue, that overlap by more than the tolerance.

    For one sample: ``positions`` [A, 3], ``radius``, ``residue`` (number) and ``slot`` (atom14 index) [A].
    """
    found = []
    limit = 2 * radius.max() - overlap_tolerance + 1e-3  # no pair beyond this can overlap; rounding is far smaller
    for start in range(0, len(positions), max(1, _SEARCH_PAIRS // len(positions))):
        part = slice(start, start + max(1, _SEARCH_PAIRS // len(positions)))
        squared = sum((positions[part, None, k] - positions[None, :, k]).square() for k in range(3))
        near = (squared < limit.square()) & (residue[part, None] < residue)
        found.append(near.nonzero() + torch.tensor([start, 0], device=near.device))
    i, j = torch.cat(found).unbind(-1)
    peptide = (residue[i] + 1 == residue[j]) & (slot[i] == _C) & (slot[j] == _N)
    disulfide = (slot[i] == _SG) & (slot[j] == _SG)
    keep = ~peptide & ~disulfide
    return i[keep], j[keep]


def clash_violations(
    positions: Tensor, exists: Tensor, aatype: Tensor, residue_index: Tensor, overlap_tolerance: float = 1.5
) -> AtomViolations:
    """Overlap of van der Waals spheres of different residues; arguments as in ``connection_violations``.

    The [14 N, 14 N] distances are searched in slices without gradient; only the few pairs that are close enough to
    matter, and a count of the rest, enter the loss. Memory is linear in N.
    """
    dtype, positions = positions.dtype, _widen(positions)
    exists = exists.to(positions.dtype)
    radius = _tables(12.0, 1.5, positions.device, positions.dtype)[2][aatype]  # [B, N, 14]
    losses, counts, means = [], [], []
    for b in range(len(positions)):
        atom = exists[b].flatten().nonzero().squeeze(-1)  # indices into the 14 N atoms of the sample
        points, size = positions[b].flatten(0, 1)[atom], radius[b].flatten()[atom]
        loss = count = positions.new_zeros(exists[b].numel())
        if len(atom):
            residue, slot = residue_index[b][atom // 14], atom % 14
            i, j = _close_pairs(points.detach().float(), size.float(), residue, slot, overlap_tolerance)
            bound = size[i] + size[j] - overlap_tolerance
            distance = _distance(points[i], points[j], _DISTANCE_EPS)
            overlap, clash = relu(bound - distance), (distance < bound).to(positions.dtype)
            loss = loss.index_add(0, atom[i], overlap).index_add(0, atom[j], overlap)
            count = count.index_add(0, atom[i], clash).index_add(0, atom[j], clash)
        losses.append(loss.view_as(exists[b]))
        counts.append(count.view_as(exists[b]))
        means.append(0.5 * loss.sum() / (1e-6 + _count_pairs(exists[b], residue_index[b])))
    return AtomViolations(*(torch.stack(values).to(dtype) for values in (losses, counts, means)))


def within_residue_violations(
    positions: Tensor,
    exists: Tensor,
    aatype: Tensor,
    tolerance_factor: float = 12.0,
    overlap_tolerance: float = 1.5,
) -> AtomViolations:
    """Distances within a residue against their bounds (``bond_geometry.atom14_distance_bounds``)."""
    dtype, positions = positions.dtype, _widen(positions)
    exists = exists.to(positions.dtype)
    lower, upper, _ = _tables(tolerance_factor, overlap_tolerance, positions.device, positions.dtype)
    lower, upper = lower[aatype], upper[aatype]  # [B, N, 14, 14]
    pairs = exists[..., :, None] * exists[..., None, :] * (1 - torch.eye(14, dtype=exists.dtype, device=exists.device))
    distance = _distance(positions[..., :, None, :], positions[..., None, :, :], _DISTANCE_EPS)
    excess = pairs * (relu(lower - distance) + relu(distance - upper))
    violated = pairs * ((distance < lower) | (distance > upper))
    # Every pair is there twice, and each of its atoms is charged for both, as in the reference.
    return AtomViolations((2 * excess.sum(-1)).to(dtype), (2 * violated.sum(-1)).to(dtype))


def structural_violations(
    positions: Tensor,
    exists: Tensor,
    aatype: Tensor,
    residue_index: Tensor,
    tolerance_factor: float = 12.0,
    overlap_tolerance: float = 1.5,
) -> Violations:
    """All violations of predicted atoms.

    ``positions`` [B, N, 14, 3] in angstrom, ``exists`` [B, N, 14]: atoms of the residue types, padding 0, ``aatype``
    and ``residue_index`` int [B, N]. ``tolerance_factor`` is in standard deviations, ``overlap_tolerance`` in angstrom.
    """
    return Violations(
        connection_violations(positions, exists, aatype, residue_index, tolerance_factor),
        clash_violations(positions, exists, aatype, residue_index, overlap_tolerance),
        within_residue_violations(positions, exists, aatype, tolerance_factor, overlap_tolerance),
        exists.to(positions.dtype),
    )


def violation_loss(violations: Violations, average_clashes: bool = False) -> Tensor:
    """The three connection terms plus the mean overlap per atom, per sample [B].

    ``average_clashes`` divides an atom's overlap by its number of violations.
    """
    overlap = violations.clashes.per_atom_loss + violations.within.per_atom_loss
    if average_clashes:
        count = violations.clashes.per_atom_count + violations.within.per_atom_count
        overlap = overlap / (count + _BOND_EPS)
    connections = violations.connections
    per_atom = overlap.sum((-1, -2)) / (_BOND_EPS + violations.atom_exists.sum((-1, -2)))
    return connections.c_n_loss + connections.ca_c_n_loss + connections.c_n_ca_loss + per_atom


def bond_loss(positions: Tensor, exists: Tensor, aatype: Tensor, residue_index: Tensor) -> Tensor:
    """Return the mean deviation of peptide bonds from the ideal, [B]: C-N length in angstrom plus two cosines.

    The connection terms without their tolerance of 12 standard deviations, 0.17 angstrom, within which they let a bond
    be. Arguments as those of ``connection_violations``.
    """
    bonds = connection_violations(positions, exists, aatype, residue_index, tolerance_factor=0.0)
    return bonds.c_n_loss + bonds.ca_c_n_loss + bonds.c_n_ca_loss
