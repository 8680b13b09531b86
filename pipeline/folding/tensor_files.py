"""Files of tensors: safetensors, written as a whole or not at all; torch's own, read without running anything."""

import errno
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from data_prep.files.atomic import writing_path
from data_prep.files.bounded_reading import read_json
from data_prep.files.command_line import program
from data_prep.files.errors import UserError

HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights of a model in a Hugging Face directory, the first that is there; large models are in shards of such names."""


class UnreadableError(UserError):
    """A file that is damaged, no file of ``torch.save``, or of classes that are not let in; the message is one line."""


def read_pickle(path: Path, classes: Sequence[Any] = ()) -> Any:
    """Content of a file of ``torch.save`` on the CPU, without running anything in it.

    Args:
        path: the file.
        classes: to let in beyond tensors and containers, as ``torch.serialization.safe_globals`` takes them.

    Raises:
        UnreadableError: the file is there, and cannot be read so.
        OSError: as ``open``.
    """
    try:
        with torch.serialization.safe_globals(list(classes)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of a damaged file, which is an error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # damage can be any: IndexError, struct.error, AssertionError, ...
        # torch's message starts with advice to load unsafely; what is wrong is after that.
        text = re.sub(r"^Weights only load failed.*?(WeightsUnpickler error: |\n\n+)", "", str(error), flags=re.DOTALL)
        reason = text.partition(" Please use")[0].strip()
        line = reason.splitlines()[0] if reason else type(error).__name__
        raise UnreadableError(f"{path}: cannot be read safely: {line[:200]}") from error


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass, without a copy. On the meta device there are no values."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def weight_files(directory: Path) -> list[Path]:
    """The files with a model's weights in a Hugging Face directory: one, or the shards that an index names.

    Raises:
        UnreadableError: there is none, or the index is none.
        OSError: as ``open``.
    """
    for name in HUGGING_FACE_FILES:
        if (directory / name).is_file():
            return [directory / name]
        index = directory / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted({str(shard) for shard in read_json(index)["weight_map"].values()})
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
                raise UnreadableError(f"{index}: not an index of shards: {error!r}") from error
            if any(Path(shard).name != shard for shard in shards):
                raise UnreadableError(f"{index}: names a shard outside its directory")
            return [directory / shard for shard in shards]
    raise UnreadableError(f"{directory}: holds neither {' nor '.join(HUGGING_FACE_FILES)}, whole or in shards")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` by way of a temporary file beside it, which a failure does not leave behind.

    Raises OSError; a full disk is one too.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with writing_path(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the user's other files: safetensors' own are the owner's alone
            save_file(content, temporary, metadata={"tool": program(), **(metadata or {})})
            temporary.chmod(mode)
    except SafetensorError as error:
        # safetensors has errors of its own for everything; the system's number is only in their text.
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
