"""The alpha carbons of a protein chain and its B-factors: what is left of a chain for those who need nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from data_prep.decimals import read_decimals
from data_prep.record import ProteinRecord
from data_prep.residues import ATOM37_INDEX

_CA = ATOM37_INDEX["CA"]


@dataclass(frozen=True, eq=False)
class CalphaTrace:
    """The alpha carbons of one protein chain; fields and N residues as of ``ProteinRecord``."""

    chain_id: str
    sequence: str
    residue_index: np.ndarray
    auth_seq_id: np.ndarray
    insertion_code: np.ndarray
    ca_positions: np.ndarray
    """float32 [N, 3], angstrom; 0 where the mask is False."""
    ca_mask: np.ndarray
    """bool [N]."""
    n_atoms: int
    """Heavy atoms of the chain."""
    method: str | None
    source_sha256: str
    warnings: tuple[str, ...]
    cut_b_column: Callable[[], "BColumn"]
    """Gives ``b_column``: of most chains nobody asks for it."""

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def b_column(self) -> "BColumn":
        """The B-factors of all heavy atoms."""
        return self.cut_b_column()

    @classmethod
    def of(cls, record: ProteinRecord) -> Self:
        """The trace of a chain that has been read whole."""
        column = BColumn.of(record)  # cut at once, since the record takes much more memory
        return cls(
            chain_id=record.chain_id,
            sequence=record.sequence,
            residue_index=record.residue_index,
            auth_seq_id=record.auth_seq_id,
            insertion_code=record.insertion_code,
            ca_positions=record.ca_positions,
            ca_mask=record.ca_mask,
            n_atoms=len(column.residue),
            method=record.method,
            source_sha256=record.source_sha256,
            warnings=record.warnings,
            cut_b_column=lambda: column,
        )


@dataclass(frozen=True, eq=False)
class BColumn:
    """The B-factors of the A heavy atoms of N residues."""

    n_residues: int
    residue: np.ndarray
    """int64 [A], increasing."""
    is_ca: np.ndarray
    """bool [A]."""
    content: np.ndarray
    """float32 [A], or uint8 [A, 6], the column as it stands in the file."""

    @classmethod
    def of(cls, record: ProteinRecord) -> Self:
        """Of a chain that has been read whole."""
        residue, atom = np.nonzero(record.atom37_mask)
        return cls(len(record), residue, atom == _CA, record.b_factors[residue, atom])

    @cached_property
    def values(self) -> np.ndarray:
        """float32 [A]; 0 where the file states none."""
        if self.content.ndim == 1:
            return self.content
        return read_decimals(self.content, 2, 0.0)[0].astype(np.float32)

    @cached_property
    def of_ca(self) -> np.ndarray:
        """float32 [N]: those of the alpha carbons; 0 without one."""
        values = np.zeros(self.n_residues, dtype=np.float32)
        values[self.residue[self.is_ca]] = self.values[self.is_ca]
        return values

    @cached_property
    def n_atoms(self) -> np.ndarray:
        """int64 [N]: heavy atoms of each residue."""
        return np.bincount(self.residue, minlength=self.n_residues)
