"""Exact export to plain LoRA: every update is a product of two thin matrices, which is what LoRA stores.

The files are those of PEFT's LoRA, so PEFT and the servers that read its format load them, without this package.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from lorta.attaching import ATTRIBUTE, adapter_named, adapter_set, model_part
from lorta.layer import AdaptedLinear, WeightAdapter
from lorta.sites import is_conv1d
from lorta.storage import write_adapter


def export_lora(
    model: nn.Module,
    directory: str | Path,
    *,
    name: str = "default",
    base_model: str = "",
    task_type: str | None = None,
    rename: Callable[[str], str] = str,
) -> Path:
    """Write the adapter ``name`` of ``model`` as a PEFT LoRA of the same rank; returns ``directory``.

    ``base_model`` is what the reader is told to load first (a hub name or a path; default: where transformers had the
    model from), ``task_type`` is PEFT's (default: that of the adapter's config), and ``rename`` gives the path that a
    module has in that model, where it has another. The scale alpha / r is in the up
    matrices, and lora_alpha equals r, so that the reader's own scale is 1. The file has 2 d r numbers per site, many
    more than the adapter itself, and the modules that train whole beside it, such as a head (``modules_to_save``).

    Raises ValueError: no such adapter, one that is no update of weights, a trained parameter that no LoRA file holds.
    """
    adapter = adapter_named(model, name)
    if not isinstance(adapter, WeightAdapter):
        raise ValueError(
            f"adapter {name!r} is {adapter.config.method!r}, which is no update of weights; no LoRA holds it"
        )
    tensors, ranks = {}, {}
    transposed = False
    root = model_part(model, adapter_set(model))
    for path in adapter.modules_adapted:
        module = root.get_submodule(path)
        update = module.update_of(adapter) if isinstance(module, AdaptedLinear) else None
        assert isinstance(module, AdaptedLinear) and update is not None  # installed there
        down, up = update.pair()
        there = rename(path)
        tensors[f"base_model.model.{there}.lora_A.weight"] = down  # [r, in]
        tensors[f"base_model.model.{there}.lora_B.weight"] = up  # [out, r]
        ranks[there] = down.shape[0]
        transposed |= is_conv1d(module.base_layer)
    rank = min(ranks.values())
    others = {path: own for path, own in ranks.items() if own != rank}  # modules that hold q, k and v in one
    whole = {rename(path): parts for path, parts in _trained_whole(root, name).items()}
    for path, parts in whole.items():
        tensors |= {f"base_model.model.{path}.{key}": value for key, value in parts.items()}
    known = getattr(adapter.config, "base_model_name_or_path", None) or getattr(
        getattr(root, "config", None), "_name_or_path", ""
    )
    document = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model or known,
        "task_type": task_type or getattr(adapter.config, "task_type", None),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(ranks),
        "modules_to_save": sorted(whole) or None,
    }
    directory = Path(directory)
    write_adapter(directory, tensors, document)
    return directory


def _trained_whole(root: nn.Module, adapter: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of every module below ``root`` that trains whole beside the adapter, by its path.

    Under PEFT they are the copies of ``modules_to_save`` that belong to the adapter; else what was given
    ``requires_grad`` again after ``lorta.attach``.
    """
    whole: dict[str, dict[str, Tensor]] = {}
    for path, module in root.named_modules():
        copies = getattr(module, "modules_to_save", None)
        if isinstance(copies, nn.ModuleDict) and adapter in copies:
            whole[path] = copies[adapter].state_dict()
    for key, parameter in root.named_parameters():
        path = key.rpartition(".")[0]
        if not parameter.requires_grad or ".modules_to_save." in key or key.startswith(f"{ATTRIBUTE}."):
            continue
        if not path or path.endswith("base_layer"):
            raise ValueError(
                f"{key} trains beside the adapter, and a LoRA file holds whole modules that are not adapted"
            )
        whole.setdefault(path, root.get_submodule(path).state_dict())
    return whole
