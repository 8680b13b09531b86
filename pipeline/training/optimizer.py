"""AdamW with a group of parameters for the adapter, the trunk and the heads, and its learning rate."""

from collections.abc import Mapping

import torch

from pipeline.config.schema import OptimizerConfig
from pipeline.folding.model import FoldingModel
from pipeline.training.schedule import learning_rate

GROUP_OF_PART = {"stem": "stem", "adapter": "stem", "trunk adapter": "stem", "heads": "heads"}
"""All other parts are in the group ``trunk``."""


def make_optimizer(model: FoldingModel, config: OptimizerConfig) -> torch.optim.AdamW:
    """Groups ``trunk``, ``stem`` (adapters, or the stem where all of it trains) and ``heads``, empty ones left out.

    Without weight decay, the default, the steps are those of Adam.
    """
    members: dict[str, list[torch.nn.Parameter]] = {"trunk": [], "stem": [], "heads": []}
    for part, _, parameter in model.named_parts():
        if parameter.requires_grad:
            members[GROUP_OF_PART.get(part, "trunk")].append(parameter)
    rates = {"trunk": config.lr, "stem": config.stem_lr, "heads": config.heads_lr or config.lr}
    decays = {
        "trunk": config.weight_decay,
        "stem": config.stem_weight_decay,
        "heads": config.heads_weight_decay,
    }
    groups = [
        {"params": parameters, "name": name, "peak_lr": rates[name], "weight_decay": decays[name]}
        for name, parameters in members.items()
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total: int) -> float:
    """Set the rates of step ``step`` of ``total``; returns that of the group ``trunk``."""
    shape = learning_rate(
        step,
        peak=1.0,
        warmup_steps=config.warmup_steps,
        decay_after=config.decay_after,
        decay_every=config.decay_every,
        decay_factor=config.decay_factor,
        cosine_from=round(config.cosine_after * total) if config.cosine_after < 1 else None,
        total_steps=total,
    )
    for group in optimizer.param_groups:
        group["lr"] = shape * group["peak_lr"]
    return shape * config.lr


def names_of(parameters: Mapping[str, torch.nn.Parameter]) -> dict[torch.nn.Parameter, str]:
    """Name by parameter."""
    return {parameter: name for name, parameter in parameters.items()}
