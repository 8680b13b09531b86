"""Masked-residue prediction, the one-sequence form of AlphaFold2's masked MSA (Jumper et al. 2021, suppl. 1.9.9)."""

from torch import Tensor

from data_prep.structure.residues import RESTYPES
from pipeline.losses.reduce import binned_cross_entropy, masked_mean


def masked_lm_loss(logits: Tensor, aatype: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the true residue types, mean over the masked residues, per sample [B].

    ``logits`` [B, N, classes], ``aatype`` int64 [B, N], ``masked`` [B, N]: residues that the model was not shown,
    ``mask`` [B, N]. Residues of unknown type are left out; a sample without masked residues gives 0.
    """
    counted = masked.to(mask.dtype) * mask * (aatype < len(RESTYPES))
    return masked_mean(binned_cross_entropy(logits, aatype), counted, -1, eps=1e-8)
