import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.lddt_scores import lddt_ca, pair_blocks, thousandths


def dense_lddt(pred, true, mask, radius=15.0):
    """AlphaFold's formulation over all N x N distances: strict ``<``, what is masked is skipped.

    Returns the pooled score and the score per residue; a residue without pairs is 1 there.
    """
    true_distance = np.sqrt(1e-10 + ((true[:, None] - true[None]) ** 2).sum(-1))
    pred_distance = np.sqrt(1e-10 + ((pred[:, None] - pred[None]) ** 2).sum(-1))
    counted = (true_distance < radius) * mask[:, None] * mask[None] * (1 - np.eye(len(true)))
    error = np.abs(true_distance - pred_distance)
    score = 0.25 * sum((error < threshold).astype(float) for threshold in (0.5, 1.0, 2.0, 4.0))
    per_residue = (1e-10 + (counted * score).sum(1)) / (1e-10 + counted.sum(1))
    return (counted * score).sum() / counted.sum(), per_residue


def three(third):
    """Residues 1 and 2, 10 A apart on a line, and a third one."""
    return np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], third])


def test_worked_by_hand():
    """Truth: 1-2 10 A, 1-3 6 A, 2-3 8 A (a right angle at 3). The prediction moves 2 along the line to 11.5 A.

    Errors: 1-2 1.5 A, two thresholds of four (2 and 4); 1-3 none, four; 2-3: its distance becomes
    sqrt((11.5 - 3.6)^2 + 4.8^2) = sqrt(62.41 + 23.04) = 9.244, error 1.244, two. Together 8 of 12.
    """
    true = three([3.6, 4.8, 0.0])
    pred = true.copy()
    pred[1, 0] = 11.5
    result = lddt_ca(pred, true)
    assert (result.pairs, result.preserved) == (3, 8)
    assert result.score == pytest.approx(8 / 12)
    # Residue 1: (2 + 4) / 8, residue 2: (2 + 2) / 8, residue 3: (4 + 2) / 8.
    np.testing.assert_allclose(result.per_residue, [6 / 8, 4 / 8, 6 / 8])
    assert result.mean_per_residue == pytest.approx(16 / 24)


def test_pairs_missing_from_the_prediction_are_worth_nothing():
    """As above without residue 3: of 3 pairs one is left, with two thresholds of four: 2/12, and 2/4 in common."""
    true = three([3.6, 4.8, 0.0])
    pred = true.copy()
    pred[1, 0] = 11.5
    result = lddt_ca(pred, true, pred_mask=np.array([True, True, False]))
    assert result.score == pytest.approx(2 / 12)
    assert result.score_common == pytest.approx(2 / 4)
    np.testing.assert_allclose(result.per_residue, [2 / 8, 2 / 8, 0])
    assert (result.residues, result.residues_common, result.pairs_common) == (3, 2, 1)


def test_pooled_is_not_the_mean_per_residue():
    """Four residues together are right, a lone pair is wrong: 6 pairs kept, 1 lost. Pooled 6/7; the mean over
    residues (4 x 1 + 2 x 0) / 6."""
    true = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4], [100, 0, 0], [104, 0, 0]], dtype=float)
    pred = true.copy()
    pred[5, 0] = 120.0
    result = lddt_ca(pred, true)
    assert result.score == pytest.approx(6 / 7)
    assert result.mean_per_residue == pytest.approx(4 / 6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("error", "kept"), [(500, 4), (501, 3), (1000, 3), (1001, 2), (2000, 2), (4000, 1), (4001, 0)])
def test_thresholds_include_their_ends(dtype, error, kept):
    """Errors in thousandths of an angstrom, far from the origin, where float32 hardly tells 0.0001 A apart."""
    start = np.array([-123.457, 234.561, 345.678])
    true = np.array([start, start + np.array([9.123, 0, 0])]).round(3).astype(dtype)
    pred = np.array([start, start + np.array([9.123 + error / 1000, 0, 0])]).round(3).astype(dtype)
    assert lddt_ca(pred, true).preserved == kept


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("distance", "within", "between"), [(14.999, 1, 1), (15.0, 0, 1), (15.001, 0, 0)])
def test_radius_is_open_within_a_chain_and_closed_between_chains(dtype, distance, within, between):
    true = np.array([[-7.351, 61.2, 3.3], [-7.351, 61.2, 3.3 + distance]]).round(3).astype(dtype)
    assert lddt_ca(true, true).pairs == within
    assert lddt_ca(true, true, chain_index=np.array([5, 5])).pairs == within
    assert lddt_ca(true, true, chain_index=np.array([0, 1])).pairs == between


