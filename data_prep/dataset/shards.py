"""Shards: the arrays of up to 256 records in one safetensors file, observed atoms only.

Tensors of a shard with R residues and A observed atoms over all its records, records one after the other:

- ``aatype`` uint8 [R], 0-19 in the order of ``residues.RESTYPES``, 20 unknown
- ``residue_index`` int32 [R], ``auth_seq_id`` int32 [R], ``insertion_code`` uint8 [R] (ASCII, 0 for none)
- ``atom_mask`` uint8 [R, 5]: 37 bits of the atom37 mask, atom 0 in the highest bit of byte 0; the last 3 bits are 0
- ``positions`` int32 [A, 3]: thousandths of an angstrom, atoms by residue and then by atom37 order
- ``b_factors`` float32 [A]

Where a record begins and ends is in the index (``data_prep.dataset.store``).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data_prep.files.atomic import write_bytes
from data_prep.files.command_line import program
from data_prep.structure.decimals import PER_ANGSTROM, thousandths
from data_prep.structure.record import ProteinRecord

RECORDS_PER_SHARD = 256

N_ATOMS = 37

_TENSORS = {
    "aatype": ("U8", False, ()),
    "residue_index": ("I32", False, ()),
    "auth_seq_id": ("I32", False, ()),
    "insertion_code": ("U8", False, ()),
    "atom_mask": ("U8", False, (5,)),
    "positions": ("I32", True, (3,)),
    "b_factors": ("F32", True, ()),
}
"""Of each tensor the type as safetensors names it, whether its rows are atoms (or residues), the rest of its shape."""


def save_shard(path: str | os.PathLike, records: Sequence[ProteinRecord]) -> None:
    """Write one shard, whole or not at all. Raises ``ValueError`` for a record whose arrays do not survive the format
    exactly, ``OSError`` where it cannot be written.
    """
    for record in records:
        check_storable(record)
    masks = np.concatenate([record.atom37_mask for record in records])
    positions = np.concatenate([record.atom37_positions[record.atom37_mask] for record in records])
    tensors: dict[str, np.ndarray] = {
        "aatype": np.concatenate([record.aatype for record in records]).astype(np.uint8),
        "residue_index": np.concatenate([record.residue_index for record in records]).astype(np.int32),
        "auth_seq_id": np.concatenate([record.auth_seq_id for record in records]).astype(np.int32),
        "insertion_code": np.concatenate([_codes(record.insertion_code) for record in records]),
        "atom_mask": np.packbits(masks, axis=1),
        "positions": to_thousandths(positions),
        "b_factors": np.concatenate([record.b_factors[record.atom37_mask] for record in records]).astype(np.float32),
    }
    write_bytes(path, save(tensors, metadata={"tool": program()}))


def to_thousandths(positions: np.ndarray) -> np.ndarray:
    """angstrom float32 to thousandths int32."""
    return thousandths(positions).astype(np.int32)


def from_thousandths(stored: np.ndarray) -> np.ndarray:
    """Thousandths int32 to angstrom float32, the inverse of ``to_thousandths`` for what the reader gives."""
    return (stored / PER_ANGSTROM).astype(np.float32)


def check_storable(record: ProteinRecord) -> None:
    """Raise ``ValueError`` where a record would not come back exactly as it is."""
    n, mask = len(record), record.atom37_mask
    if mask.shape != (n, N_ATOMS) or record.atom37_positions.shape != (n, N_ATOMS, 3):
        raise ValueError(f"{record.id}: {n} letters, but atom37 arrays of shape {mask.shape}")
    if n == 0 or (np.diff(record.residue_index) <= 0).any():
        raise ValueError(f"{record.id}: residue_index must be strictly increasing and not empty")
    observed = record.atom37_positions[mask]
    if not np.isfinite(observed).all() or (from_thousandths(to_thousandths(observed)) != observed).any():
        raise ValueError(f"{record.id}: positions must be finite multiples of 0.001 angstrom (round them first)")
    if record.atom37_positions[~mask].any() or record.b_factors[~mask].any():
        raise ValueError(f"{record.id}: positions and B-factors must be 0 where the mask is False")


def _codes(insertion_code: np.ndarray) -> np.ndarray:
    return np.array([ord(code) if code else 0 for code in insertion_code.tolist()], dtype=np.uint8)


class ShardReader:
    """Random access to the records of one shard; the file is memory-mapped. Raises ``ValueError`` for a damaged one."""

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            self._file = safe_open(os.fspath(path), framework="numpy")
            self._slices = {name: self._file.get_slice(name) for name in _TENSORS}
            self._n_residues = self._slices["atom_mask"].get_shape()[0]
            self._n_atoms = self._slices["positions"].get_shape()[0]
        except (SafetensorError, IndexError) as error:
            raise ValueError(f"damaged: {error}") from None
        for name, (dtype, is_of_atoms, rest) in _TENSORS.items():
            found = self._slices[name].get_dtype(), self._slices[name].get_shape()
            expected = dtype, [self._n_atoms if is_of_atoms else self._n_residues, *rest]
            if found != expected:
                raise ValueError(f"damaged: {name} is {found[0]} {found[1]}, expected {expected[0]} {expected[1]}")

    def arrays(self, residues: slice, atoms: slice) -> dict[str, Any]:
        """The array fields of the ``ProteinRecord`` at these ranges of the shard, which must be inside it."""
        if residues.stop > self._n_residues or atoms.stop > self._n_atoms:
            raise ValueError(f"damaged: it ends before residue {residues.stop} or atom {atoms.stop}")
        mask = np.unpackbits(self._slices["atom_mask"][residues], axis=1, count=N_ATOMS).astype(bool)
        positions = np.zeros((*mask.shape, 3), dtype=np.float32)
        positions[mask] = from_thousandths(self._slices["positions"][atoms])
        b_factors = np.zeros(mask.shape, dtype=np.float32)
        b_factors[mask] = self._slices["b_factors"][atoms]
        codes = self._slices["insertion_code"][residues]
        return {
            "residue_index": self._slices["residue_index"][residues],
            "atom37_positions": positions,
            "atom37_mask": mask,
            "b_factors": b_factors,
            "auth_seq_id": self._slices["auth_seq_id"][residues],
            "insertion_code": np.array([chr(code) if code else "" for code in codes.tolist()], dtype="<U1"),
        }
