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
    """Bytes that this process can still take on ``device``: of the system, its control group and ``ulimit -v``."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min([psutil.virtual_memory().available, *_group_limits(), *_process_limits()])


def _group_limits() -> list[int]:
    """What the control groups of this process (containers, batch systems) leave: version 2, then 1."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, files = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup/memory")
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                if not folder.is_relative_to(root):
                    break
                found += _left_in(folder, *files)
    return found


def _left_in(folder: Path, limit_file: str, used_file: str, cache_line: str) -> list[int]:
    try:
        limit, used = (folder / limit_file).read_text().strip(), int((folder / used_file).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if limit == "max":
        return []
    return [max(0, int(limit) - used + int(statistics.get(cache_line, 0)))]  # the file cache can be dropped


def _process_limits() -> list[int]:
    if sys.platform == "win32":
        return []
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return [] if limit == resource.RLIM_INFINITY else [max(0, limit - psutil.Process().memory_info().vms)]
