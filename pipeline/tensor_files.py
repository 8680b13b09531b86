"""Files of tensors: safetensors, written as a whole or not at all; torch's own, read without running anything."""

import errno
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

from data_prep.release import program


class UnreadableError(ValueError):
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


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` by way of a temporary file beside it, which a failure does not leave behind.

    Raises OSError; a full disk is one too.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(content, temporary, metadata={"tool": program(), **(metadata or {})})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        # safetensors has errors of its own for everything; the system's number is only in their text.
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
