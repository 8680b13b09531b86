"""Tensors that may be sharded over the processes (DTensor): their local part, and the whole.

Ordinary tensors pass through unchanged, so the trainer, the averages and the checkpoints are written once for all.
DTensors are known by their methods: importing their module takes longer than all of torch, and most runs have none.
"""

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of ``tensor`` that lies on this process, detached, sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of ``tensor``, on every process; a collective operation where it is sharded."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """``tensor``, whole on every process, on the device of ``model`` and sharded as it is."""
    tensor = tensor.to(model.device)
    if not is_sharded(model):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
