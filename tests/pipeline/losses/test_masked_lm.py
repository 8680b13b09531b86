"""Masked-residue prediction."""

import math

import pytest
import torch

from pipeline.losses.masked_lm import masked_lm_loss


def test_by_hand():
    """Two masked residues: one certain and right, one at chance among 23 classes. Unmasked and unknown ones are out."""
    logits = torch.zeros(1, 4, 23)
    logits[0, 0, 5] = 100
    aatype = torch.tensor([[5, 7, 3, 20]])
    masked = torch.tensor([[True, True, False, True]])
    loss = masked_lm_loss(logits, aatype, masked, torch.ones(1, 4))
    assert loss.item() == pytest.approx(math.log(23) / 2, rel=1e-6)


def test_samples_alone_padding_and_nothing_masked():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 23, generator=generator, requires_grad=True)
    aatype = torch.randint(0, 20, (3, 6), generator=generator)
    masked = torch.ones(3, 6, dtype=torch.bool)
    masked[2] = False
    mask = torch.ones(3, 6)
    mask[1, 4:] = 0
    loss = masked_lm_loss(logits, aatype, masked, mask)
    torch.testing.assert_close(
        loss[1], masked_lm_loss(logits[1:2, :4], aatype[1:2, :4], masked[1:2, :4], mask[1:2, :4])[0]
    )
    assert loss[2] == 0
    loss.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[1, 4:].any()
