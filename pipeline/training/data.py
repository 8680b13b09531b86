"""From protein records to padded batches of tensors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPES
from pipeline.folding.stem import MASKED
from pipeline.folding.tensor_files import write_tensors

MASK_STREAM = 0x6D61736B
"""Makes the draws of masked residues other ones than those of substituted residues of the same step."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B chains or crops, padded to N residues."""

    ids: tuple[str, ...]
    aatype: torch.Tensor
    """int64 [B, N]; 0 in the padding."""
    mask: torch.Tensor
    """float32 [B, N], 1 for residues, observed or not."""
    residue_index: torch.Tensor
    """int64 [B, N]."""
    atom37_positions: torch.Tensor
    """float32 [B, N, 37, 3], angstrom."""
    atom37_mask: torch.Tensor
    """float32 [B, N, 37], 1 for observed atoms."""
    resolution: torch.Tensor
    """float32 [B], angstrom; nan where the file states none, inf for a predicted structure."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in moved.items()})

    def save(self, path: Path) -> None:
        """Write all of it as safetensors, the ids in the metadata."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ids"}
        write_tensors(path, tensors, {"ids": json.dumps(self.ids)})


@dataclass(frozen=True)
class Crop:
    """A record and the residues of it to use."""

    record: ProteinRecord
    start: int = 0
    length: int | None = None
    """None: all the rest."""
    predicted: bool = False
    """A predicted structure: its resolution is infinite, so that it does not train the confidence."""


def random_crop(record: ProteinRecord, crop_size: int, rng: np.random.Generator, predicted: bool = False) -> Crop:
    """A uniformly drawn window of ``crop_size`` residues, or the whole chain when it is not longer."""
    spare = len(record) - crop_size
    start, length = (0, None) if spare <= 0 else (int(rng.integers(spare + 1)), crop_size)
    return Crop(record, start, length, predicted)


def substitute_residues(aatype: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """``aatype`` int64 [B, N] on the CPU with about ``fraction`` of its residues replaced by random standard ones."""
    generator = torch.Generator().manual_seed(seed)
    replace = torch.rand(aatype.shape, generator=generator) < fraction
    others = torch.randint(len(RESTYPES), aatype.shape, generator=generator)
    return torch.where(replace, others, aatype)


def mask_residues(aatype: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """``aatype`` int64 [B, N] on the CPU with about ``fraction`` of its residues as ``MASKED``."""
    generator = torch.Generator().manual_seed(seed ^ MASK_STREAM)
    return aatype.masked_fill(torch.rand(aatype.shape, generator=generator) < fraction, MASKED)


def collate(crops: Sequence[Crop]) -> Batch:
    """Pad crops to the longest one."""
    windows = [slice(c.start, None if c.length is None else c.start + c.length) for c in crops]

    def padded(arrays: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        rows = [torch.as_tensor(np.ascontiguousarray(array)).to(dtype) for array in arrays]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    records = [c.record for c in crops]
    aatype = [r.aatype[w] for r, w in zip(records, windows, strict=True)]
    return Batch(
        ids=tuple(r.id for r in records),
        aatype=padded(aatype, torch.int64),
        mask=padded([np.ones(len(a)) for a in aatype], torch.float32),
        residue_index=padded([r.residue_index[w] for r, w in zip(records, windows, strict=True)], torch.int64),
        atom37_positions=padded([r.atom37_positions[w] for r, w in zip(records, windows, strict=True)], torch.float32),
        atom37_mask=padded([r.atom37_mask[w] for r, w in zip(records, windows, strict=True)], torch.float32),
        resolution=torch.tensor([_resolution(crop) for crop in crops]),
    )


def _resolution(crop: Crop) -> float:
    if crop.predicted:
        return float("inf")
    return float("nan") if crop.record.resolution is None else crop.record.resolution
