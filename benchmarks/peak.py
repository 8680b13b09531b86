"""Peak memory of one device's process, as benchmarks measure it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_HIGH_WATER = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Peak memory of one device's process since ``reset``."""

    device: torch.device

    def reset(self) -> None:
        """Start to measure."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):  # not Linux, or not allowed: the peak since the start, which is no less
                _HIGH_WATER.write_text("5")

    def read(self) -> int:
        """Peak in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        info = psutil.Process().memory_info()
        return getattr(info, "peak_wset", info.rss)

    def now(self) -> int:
        """Bytes in use at this moment, on the scale of ``read``."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return psutil.Process().memory_info().rss
