"""How much memory is free, what a batch took, and what the next one will take."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from pipeline.config.schema import RunConfig
from pipeline.folding.trunk import peak_bytes

SHARE = 0.8
"""Of what is free: other programs and the fragments of the allocator take some."""

TELLING = 256 << 20
"""Bytes; of a smaller batch, what the libraries take once is too large a part."""
STEM_HEADS = 40
"""Attention heads of ESM-2 3B, whose weights of one layer are there at a time."""
LEAST_CORRECTION, MOST_CORRECTION = 0.25, 4.0
"""A measurement beyond these is of something else, such as memory that was kept from before."""

_HIGH_WATER = Path("/proc/self/clear_refs")


def size_text(size: int) -> str:
    """``61.2 GiB``, below one ``58 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.0f} MiB"


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
        peak = status_bytes("VmHWM")
        if peak is not None:
            return peak
        info = psutil.Process().memory_info()
        return getattr(info, "peak_wset", info.rss)

    def now(self) -> int:
        """Bytes in use at this moment, on the scale of ``read``."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return psutil.Process().memory_info().rss


@contextmanager
def capped(device: torch.device, beyond: int) -> Iterator[None]:
    """Let allocations on the CPU beyond what is in use now and ``beyond`` bytes fail, so that they can be answered.

    Without this Linux promises more memory than there is, and kills the process that comes to use it.
    """
    data = status_bytes("VmData") if device.type == "cpu" else None  # what counts against RLIMIT_DATA
    if data is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [value for value in (soft, hard, data + beyond) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def status_bytes(field: str) -> int | None:
    """A size that Linux states of this process, by its name in /proc/self/status; None on other systems."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024
    except (OSError, StopIteration):
        return None


class MemoryModel:
    """What a batch takes beyond the weights: an estimate from shapes, corrected by what batches have taken.

    Memory that the allocator keeps after a batch counts as that batch's, since it is there for the next one.
    """

    def __init__(self, config: RunConfig, device: torch.device, budget: int) -> None:
        self.config = config
        self.budget = budget
        """bytes beyond what was in use when this was made."""
        self.correction = 1.0
        """Measured to estimated, of the largest batch that was large enough to tell."""
        self._device = device
        self._peak = Peak(device)
        self._base = self._peak.now()
        self._largest = TELLING

    def estimate(self, batch: int, length: int, chunk_size: int = 0) -> int:
        """Bytes that a batch padded to ``length`` will take; ``chunk_size`` as the trunk takes it, 0: automatic."""
        return int(self.correction * self.from_shapes(batch, length, chunk_size))

    def start(self) -> None:
        """Before a batch."""
        self._peak.reset()

    def learn(self, batch: int, length: int, chunk_size: int = 0) -> int:
        """After a batch: corrects the estimate, if the batch is the largest so far; returns what it took, in bytes."""
        taken = max(0, self._peak.read() - self._base)
        expected = self.from_shapes(batch, length, chunk_size)
        if expected >= self._largest:
            self._largest = expected
            self.correction = min(max(taken / expected, LEAST_CORRECTION), MOST_CORRECTION)
        return taken

    def from_shapes(self, batch: int, length: int, chunk_size: int = 0) -> int:
        """Bytes of the trunk's peak, of the heads' logits and of the stem's attention weights."""
        trunk, heads = self.config.trunk, self.config.heads
        bins = heads.distogram_bins + (heads.pae_bins if heads.pae else 0)
        pair = peak_bytes(trunk, batch, length, chunk_size=chunk_size, device=self._device.type)
        return pair + 4 * batch * length * length * (2 * bins + STEM_HEADS)
