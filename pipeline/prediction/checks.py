"""Checks and confidence of one prediction: stereochemistry, distogram against coordinates, PAE, pTM and ipTM.

Counts are within OpenFold's tolerances (Jumper et al. 2021, suppl. 1.9.11); logits are read row by row, so that long
chains fit.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data_prep.structure import bond_geometry
from data_prep.structure.residues import ATOM37_VDW_RADIUS, RESNAMES, RESTYPE_ATOM14_MASK, RESTYPE_ATOM14_TO_ATOM37
from pipeline.losses.pae import error_bin_centers
from pipeline.losses.violation import within_residue_violations

TOLERANCE = 12.0
"""Standard deviations that a length or an angle may be off."""
OVERLAP = 1.5
"""angstrom that van der Waals spheres of atoms that are not bonded may overlap."""
CONTACT = 8.0
"""angstrom between C-beta atoms (C-alpha of glycine), the usual definition of a contact."""
SLACK = 4.0
"""angstrom by which a predicted contact may be longer in the coordinates and still count as kept."""
MIN_SEPARATION = 6
"""Residues between the two: nearer ones are in contact in most folds, and say little."""
MIN_CONTACTS = 5
"""Fewer predicted contacts than this decide nothing."""
MIN_BIN, MAX_BIN = 2.3125, 21.6875
"""Edges of the distogram's first and last bin, angstrom (``losses.distogram``)."""
MAX_ERROR = 31.0
"""angstrom, edge of the last bin of the head for aligned errors."""

_N, _CA, _C, _CB, _SG = 0, 1, 2, 4, 5  # atom14 indices
_PROLINE, _CYSTEINE, _GLYCINE = (RESNAMES.index(name) for name in ("PRO", "CYS", "GLY"))
_RADIUS = ATOM37_VDW_RADIUS[RESTYPE_ATOM14_TO_ATOM37]  # [21, 14]
_SEARCH_PAIRS = 4_000_000  # atom pairs that are looked at together: 16 MB per float32 intermediate
_ROWS = 128  # of logits at a time


@dataclass(frozen=True)
class GeometryCounts:
    """What is beyond the tolerances."""

    broken_bonds: int
    """Peptide bonds C-N of a wrong length."""
    bad_angles: int
    """Angles CA-C-N and C-N-CA of peptide bonds."""
    clashes: int
    """Pairs of atoms of different residues that overlap."""
    bad_residues: int
    """Residues with two atoms at a distance that their own bonds and angles rule out."""


def find_violations(
    atom14: np.ndarray, aatype: np.ndarray, residue_index: np.ndarray, chain: np.ndarray
) -> tuple[GeometryCounts, np.ndarray]:
    """Violations of a structure, and bool [N]: the residues that have a part in one.

    Args:
        atom14: float [N, 14, 3], angstrom.
        aatype: int [N].
        residue_index: int [N]; residues are bonded where it goes up by one within a chain.
        chain: int [N].
    """
    exists = RESTYPE_ATOM14_MASK[aatype]  # [N, 14]
    bonded = (np.diff(residue_index) == 1) & (np.diff(chain) == 0)
    measured = np.flatnonzero(bonded & exists[:-1, _C] & exists[1:, _N])  # an unknown residue has no atoms
    ca, c, n, next_ca = (points[measured].astype(np.float64) for points in _peptide(atom14))
    proline = aatype[1:][measured] == _PROLINE
    ideal = np.where(proline, *(bond_geometry.PEPTIDE_BOND_LENGTH[kind][0] for kind in ("PRO", "other")))
    spread = np.where(proline, *(bond_geometry.PEPTIDE_BOND_LENGTH[kind][1] for kind in ("PRO", "other")))
    broken = np.abs(np.linalg.norm(n - c, axis=-1) - ideal) > TOLERANCE * spread
    bad_angles = np.stack(
        [
            np.abs(cosine - mean) > TOLERANCE * deviation
            for cosine, (mean, deviation) in (
                (_cosine(ca - c, n - c), bond_geometry.CA_C_N_COSINE),
                (_cosine(c - n, next_ca - n), bond_geometry.C_N_CA_COSINE),
            )
        ]
    )
    batch = (torch.from_numpy(atom14)[None], torch.from_numpy(exists)[None], torch.from_numpy(aatype)[None])
    within = within_residue_violations(*batch, TOLERANCE, OVERLAP).per_atom_violation[0].amax(-1).numpy() > 0
    clashes, clashing = find_clashes(atom14, aatype, bonded)
    at_bond = measured[broken | bad_angles.any(0)]
    residues = within | clashing
    residues[at_bond] = residues[at_bond + 1] = True
    counts = GeometryCounts(
        broken_bonds=int(np.count_nonzero(broken)),
        bad_angles=int(np.count_nonzero(bad_angles)),
        clashes=clashes,
        bad_residues=int(np.count_nonzero(within)),
    )
    return counts, residues


