"""The device that a command computes on: which one, and its memory."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from pipeline.config.schema import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto``: cuda, else mps, else cpu. Raises ConfigError for a device that this machine lacks."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # what is on "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({line}): try --device cpu or auto") from None
    return device


def memory_in_use(device: torch.device) -> float:
    """MB: the largest that a GPU's allocator has held, or on other devices the largest of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended, on whichever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still take on ``device``: of the system, and of its control groups (version 2), by
    which containers and batch systems limit it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [psutil.virtual_memory().available]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = Path("/sys/fs/cgroup", line[3:].lstrip("/"))
                free += [left for group in (own, *own.parents) if (left := _left_in(group)) is not None]
    return min(free)


def _left_in(group: Path) -> int | None:
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(statistics["inactive_file"]))  # the file cache can be dropped
    except (OSError, ValueError, KeyError):  # not a group, or one whose limit is "max"
        return None
