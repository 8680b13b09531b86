"""Learning rate against the reference, and the cosine end."""

import math

import pytest

from pipeline.training.step import learning_rate
from tests.pipeline import golden


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        names = sorted(golden.find(metafunc.config, "lr_schedule_*"))
        skip = pytest.param(None, marks=pytest.mark.skip(reason="no reference case lr_schedule (see --golden-dir)"))
        metafunc.parametrize("path", names or [skip], ids=[p.stem for p in names] or ["absent"])


def test_alphafold_schedule(path):
    case = golden.GoldenCase(path, golden.DTYPES[1])
    settings = {
        "peak": case.scalar("max_lr"),
        "base": case.scalar("base_lr"),
        "warmup_steps": int(case.scalar("warmup_no_steps")),
        "decay_after": int(case.scalar("start_decay_after_n_steps")),
        "decay_every": int(case.scalar("decay_every_n_steps")),
        "decay_factor": case.scalar("decay_factor"),
    }
    for step, expected in zip(case.input("steps").tolist(), case.expected("lr").tolist(), strict=True):
        assert learning_rate(step, **settings) == pytest.approx(expected, rel=1e-12, abs=0)


def test_cosine_end():
    """Half of the peak half-way between its start and the end, zero at the end."""
    settings = {"peak": 2.0, "warmup_steps": 10, "cosine_from": 100, "total_steps": 200}
    assert learning_rate(100, **settings) == 2.0
    assert learning_rate(150, **settings) == pytest.approx(1.0)
    assert learning_rate(125, **settings) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(200, **settings) == pytest.approx(0.0, abs=1e-12)


def test_no_warm_up():
    assert learning_rate(0, peak=1.0, warmup_steps=0) == 1.0
