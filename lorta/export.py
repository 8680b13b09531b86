"""Exact export to plain LoRA: every update is a product of two thin matrices, which is what LoRA stores.

The files are those of PEFT's LoRA, so PEFT and the servers that read its format load them, without this package.
"""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lorta.attach import Adapter, adapter_set, model_part
from lorta.insert import Insert
from lorta.sites import is_conv1d
from lorta.storage import write_adapter


def export_lora(
    model: nn.Module,
    directory: str | Path,
    *,
    name: str = "default",
    base_model: str = "",
    rename: Callable[[str], str] = str,
) -> Path:
    """Write the adapter ``name`` of ``model`` as a PEFT LoRA of the same rank; returns ``directory``.

    ``base_model`` is what the reader is told to load first (a hub name or a path), and ``rename`` gives the path that a
    module has there, where it has another. The scale alpha / r is in the up
    matrices, and lora_alpha equals r, so that the reader's own scale is 1. The file has 2 d r numbers per site, many
    more than the adapter itself. ``ValueError`` when there is no such adapter or when it is no update of weights.
    """
    adapters = adapter_set(model)
    if name not in adapters:
        raise ValueError(f"no adapter {name!r}; there are {', '.join(adapters)}")
    adapter: Adapter | Insert = adapters[name]
    if isinstance(adapter, Insert):
        raise ValueError(
            f"adapter {name!r} is {adapter.config.method!r}, which is no update of weights; no LoRA holds it"
        )
    tensors, ranks = {}, {}
    transposed = False
    for path in adapter.modules_adapted:
        module = model_part(model, adapters).get_submodule(path)
        update = adapter.module_update(path, module.out_features)
        down = update.down if update.core is None else update.core @ update.down
        there = rename(path)
        tensors[f"base_model.model.{there}.lora_A.weight"] = down  # [r, in]
        tensors[f"base_model.model.{there}.lora_B.weight"] = update.up  # [out, r]
        ranks[there] = down.shape[0]
        transposed |= is_conv1d(module.base_layer)
    rank = min(ranks.values())
    others = {path: own for path, own in ranks.items() if own != rank}  # modules that hold q, k and v in one
    document = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(ranks),
    }
    directory = Path(directory)
    write_adapter(directory, tensors, document)
    return directory
