"""Freezing parameters by the pattern of their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.config.schema import ConfigError
from pipeline.folding.model import FoldingModel


def freeze(model: FoldingModel, patterns: Sequence[str]) -> int:
    """Take the parameters whose name matches one of the shell patterns out of training; returns how many numbers.

    Names are those of ``named_parameters()``, e.g. ``trunk.blocks.0.*``; ``trunk.structure_module.*``. A pattern
    without a match is a ConfigError, and so is one that leaves nothing to train.
    """
    frozen = 0
    for pattern in patterns:
        matched = [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            example = next(name for name, p in model.named_parameters() if p.requires_grad)
            raise ConfigError(
                f"configuration: training.freeze: no parameter matches {pattern!r} (a name is, for example, {example})"
            )
        frozen += sum(p.numel() for p in matched if p.requires_grad)
        for parameter in matched:
            parameter.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"configuration: training.freeze = {list(patterns)} leaves nothing to train")
    return frozen
