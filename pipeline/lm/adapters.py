"""``--adapter``: any method by name onto a Hugging Face model, and what is written of it afterwards."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

import lorta
from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json
from pipeline.config.schema import ConfigError
from pipeline.folding.tensor_files import write_tensors
from pipeline.lm.errors import one_line
from pipeline.lm.settings import WITHOUT_ADAPTER, AdapterSettings

OPTIONAL = ("alpha", "targets", "init", "dropout")
"""Settings that are passed on only when given: some methods have none of them."""


@dataclass(frozen=True)
class ParameterCount:
    """Trainable parameters."""

    adapter: int
    """Of the adapter; with ``full``, of the body."""
    head: int
    total: int
    """Of the model, frozen ones too."""


def adapter_config(
    settings: AdapterSettings,
    model: PreTrainedModel,
    *,
    task_type: str,
    modules_to_save: Sequence[str] = (),
    total_steps: int,
) -> peft.PeftConfig | None:
    """The PEFT config of ``settings`` for ``model``; ``None`` for the methods without an adapter.

    Raises ConfigError: a setting that the method does not have, a model that it does not fit.
    """
    values: dict[str, Any] = {name: getattr(settings, name) for name in OPTIONAL if getattr(settings, name)}
    if settings.rank:
        values["r"] = settings.rank
    values |= {key: tuple(value) if isinstance(value, list) else value for key, value in settings.settings.items()}
    if settings.method in WITHOUT_ADAPTER:
        if values:
            raise ConfigError(f"adapter {settings.method!r} has no settings, got {', '.join(values)}")
        return None
    if settings.method == "adalora":
        values["total_step"] = total_steps
    try:
        return lorta.peft_config(
            settings.method, model=model, task_type=task_type, modules_to_save=list(modules_to_save) or None, **values
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adapter {settings.method}: {one_line(error)}") from error


def wrap(model: PreTrainedModel, config: peft.PeftConfig) -> peft.PeftModel:
    """``get_peft_model`` with a model that does not fit as one line. Raises ConfigError."""
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"this adapter does not fit the model: {one_line(error)}") from error


def train_without_adapter(model: PreTrainedModel, method: str, heads: Sequence[str]) -> None:
    """Let everything (``full``) or only the modules ``heads`` (``head``) train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(method == "full" or in_modules(name, heads))


def in_modules(parameter: str, modules: Sequence[str]) -> bool:
    """Whether a parameter belongs to one of the modules, under PEFT's wrapping too."""
    return any(f".{module}." in f".{parameter}" for module in modules)


def count_parameters(model: nn.Module, heads: Sequence[str]) -> ParameterCount:
    """Trainable parameters by part, and all. PEFT's frozen originals of saved modules are not counted twice."""
    trainable = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    head = sum(size for name, size in trainable if in_modules(name, heads))
    every = sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in name)
    return ParameterCount(sum(size for _, size in trainable) - head, head, every)


def check_export(config: peft.PeftConfig | None) -> None:
    """Raise ConfigError for an adapter that no plain LoRA can hold; to be called before training, not after."""
    if config is None or not isinstance(config, lorta.LortaConfig):
        raise ConfigError("--export-lora is for the methods of lorta that update attention weights (docs/adapters.md)")


def export_as_lora(model: peft.PeftModel, saved: Path, directory: Path) -> Path:
    """The trained adapter as a plain PEFT LoRA, with the modules that were saved whole beside it.

    Args:
        model: adapted; nothing in it is changed.
        saved: directory of its own ``adapter_model.safetensors``.
        directory: to write.
    """
    config = read_json(saved / "adapter_config.json")
    lorta.export_lora(model, directory, base_model=config["base_model_name_or_path"] or "")
    names = config.get("modules_to_save") or []
    tensors = load_file(directory / "adapter_model.safetensors")
    own = load_file(saved / "adapter_model.safetensors")
    tensors |= {key: value for key, value in own.items() if in_modules(key, names)}
    write_tensors(directory / "adapter_model.safetensors", tensors, {"format": "pt"})
    document = read_json(directory / "adapter_config.json")
    document |= {"task_type": config["task_type"], "modules_to_save": names or None}
    write_text(directory / "adapter_config.json", json.dumps(document, indent=1) + "\n")
    return directory