def test_undefined_is_nan_and_not_one():
    lonely = np.array([[0.0, 0, 0], [5, 0, 0], [60, 0, 0]])
    result = lddt_ca(lonely, lonely)
    assert np.isnan(result.per_residue[2])
    assert result.mean_per_residue == 1
    alone = lddt_ca(lonely[:1], lonely[:1])
    assert np.isnan(alone.score) and np.isnan(alone.score_common) and np.isnan(alone.mean_per_residue)
    assert alone.pairs == 0
    empty = lddt_ca(np.zeros((0, 3)), np.zeros((0, 3)))
    assert np.isnan(empty.score) and empty.per_residue.shape == (0,)


def test_nothing_predicted_scores_zero_and_has_no_common_score(walk):
    true = walk(30, 0)
    result = lddt_ca(true, true, pred_mask=np.zeros(30, dtype=bool))
    assert result.score == 0
    assert np.isnan(result.score_common)


def test_not_finite_equals_masked(walk):
    true = walk(40, 1)
    pred = true + np.random.default_rng(0).normal(size=true.shape)
    mask = np.ones(40, dtype=bool)
    mask[[3, 17]] = False
    holes = pred.copy()
    holes[3, 1], holes[17] = np.nan, np.inf
    masked, broken = lddt_ca(pred, true, pred_mask=mask), lddt_ca(holes, true)
    assert masked.score == broken.score
    np.testing.assert_array_equal(masked.per_residue, broken.per_residue)
    true_holes = true.copy()
    true_holes[5] = np.nan
    result = lddt_ca(pred, true_holes)
    assert np.isnan(result.per_residue[5]) and result.residues == 39


def test_residues_outside_the_truth_do_not_matter(walk):
    true = walk(50, 2)
    pred = true + np.random.default_rng(1).normal(size=true.shape)
    mask = np.random.default_rng(2).random(50) < 0.7
    part = lddt_ca(pred, true, true_mask=mask)
    cut = lddt_ca(pred[mask], true[mask])
    assert part.score == cut.score
    np.testing.assert_array_equal(part.per_residue[mask], cut.per_residue)
    assert np.isnan(part.per_residue[~mask]).all()


@pytest.mark.parametrize("length", [2, 63, 64, 65, 128, 129, 300])
def test_equals_the_dense_formula(length, walk):
    """Blocks have 64 rows: lengths around their edges. No error lies on a threshold, so < and <= agree."""
    true = walk(length, length)
    generator = np.random.default_rng(length)
    pred = true + generator.normal(size=true.shape)
    mask = generator.random(length) < 0.9
    mask[:2] = True
    score, per_residue = dense_lddt(pred, true, mask)
    result = lddt_ca(pred, true, mask, mask)
    assert result.score == pytest.approx(score, abs=1e-12)
    defined = ~np.isnan(result.per_residue)
    np.testing.assert_allclose(result.per_residue[defined], per_residue[defined], atol=1e-9)


def test_rigid_motion_and_mirror_change_nothing(walk):
    true = walk(90, 3)
    generator = np.random.default_rng(3)
    pred = true + generator.normal(size=true.shape)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    score = lddt_ca(pred, true).score
    for matrix in (turn, -turn):  # one of them rotates, the other mirrors
        assert lddt_ca(pred @ matrix + [30, -20, 100], true).score == pytest.approx(score, abs=1e-12)
    assert lddt_ca(true * [1, 1, -1], true).score == 1


def test_order_of_residues_does_not_matter(walk):
    true = walk(150, 4)
    generator = np.random.default_rng(4)
    pred = true + generator.normal(size=true.shape)
    order = generator.permutation(150)
    straight, shuffled = lddt_ca(pred, true), lddt_ca(pred[order], true[order])
    assert straight.preserved == shuffled.preserved
    np.testing.assert_allclose(shuffled.per_residue, straight.per_residue[order], atol=1e-12)


def test_all_at_one_point_keeps_only_short_distances(walk):
    """Every predicted distance is 0, so a pair keeps the thresholds that its true distance does not exceed."""
    true = walk(80, 5)
    distance = np.linalg.norm(true[:, None] - true[None], axis=-1)[np.triu_indices(80, 1)]
    near = distance[distance < 15]
    expected = np.mean([(near <= threshold).mean() for threshold in (0.5, 1, 2, 4)])
    assert 0 < expected < 0.05
    assert lddt_ca(np.zeros_like(true), true).score == pytest.approx(expected)


def test_float32_scores_as_the_decimals_that_it_stands_for(walk):
    """Records keep float32; a file has three decimals. Moved so far that a float32 is off by 3e-5 A."""
    true = (walk(400, 6) + np.array([500, -600, 700])).round(3)
    pred = (true + np.random.default_rng(6).normal(size=true.shape)).round(3)
    assert np.abs(true.astype(np.float32) - true).max() > 1e-5
    exact, kept = lddt_ca(pred, true), lddt_ca(pred.astype(np.float32), true.astype(np.float32))
    assert exact.preserved == kept.preserved and exact.pairs == kept.pairs


