"""Plans of steps: reproducible, independent of history, distributed as stated."""

import numpy as np
import pytest

from pipeline.training.data import CropSchedule, StepSampler, sampling_weights


def sampler(**changes) -> StepSampler:
    settings = {
        "weights": np.array([0.5, 0.25, 0.25]),
        "crops": CropSchedule(final=64),
        "batch_size": 2,
        "max_recycles": 3,
        "clamp_probability": 0.9,
        "seed": 0,
    }
    return StepSampler(**(settings | changes))


def test_a_plan_depends_on_seed_and_step_alone():
    assert [sampler().plan(s) for s in (5, 3, 5)] == [sampler().plan(s) for s in (5, 3, 5)]
    assert sampler().plan(5) != sampler().plan(6)
    assert sampler().plan(5) != sampler(seed=1).plan(5)


def test_draws_are_those_of_numpy():
    """The cumulative weights are kept; the draw stays that of Generator.choice with replacement."""
    weights = np.random.default_rng(0).random(1000)
    weights /= weights.sum()
    for step in range(1, 20):
        expected = np.random.default_rng([0, step]).choice(1000, size=8, p=weights)
        assert sampler(weights=weights, batch_size=8).plan(step).chains == tuple(expected)


def test_draws_follow_the_weights():
    plans = [sampler().plan(step) for step in range(1, 2001)]
    chains = [chain for plan in plans for chain in plan.chains]
    assert np.bincount(chains) / len(chains) == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert np.mean([c for plan in plans for c in plan.clamp]) == pytest.approx(0.9, abs=0.02)
    recycles = np.bincount([plan.num_recycles for plan in plans], minlength=4) / len(plans)
    assert recycles == pytest.approx([0.25] * 4, abs=0.04)


def test_crops_grow_and_batches_shrink():
    """From 20 to 100 over 8 steps: 10 residues a step."""
    crops = CropSchedule(final=100, initial=20, growth_steps=8)
    assert [crops.size(step) for step in (1, 2, 5, 7, 8, 100)] == [30, 40, 70, 90, 100, 100]
    assert [crops.batch_factor(step) for step in (1, 3, 4, 5, 8)] == [4, 4, 2, 2, 1]
    plan = sampler(crops=crops).plan(1)
    assert (plan.crop_size, len(plan.chains), len(plan.crop_seeds), len(plan.clamp)) == (30, 8, 8, 8)
    assert CropSchedule(final=100).size(1) == 100


def test_sampling_weights():
    """Lengths 100, 256, 384, 900 count as 256, 256, 384, 512; the second chain is in a cluster of two."""
    weights = sampling_weights([100, 256, 384, 900], [1, 2, 1, 1])
    assert weights == pytest.approx(np.array([256, 128, 384, 512]) / 1280)
    assert sampling_weights([100, 900], None) == pytest.approx([0.5, 0.5])
