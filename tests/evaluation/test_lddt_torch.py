import numpy as np
import pytest
import torch

from evaluation import lddt_torch
from evaluation.lddt import lddt_ca
from evaluation.lddt_torch import lddt_ca_batch


def padded(arrays, fill=0.0):
    """A batch of arrays of different lengths, padded at the end."""
    length = max(len(array) for array in arrays)
    batch = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, dtype=arrays[0].dtype)
    for row, array in zip(batch, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(batch)


def cases(walk, dtype=np.float32):
    """Proteins of several lengths: predictions, truths, masks of both."""
    generator = np.random.default_rng(0)
    for length, noise in ((1, 0.0), (7, 0.5), (60, 1.0), (130, 2.0), (129, 0.0)):
        true = walk(length, length)
        pred = (true + noise * generator.normal(size=true.shape)).round(3)
        yield pred.astype(dtype), true.astype(dtype), generator.random(length) > 0.1, generator.random(length) > 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fill", [0.0, np.nan])
@pytest.mark.parametrize("rows", [256, 50])
def test_equal_to_the_numpy_form_whatever_the_padding(walk, monkeypatch, dtype, fill, rows):
    monkeypatch.setattr(lddt_torch, "_ROWS", rows)
    preds, trues, pred_masks, true_masks = zip(*cases(walk, dtype), strict=True)
    found = lddt_ca_batch(
        padded(preds, fill), padded(trues, fill), padded(pred_masks, False), padded(true_masks, False)
    )
    assert not found.score.requires_grad
    for i, (pred, true, pred_mask, true_mask) in enumerate(cases(walk, dtype)):
        expected = lddt_ca(pred, true, pred_mask, true_mask)
        np.testing.assert_array_equal(found.score[i], expected.score)
        np.testing.assert_array_equal(found.per_residue[i, : len(true)], expected.per_residue)
        assert found.pairs[i] == expected.pairs
        assert found.per_residue[i, len(true) :].isnan().all()


def test_edges_fall_where_the_definition_puts_them():
    """15.000 A is out, errors of exactly 0.5 and 1 A are in, far from the origin and in float32 too."""
    true = torch.tensor([[[2000.0, 0, 0], [2004, 0, 0], [2015, 0, 0]]])
    pred = torch.tensor([[[2000.0, 0, 0], [2004.5, 0, 0], [2014.5, 0, 0]]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    found = lddt_ca_batch(pred, true, everything, everything)
    assert found.pairs.tolist() == [2]
    assert found.score.tolist() == [(4 + 3) / 8]


def test_a_prediction_that_asks_for_gradients_gets_none(walk):
    pred = torch.tensor(walk(20, 1), requires_grad=True)[None]
    everything = torch.ones(1, 20, dtype=torch.bool)
    assert not lddt_ca_batch(pred, pred.detach(), everything, everything).score.requires_grad


def test_wrong_shapes_are_named():
    positions, mask = torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected B, N, 3"):
        lddt_ca_batch(positions[:1], positions, mask, mask)
    with pytest.raises(ValueError, match=r"masks \(2, 4\), \(2, 5\): expected \(2, 5\)"):
        lddt_ca_batch(positions, positions, mask[:, :4], mask)
