"""Weights of projections that kernels compute with themselves, adapted or not."""

import torch
from torch import nn

from lorta.layer import AdaptedLinear


def weight_of(module: nn.Module) -> torch.Tensor:
    """The matrix [c_out, c_in] that ``module`` multiplies with, including the update of an adapter on it.

    The trunk's projections act on N x N pairs, beside which building a dense update of their small matrices costs
    nothing, while calling them one by one costs a pass over the pairs each.

    Raises:
        ValueError: the adapter drops out parts of its input, which no matrix does.
    """
    if not isinstance(module, AdaptedLinear):
        return module.weight
    weight = module.base_layer.weight
    if module.merged:
        return weight
    for adapter in module.adapters.active_adapters():
        if adapter.config.dropout and module.training:
            raise ValueError(f"{module.name}: adapters of the trunk cannot have dropout, got {adapter.config.dropout}")
        update = adapter.module_update(module.name, module.out_features)
        if update is not None:
            weight = weight + update.dense().to(weight.dtype)
    return weight


def bias_of(module: nn.Module) -> torch.Tensor:
    """The bias [c_out] of a projection; adapters leave it alone."""
    return getattr(module, "base_layer", module).bias