def test_thousandths_keeps_what_has_more_decimals():
    assert thousandths(np.array([12.345], dtype=np.float32))[0] == 12345
    assert thousandths(np.array([12.34567]))[0] == pytest.approx(12345.67)


def test_one_stray_residue_does_not_blur_the_others(walk):
    true = walk(60, 7)
    pred = true + np.random.default_rng(7).normal(size=true.shape)
    stray = pred.copy()
    stray[0] = 9e9
    others = np.ones(60, dtype=bool)
    others[0] = False
    assert lddt_ca(stray, true).preserved == lddt_ca(pred, true, pred_mask=others).preserved


def test_each_pair_comes_once(walk):
    true = walk(200, 8)
    blocks = list(pair_blocks(true, true, np.ones(200, dtype=bool)))
    pairs = [pair for block in blocks for pair in zip(block.first.tolist(), block.second.tolist(), strict=True)]
    assert all(first < second for first, second in pairs)
    assert len(set(pairs)) == len(pairs)
    distance = np.linalg.norm(true[:, None] - true[None], axis=-1)
    assert len(pairs) == np.count_nonzero(np.triu(distance < 15, 1))


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 80),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 1e6),
    missing=st.floats(0, 1),
    chains=st.integers(1, 3),
)
def test_scores_stay_between_zero_and_one(length, seed, spread, missing, chains):
    generator = np.random.default_rng(seed)
    true = generator.normal(size=(length, 3)) * generator.choice([0, 3, 20])
    pred = generator.normal(size=(length, 3)) * spread
    chain_index = np.sort(generator.integers(0, chains, length))
    result = lddt_ca(pred, true, generator.random(length) >= missing, None, chain_index)
    numbers = np.array([result.score, result.score_common, result.mean_per_residue, *result.per_residue])
    defined = numbers[~np.isnan(numbers)]
    assert ((defined >= 0) & (defined <= 1)).all()
    assert np.isnan(result.score) == (result.pairs == 0)
    if result.pairs_common:
        assert result.score <= result.score_common


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"pred_positions": np.zeros((3, 3)), "true_positions": np.zeros((4, 3))}, "3 residues and true_positions 4"),
        ({"pred_positions": np.zeros((3, 2)), "true_positions": np.zeros((3, 3))}, r"pred_positions is float64 \(3, 2"),
        ({"pred_positions": np.zeros((3, 3)), "true_positions": np.zeros((3, 3), dtype=int)}, "true_positions is int"),
        (
            {"pred_positions": np.zeros((3, 3)), "true_positions": np.zeros((3, 3)), "pred_mask": np.ones(2, bool)},
            r"pred_mask has shape \(2,\), expected \(3,\)",
        ),
        (
            {"pred_positions": np.zeros((3, 3)), "true_positions": np.zeros((3, 3)), "chain_index": np.zeros(2)},
            r"chain_index has shape \(2,\)",
        ),
    ],
)
def test_wrong_shapes_are_named(arguments, found):
    with pytest.raises(ValueError, match=found):
        lddt_ca(**arguments)


def test_memory_at_three_thousand_residues(walk):
    true = walk(3000, 9)
    pred = true + np.random.default_rng(9).normal(size=true.shape)
    tracemalloc.start()
    lddt_ca(pred, true)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000**2 * 8, "as much as one dense float64 matrix"


def test_starts_without_torch_and_scipy():
    """Everything that the command imports before it scores, in a fresh interpreter."""
    code = (
        "import sys, evaluation.lddt, evaluation.run, evaluation.output, evaluation.targets\n"
        "print([name for name in ('torch', 'scipy', 'pandas', 'Bio', 'pyarrow', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_strict_comparisons_lose_what_lies_exactly_on_an_edge():
    """Distances of the truth 4, 8 and 4; of the prediction 5, 8 and 3: errors 1, 0 and 1, of which <= keeps 3, 4 and 3
    thresholds and < keeps 2, 4 and 2."""
    true = np.array([[0, 0, 0], [4, 0, 0], [8, 0, 0]], dtype=float)
    pred = np.array([[0, 0, 0], [5, 0, 0], [8, 0, 0]], dtype=float)
    found = lddt_ca(pred, true)
    assert (found.score, found.score_strict) == (10 / 12, 8 / 12)


def test_strict_comparisons_leave_out_pairs_at_15_between_chains():
    """Two chains, a pair at exactly 15 A that the prediction has at 16: worth 3 of 4 with <=, no pair with <."""
    true = np.array([[0, 0, 0], [3, 0, 0], [15, 0, 0]], dtype=float)
    pred = np.array([[0, 0, 0], [3, 0, 0], [16, 0, 0]], dtype=float)
    found = lddt_ca(pred, true, chain_index=np.array([0, 0, 1]))
    assert found.pairs == 3
    assert (found.score, found.score_strict) == ((4 + 3 + 3) / 12, (4 + 2) / 8)
