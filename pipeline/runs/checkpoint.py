"""Checkpoints: directories of safetensors and JSON, written atomically, newest readable one wins.

    checkpoints/step_00000500/
        trained.safetensors     parameters that train, by name
        ema.safetensors         their moving averages
        optimizer.safetensors   Adam's moments, "<parameter>/<moment>"
        state.json              step, format version, sha256 of the other files

A checkpoint is read only if it has the checksums that it was written with and is in its own place. Random numbers need
no state: every draw is a function of the seed and the step (``training/data.py``).
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tree
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_prep.files.atomic import writing_directory
from data_prep.files.bounded_reading import read_json
from data_prep.files.checksums import sha256
from data_prep.files.errors import UserError
from pipeline.folding.tensor_files import write_tensors

FORMAT_VERSION = 2

PARTS = ("trained", "ema", "optimizer")

WhichStep = int | Literal["best", "last"]
"""A checkpoint of a run by its step, 0: untrained; or that of the best round of validation; or the newest."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message is one line."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after ``step`` optimizer steps."""

    step: int
    trained: Mapping[str, torch.Tensor]
    ema: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]


def _name(step: int) -> str:
    return f"step_{step:08d}"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of the checkpoints, damaged ones too, oldest first."""
    named = [(p.name.removeprefix("step_"), p) for p in folder.glob("step_*") if p.is_dir()]
    return sorted((int(number), path) for number, path in named if number.isdecimal())  # others are the user's copies


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int, spare: int | None = None) -> Path:
    """Write a checkpoint and delete all before it but the newest ``keep`` and that of the step ``spare``.

    The directory gets its name when everything in it is on disk, and others go when the name is, so that an
    interruption leaves the previous checkpoints and, at worst, a directory that starts with a dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name(checkpoint.step)
    with writing_directory(target) as temporary:
        for part in PARTS:
            write_tensors(temporary / f"{part}.safetensors", getattr(checkpoint, part))
        checksums = {part: sha256(temporary / f"{part}.safetensors") for part in PARTS}
        state = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "sha256": checksums}
        (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    # Later steps are damaged checkpoints that the run has gone back behind: they count for nothing.
    written = [(step, path) for step, path in list_checkpoints(folder) if step <= checkpoint.step]
    for step, old in written[:-keep]:
        if step != spare:
            shutil.rmtree(old)
    return target


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointError when a file of it is missing, damaged or of another version."""
    try:
        state = read_json(path / "state.json")
        version, step, checksums = (state[name] for name in ("format_version", "step", "sha256"))
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path}: checkpoint format {version}, this version reads {FORMAT_VERSION}")
        problem = "" if path.name == _name(step) else f"state.json is that of step {step}"
        for part in PARTS:
            if sha256(path / f"{part}.safetensors") != checksums[part]:
                problem = f"{part}.safetensors has not the checksum it was written with"
        if problem:
            raise CheckpointError(f"{path}: not a readable checkpoint: {problem}")
        return Checkpoint(step=step, **{part: load_file(path / f"{part}.safetensors") for part in PARTS})
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error


def latest_checkpoint(folder: Path, step: int | None = None) -> Checkpoint | None:
    """The newest readable checkpoint, with a warning for each newer one that is not; None when there is none at all.

    With ``step``: that one, or CheckpointError. CheckpointError, too, when there are some and none can be read.
    """
    found = list_checkpoints(folder)
    if step is not None:
        for number, path in found:
            if number == step:
                return read_checkpoint(path)
        have = ", ".join(str(number) for number, _ in found) or "none"
        raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are: {have}")
    for _, path in reversed(found):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; going back to the one before", stacklevel=2)
    if found:
        raise CheckpointError(f"{folder}: none of its {len(found)} checkpoint(s) can be read: see the warnings above")
    return None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Adam's state as "<parameter>/<moment>" tensors."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    state = {names[parameter]: moments for parameter, moments in optimizer.state.items()}
    return {"/".join(path): torch.as_tensor(value) for path, value in tree.flatten_with_path(state)}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Put back what ``optimizer_tensors`` gave. Raises CheckpointError when a parameter's state is missing."""
    by_parameter: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, moment = key.rsplit("/", 1)
        by_parameter.setdefault(name, {})[moment] = tensor
    for name, parameter in parameters.items():
        if name not in by_parameter:
            raise CheckpointError(f"the checkpoint has no optimizer state of {name}: was the configuration changed?")
        optimizer.state[parameter] = {
            moment: tensor if moment == "step" else like(tensor, parameter)
            for moment, tensor in by_parameter[name].items()
        }


# Tensors that may be sharded over processes (DTensor) are known by their methods: importing their module takes longer
# than all of torch, and most runs have none. Ordinary tensors pass through unchanged.


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of ``tensor`` that lies on this process, detached, sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of ``tensor``, on every process; a collective operation where it is sharded."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "to_local") else tensor  # type: ignore[attr-defined]


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """``tensor``, whole on every process, on the device of ``model`` and sharded as it is."""
    tensor = tensor.to(model.device)
    if not hasattr(model, "to_local"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)  # type: ignore[attr-defined]
