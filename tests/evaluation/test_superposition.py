import numpy as np
import pytest

from evaluation import superposition
from evaluation.superposition import superpose, superposition_scores, tm_scale


def rotation(seed):
    """A rotation matrix, drawn at random."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def test_a_rigid_move_changes_nothing(walk):
    true = walk(60, 0)
    scores = superposition_scores(true @ rotation(1).T + [30, -4, 8], true, 60)
    assert (scores.tm_score, scores.gdt_ts, scores.gdt_ha) == (pytest.approx(1.0), 1.0, 1.0)
    assert scores.rmsd == pytest.approx(0, abs=1e-6)


def test_scores_by_hand(walk):
    """Of 80 residues 60 are right and the last 20 are 1,000 A away, each in its own direction: 60 can be superposed,
    the others add less than 20 / (1 + 90**2) to the sum of TM-score. 100 residues in the truth: 60 of 100."""
    true = walk(80, 2)
    pred = true.copy()
    away = np.random.default_rng(3).normal(size=(20, 3))
    pred[60:] += 1000 * away / np.linalg.norm(away, axis=1, keepdims=True)
    scores = superposition_scores(pred @ rotation(4).T, true, 100)
    assert scores.tm_score == pytest.approx(0.6, abs=20 / 8000 / 100)
    assert (scores.gdt_ts, scores.gdt_ha) == (pytest.approx(0.6), pytest.approx(0.6))


def test_a_hinge_is_found_from_either_side(walk):
    """Two halves of 40, one turned about the middle: each fits alone, the whole does not."""
    true = walk(80, 5)
    pred = true.copy()
    pred[40:] = (true[40:] - true[40]) @ rotation(6).T + true[40] + 50
    scores = superposition_scores(pred, true, 80)
    assert scores.gdt_ha == pytest.approx(0.5, abs=0.02)
    assert 0.5 <= scores.tm_score < 0.6


def test_mirror_images_do_not_fit(walk):
    true = walk(100, 7)
    scores = superposition_scores(true * [1, 1, -1], true, 100)
    assert scores.tm_score < 0.7 and scores.rmsd > 3


def test_rmsd_is_the_best_of_all_rotations(walk):
    """No small turn or shift away from the fit makes it better."""
    generator = np.random.default_rng(8)
    true = walk(50, 8)
    pred = (true + generator.normal(size=true.shape)) @ rotation(9).T
    turn, shift = superpose(pred, true)
    moved = pred @ turn.T + shift
    best = superposition_scores(pred, true, 50).rmsd
    assert np.sqrt(((moved - true) ** 2).sum(axis=1).mean()) == pytest.approx(best)
    for _ in range(50):
        small = np.linalg.qr(np.eye(3) + 0.05 * generator.normal(size=(3, 3)))[0]
        small *= np.sign(np.diag(small))
        other = (moved - moved.mean(axis=0)) @ small.T + moved.mean(axis=0) + 0.05 * generator.normal(size=3)
        assert np.sqrt(((other - true) ** 2).sum(axis=1).mean()) >= best


def test_the_scale_of_tm_score():
    """d0 = 1.24 * cube root of (L - 15) - 1.8, at least 0.5 A (Zhang and Skolnick 2004)."""
    assert tm_scale(142) == pytest.approx(1.24 * 127 ** (1 / 3) - 1.8)
    assert tm_scale(20) == tm_scale(15) == tm_scale(3) == 0.5


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_few_residues(walk, length):
    true = walk(length, 10)
    assert superposition_scores(true, true, length).tm_score == pytest.approx(1.0)


def test_blocks_of_fragments_do_not_change_the_scores(walk, monkeypatch):
    true = walk(70, 11)
    pred = true + np.random.default_rng(11).normal(size=true.shape)
    whole = superposition_scores(pred, true, 70)
    monkeypatch.setattr(superposition, "_AT_ONCE", 300)
    assert superposition_scores(pred, true, 70) == whole


@pytest.mark.parametrize(("shape", "n_truth"), [((0, 3), 5), ((4, 2), 4), ((4, 3), 3)])
def test_wrong_shapes_are_refused(shape, n_truth):
    with pytest.raises(ValueError, match=r"expected \(M, 3\) twice and 1 <= M <= n_truth"):
        superposition_scores(np.zeros(shape), np.zeros(shape), n_truth)
