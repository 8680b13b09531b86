"""Clipping of the whole gradient and of each sample's own, by hand."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from pipeline.training.objective import Objective
from pipeline.training.step import globally_clipped, sample_clipped

SAMPLES = ((3.0, 4.0), (0.0, 0.5), (6.0, 8.0), (0.0, 0.0))
"""Gradients of four samples: norms 5, 0.5, 10 and 0."""


def gradient(clipped, samples: tuple, max_norm: float) -> tuple[list[float], float]:
    """What ``clipped`` leaves of samples that are micro-batches of their own, and the norm it tells."""
    parameter = torch.nn.Parameter(torch.ones(2))
    alone = SimpleNamespace(
        count=1, device=torch.device("cpu"), accumulating=lambda _: nullcontext(), sum=lambda tensor: tensor
    )

    def forward(micro) -> Objective:
        return Objective((parameter * torch.tensor(micro.slope)).sum(), {})

    micro_batches = [SimpleNamespace(slope=slope, share=1 / len(samples)) for slope in samples]
    objectives, norm = clipped(forward, micro_batches, [parameter], max_norm, alone, None)
    assert [float(o.loss) for o in objectives] == [sum(slope) for slope in samples]
    assert not any(o.loss.requires_grad for o in objectives)
    return parameter.grad.tolist(), norm


def test_each_sample_is_clipped_before_the_mean():
    """To norm 1: (0.6, 0.8), (0, 0.5), (0.6, 0.8) and (0, 0), mean (0.3, 0.525). Norms 5, 0.5, 10, 0: mean 3.875."""
    found, norm = gradient(sample_clipped, SAMPLES, 1.0)
    assert found == pytest.approx([0.3, 0.525], rel=1e-5)
    assert norm == pytest.approx(3.875)


def test_the_mean_is_clipped_as_a_whole():
    """Mean (2.25, 3.125), norm sqrt(14.828125) = 3.850731: to norm 1."""
    found, norm = gradient(globally_clipped, SAMPLES, 1.0)
    assert norm == pytest.approx(3.850731)
    assert found == pytest.approx([2.25 / 3.850731, 3.125 / 3.850731], rel=1e-5)
    assert gradient(globally_clipped, SAMPLES, 5.0)[0] == pytest.approx([2.25, 3.125])  # as it is


@pytest.mark.parametrize("clipped", [sample_clipped, globally_clipped])
def test_what_is_no_number_is_told(clipped):
    assert not torch.tensor(gradient(clipped, (*SAMPLES, (float("inf"), 0.0)), 1.0)[1]).isfinite()
