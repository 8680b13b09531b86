"""Whether the coordinates say what the distogram says."""

import numpy as np
import torch

from data_prep.structure.residues import RESNAMES

CONTACT = 8.0
"""angstrom between C-beta atoms (C-alpha of glycine), the usual definition of a contact."""
SLACK = 4.0
"""angstrom by which a predicted contact may be longer in the coordinates and still count as kept."""
MIN_SEPARATION = 6
"""Residues between the two: nearer ones are in contact in most folds, and say little."""
MIN_CONTACTS = 5
"""Fewer predicted contacts than this decide nothing."""
MIN_BIN, MAX_BIN = 2.3125, 21.6875
"""Edges of the first and last bin, angstrom (``losses.distogram``)."""

_GLYCINE = RESNAMES.index("GLY")
_CA, _CB = 1, 4  # atom14 indices
_ROWS = 128


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
