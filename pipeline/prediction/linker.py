"""Complexes for a model of single chains: glycine linkers and a jump in the numbering (Lin et al. 2023; fair-esm).

``esm.esmfold.v1.misc.encode_sequence``: chains are joined by 25 glycines, and everything from the second chain on is
numbered 512 further, once per chain. The linker is folded and then left out of everything that is written.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.structure.residues import AATYPE_OF_LETTER, sequence_to_aatype
from pipeline.prediction.sequences import Query

LINKER_LENGTH = 25
INDEX_JUMP = 512

_GLYCINE = AATYPE_OF_LETTER["G"]


@dataclass(frozen=True, eq=False)
class Linked:
    """One sequence for the model. M residues, linkers included."""

    aatype: np.ndarray
    """int64 [M]."""
    residue_index: np.ndarray
    """int64 [M]."""
    chain: np.ndarray
    """int64 [M]: which chain a residue belongs to, -1 for linkers."""

    def __len__(self) -> int:
        return len(self.aatype)


def linked_length(query: Query) -> int:
    """Residues that the model sees."""
    return query.length + LINKER_LENGTH * (len(query.chains) - 1)


def link(query: Query) -> Linked:
    """The chains of ``query`` with linkers between them; a single chain as it is.

    A chain's own numbering is kept, so that its gaps stay; the linker goes on from its last residue.
    """
    aatype, index, chain = [], [], []
    first = 0
    for number, (sequence, own) in enumerate(zip(query.chains, query.residue_index, strict=True)):
        if number:
            first = int(index[-1][-1]) + 1 + INDEX_JUMP
        numbers = own - (own[0] if number else 0) + first
        aatype.append(sequence_to_aatype(sequence))
        index.append(numbers)
        chain.append(np.full(len(sequence), number))
        if number < len(query.chains) - 1:
            aatype.append(np.full(LINKER_LENGTH, _GLYCINE))
            index.append(numbers[-1] + 1 + np.arange(LINKER_LENGTH))
            chain.append(np.full(LINKER_LENGTH, -1))
    return Linked(np.concatenate(aatype), np.concatenate(index), np.concatenate(chain))