def find_clashes(atom14: np.ndarray, aatype: np.ndarray, bonded: np.ndarray) -> tuple[int, np.ndarray]:
    """Pairs of atoms of different residues whose spheres overlap by more than ``OVERLAP``; bool [N]: the residues.

    Left out are the atoms of a peptide bond, of ``bonded`` bool [N - 1] neighbours, and two cysteines' sulfurs. Unlike
    ``losses.violation``, whose list of pairs would fill the memory where a model puts all atoms in one place, this only
    counts.
    """
    own, slot = np.nonzero(RESTYPE_ATOM14_MASK[aatype])
    points = torch.from_numpy(atom14[own, slot])
    radius = torch.from_numpy(_RADIUS[aatype[own], slot].astype(np.float32))
    sulfur = torch.from_numpy((slot == _SG) & (aatype[own] == _CYSTEINE))
    bonds_onward = np.append(bonded, False)[own] & (slot == _C)
    partner = torch.from_numpy(np.where(bonds_onward, own + 1, -1))  # the residue whose N is bonded to this C
    residue, nitrogen = torch.from_numpy(own), torch.from_numpy(slot == _N)
    total, step = 0, max(1, _SEARCH_PAIRS // max(1, len(points)))
    clashing = torch.zeros(len(aatype), dtype=torch.bool)
    for start in range(0, len(points), step):
        rows = slice(start, start + step)
        # The atoms of earlier residues come first, so each pair is met once, from its earlier atom on.
        later = slice(start, None)
        bound = radius[rows, None] + radius[later] - OVERLAP
        squared = sum((points[rows, None, k] - points[None, later, k]).square() for k in range(3))
        clash = (squared < bound.square()) & (residue[rows, None] < residue[later])
        clash &= ~(sulfur[rows, None] & sulfur[later])
        clash &= ~((partner[rows, None] == residue[later]) & nitrogen[later])
        total += int(clash.sum())
        clashing[residue[rows][clash.any(1)]] = True
        clashing[residue[later][clash.any(0)]] = True
    return total, clashing.numpy()


def _peptide(atom14: np.ndarray) -> tuple[np.ndarray, ...]:
    """CA, C, next N, next CA of each pair of neighbours, [N - 1, 3]."""
    return atom14[:-1, _CA], atom14[:-1, _C], atom14[1:, _N], atom14[1:, _CA]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Atoms in one place have no angle: 0 is no one's mean, so it counts as bad.
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(lengths, 1e-8)


def contact_probability(logits: torch.Tensor) -> torch.Tensor:
    """Probability of a C-beta distance below ``CONTACT``: logits [N, N, bins] to [N, N] on the CPU.

    A bin that the limit falls into counts by its share. Rows are worked on in pieces, so that memory stays small.
    """
    bins = logits.shape[-1]
    edges = torch.linspace(MIN_BIN, MAX_BIN, bins - 1, device=logits.device)
    width = edges[1] - edges[0]
    share = ((CONTACT - (edges - width)) / width).clamp(0, 1)  # of every bin but the last, which is open
    share = torch.cat([share, share.new_zeros(1)])
    return torch.cat([(rows.float().softmax(-1) @ share).cpu() for rows in logits.split(_ROWS)])


def contacts_kept(
    probability: np.ndarray, atom14: np.ndarray, aatype: np.ndarray, residue_index: np.ndarray
) -> float | None:
    """Share of the distogram's contacts (probability above one half) that the coordinates have within ``SLACK``.

    None where the distogram is sure of fewer than ``MIN_CONTACTS``.

    Args:
        probability: float [N, N], of ``contact_probability``.
        atom14: float [N, 14, 3], angstrom.
        aatype: int [N].
        residue_index: int [N], with a jump between chains.
    """
    apart = np.abs(residue_index[:, None] - residue_index) >= MIN_SEPARATION
    known = aatype != len(RESNAMES) - 1
    i, j = np.nonzero(np.triu((probability > 0.5) & apart & known[:, None] & known, 1))
    if len(i) < MIN_CONTACTS:
        return None
    place = np.where((aatype == _GLYCINE), _CA, _CB)
    beta = atom14[np.arange(len(aatype)), place]
    distance = np.linalg.norm(beta[i] - beta[j], axis=-1)
    return float(np.mean(distance < CONTACT + SLACK))


@dataclass(frozen=True, eq=False)
class AlignedError:
    """What the head for aligned errors says."""

    pae: np.ndarray
    """float32 [N, N], angstrom: expected error of residue j seen from the frame of residue i."""
    ptm: float
    """Predicted TM-score, 0 to 1."""
    iptm: float | None
    """The same over pairs of different chains (Evans et al. 2021, section 2.5); None for one chain."""
    largest: float
    """The largest value that ``pae`` could have, angstrom."""


def read_aligned_error(logits: torch.Tensor, chain: np.ndarray) -> AlignedError:
    """Confidence from ``logits`` [N, N, bins] of residues of the chains ``chain`` int [N]; d0 is that of N residues."""
    n, bins = len(logits), logits.shape[-1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    centers = error_bin_centers(bins, MAX_ERROR, torch.empty(0, dtype=dtype, device=logits.device))
    d0 = 1.24 * (max(n, 19) - 15) ** (1 / 3) - 1.8
    tm_of_bin = 1 / (1 + (centers / d0).square())
    errors, scores = [], []
    for rows in logits.split(_ROWS):
        probability = rows.softmax(-1, dtype=dtype)
        errors.append((probability @ centers).cpu())
        scores.append((probability @ tm_of_bin).cpu())
    pae, tm = torch.cat(errors).numpy(), torch.cat(scores).numpy()
    other = chain[:, None] != chain
    iptm = float(((tm * other).sum(-1) / other.sum(-1)).max()) if other.any() else None
    return AlignedError(pae, float(tm.mean(-1).max()), iptm, float(centers[-1]))
