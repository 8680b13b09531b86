"""Checkpoints of the authors' two codes (github.com/ihounie/lorta): their names, their axes, their scale.

Both keep five factors at the root of the model: ``lora_A`` [d, r], ``lora_B`` [r, d/H], ``lora_C_h`` [H, r],
``lora_C_l`` [L, r] and ``lora_C_m`` [4, r] in the order q, k, v, o, and build M from the blocks A diag(C_h C_m C_l) B
of the heads, side by side.

``peft``: the fork of PEFT. dW (out x in) = M for all four matrices, so the heads are on the input.
``litgpt``: the fork of lit-gpt. y = x M for all four, so the heads are on the output; and the products for q, k and v
are concatenated one after the other although the fused matrix is interleaved by head, so that a head of q gets the
update of another role and head. Its checkpoints were trained that way, and load that way.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorta.attach import Adapter, build, install
from lorta.config import LortaConfig
from lorta.storage import check_tensors, read_settings

AXIS_OF = {"peft": "input", "litgpt": "litgpt"}
NAMES = {"lora_A": "A", "lora_B": "B", "lora_C_h": "C_H", "lora_C_l": "C_L", "lora_C_m": "C_M"}


def load_official(
    model: nn.Module,
    path: str | Path,
    convention: str,
    *,
    alpha: float | None = None,
    axis: str | None = None,
    name: str = "default",
) -> Adapter:
    """Attach the adapter of an official checkpoint to ``model``, its base, and return it.

    ``path`` is a file (.safetensors, or .pth/.pt/.bin of tensors) or a directory of the PEFT fork, whose
    ``adapter_config.json`` has alpha (``lora_alpha``); for a file without one give ``alpha``. ``convention`` is
    ``peft`` or ``litgpt``; ``axis`` overrides what it implies. Other entries of the file, such as a head, are left
    alone.

    Raises a one-line ``ValueError``, and changes nothing, where a factor is missing or does not fit the model.
    """
    if convention not in AXIS_OF:
        raise ValueError(f"convention must be one of {', '.join(AXIS_OF)}, got {convention!r}")
    path = Path(path)
    if path.is_dir():
        alpha = _alpha_of(path) if alpha is None else alpha
        path = path / "adapter_model.safetensors"
    if alpha is None:
        raise ValueError(f"{path} does not say alpha; give alpha=, the lora_alpha of the run")
    factors = _factors(path)
    rank = factors["A"].shape[1]
    adapter = build(model, LortaConfig(r=rank, alpha=alpha, init="official", axis=axis or AXIS_OF[convention]))
    tensors = {f"tensors.all.{key}": value.to(torch.float32) for key, value in factors.items()}
    check_tensors(path, tensors, adapter.state_dict())
    adapter.load_state_dict(tensors)
    install(model, adapter, name)
    return adapter


def _factors(path: Path) -> dict[str, Tensor]:
    """A [d, r], B [d/H, r] and the three C of the one adapter in ``path``."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except Exception as error:  # several error types for damage; an unpickling error has several lines
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be read: {reason[0]}") from None
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} holds a {type(tensors).__name__}, and no tensors by their names")
    if isinstance(tensors.get("model"), dict):  # lit-gpt saves {"model": state}
        tensors = tensors["model"]
    found = {}
    for key, value in tensors.items():
        last = str(key).rpartition(".")[2]
        if last in NAMES:
            if NAMES[last] in found:
                raise ValueError(f"{path} has several tensors named {last}; only the joint form has one of each")
            found[NAMES[last]] = value
    for official, ours in NAMES.items():
        if ours not in found:
            raise ValueError(f"{path} has no {official}; the joint form has {', '.join(NAMES)}")
        shape = getattr(found[ours], "shape", None)
        if shape is None or len(shape) != 2:
            raise ValueError(f"{path}: {official} has the shape {shape and list(shape)}, the joint form has a matrix")
    found["B"] = found["B"].T.contiguous()
    return found


def _alpha_of(directory: Path) -> float:
    path = directory / "adapter_config.json"
    try:
        return float(json.loads(read_settings(path))["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} gives no lora_alpha ({type(error).__name__}); give alpha=") from None
