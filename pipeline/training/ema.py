"""Exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.runs.checkpoint import local


class ExponentialMovingAverage:
    """Shadow copies of parameters; validation and prediction use them (Jumper et al. 2021, suppl. 1.11.7).

    With ``warmup`` the decay of update number t is min(decay, (1 + t) / (10 + t)), so that a short run is not dominated
    by its initial weights; without it is ``decay`` from the first, as in AlphaFold2 and OpenFold. The copies never
    replace the weights that are being trained, except inside ``applied``. Copies of sharded parameters are sharded in
    the same way.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, *, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.parameters = dict(parameters)
        self.shadow = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        shadows = [local(shadow) for shadow in self.shadow.values()]
        torch._foreach_lerp_(shadows, [local(p) for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the model for the duration of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            ours, theirs = local(self.shadow[name]), local(parameter)
            trained = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(trained)
