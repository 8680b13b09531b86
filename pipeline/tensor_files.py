"""safetensors files, written as a whole or not at all; a full disk is the ``OSError`` that it is."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from data_prep.release import program


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` by way of a temporary file beside it, which a failure does not leave behind.

    Raises OSError.
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
