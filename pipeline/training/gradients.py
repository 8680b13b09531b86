"""Gradient of a step over micro-batches and processes, clipped as OpenFold or as AlphaFold2 does."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm, parameters_to_vector

from pipeline.runs.checkpoint import whole
from pipeline.training.feed import MicroBatch
from pipeline.training.objective import Objective
from pipeline.training.processes import Processes

Forward = Callable[[MicroBatch], Objective]


def globally_clipped(
    forward: Forward,
    micro_batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    processes: Processes,
    wrapped: nn.Module,
) -> tuple[list[Objective], float]:
    """Leave in ``grad`` the gradient of the mean over all samples of the step, clipped by its norm (OpenFold).

    Args:
        forward: of one micro-batch; its loss is the mean over the samples in it.
        micro_batches: of this process.
        parameters: that train.
        max_norm: largest norm of the gradient of all parameters together.
        processes: each has as many micro-batches.
        wrapped: what ``processes.wrap`` gave; it averages gradients over the processes in the last backward pass.

    Returns:
        The objective of each micro-batch, and the norm before clipping.
    """
    objectives = []
    for number, micro in enumerate(micro_batches, start=1):
        last = number == len(micro_batches)
        with nullcontext() if last else processes.accumulating(wrapped):
            objective = forward(micro)
            (objective.loss * (micro.share * processes.count)).backward()
        objectives.append(replace(objective, loss=objective.loss.detach()))
    norm = clip_grad_norm_(parameters, max_norm)
    return objectives, float(whole(norm))


def sample_clipped(
    forward: Forward,
    micro_batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    processes: Processes,
    wrapped: nn.Module,
) -> tuple[list[Objective], float]:
    """Leave in ``grad`` the mean of the samples' gradients, each clipped by its own norm (AlphaFold2, suppl. 1.11.3).

    As ``globally_clipped``, with micro-batches of one sample. Returns the objectives and the mean norm of a sample's
    gradient before clipping, over the samples of all processes.
    """
    mean = [torch.zeros_like(parameter) for parameter in parameters]
    objectives, norms = [], torch.zeros((), device=processes.device)
    with processes.accumulating(wrapped):
        for micro in micro_batches:
            for parameter in parameters:
                parameter.grad = None
            objective = forward(micro)
            objective.loss.backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            norm = get_total_norm(gradients)
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0) * micro.share  # as clip_grad_norm_
            torch._foreach_mul_(gradients, scale)
            torch._foreach_add_(mean, gradients)
            norms += norm * micro.share
            objectives.append(replace(objective, loss=objective.loss.detach()))
    if processes.count > 1:
        together = processes.sum(parameters_to_vector(mean))
        mean = [part.view_as(p) for part, p in zip(together.split([p.numel() for p in mean]), mean, strict=True)]
    for parameter, gradient in zip(parameters, mean, strict=True):
        parameter.grad = gradient
    return objectives, float(processes.sum(norms))
