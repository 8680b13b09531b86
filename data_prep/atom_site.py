"""AtomSite: what both formats state of one model, as columns, before anything is decided about it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np

from data_prep.words import Words, joint_codes

MAX_COORDINATE = 10_000.0
"""angstrom: a coordinate this far out does not fit a PDB file and is taken for damage."""

MAX_DAMAGED_FRACTION = 0.02
"""Share of damaged atom records above which a file is refused as a whole."""


@dataclass(frozen=True)
class AtomSite:
    """A atoms of the chosen model, and the R residues that they form: one component at one place of a chain.

    Residue r has the atoms ``start[r]`` to ``start[r] + count[r]``.
    """

    name: Words
    """[A], e.g. 'CA'."""
    altloc: Words
    """[A], '' for none."""
    xyz: np.ndarray
    """float64 [A, 3], angstrom; NaN in a row whose coordinates the file does not state."""
    occupancy: np.ndarray
    """float32 [A], 1 where the file states none."""
    b_factor: np.ndarray
    """float32 [A], angstrom^2, 0 where the file states none."""
    start: np.ndarray
    """int64 [R], increasing from 0."""
    resname: Words
    """[R], component id."""
    chain: Words
    """[R], author's chain id, may be ''."""
    segment: Words
    """[R]: label_asym_id; in PDB files the number of TER records seen before in this chain."""
    seqnum: np.ndarray
    """int32 [R], author's residue number."""
    icode: Words
    """[R], '' for none."""
    label_seq: np.ndarray
    """int32 [R], position along entity_poly_seq from 1; 0 where the file states none (always 0 in PDB files)."""
    hetero: np.ndarray
    """bool [R], the first atom is a HETATM record."""

    def __len__(self) -> int:
        return len(self.name)

    @cached_property
    def count(self) -> np.ndarray:
        """int64 [R], atoms of each residue."""
        count = np.empty_like(self.start)
        np.subtract(self.start[1:], self.start[:-1], out=count[:-1])
        count[-1:] = len(self) - self.start[-1:]
        return count

    @cached_property
    def place(self) -> np.ndarray:
        """int64 [R], equal for residues with the same numbers and insertion code, whatever their chain."""
        return joint_codes(self.label_seq, self.seqnum, self.icode.code)

    def rows(self, residues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The atoms of some residues (int [n]), in their order, and for each atom the position of its residue."""
        count = self.count[residues]
        position = np.repeat(np.arange(len(residues)), count)
        if len(residues) and residues[-1] - residues[0] == len(residues) - 1 and (residues[1:] > residues[:-1]).all():
            return np.arange(self.start[residues[0]], self.start[residues[0]] + len(position)), position
        within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
        return self.start[residues][position] + within, position

    def label(self, residue: int) -> str:
        """A residue in words: 'SER A52B'."""
        number, code = int(self.seqnum[residue]), self.icode[residue]
        return f"{self.resname[residue]} {self.chain[residue]}{number}{code}"

    def with_whole_residues(self) -> Self:
        """Runs of atoms that belong to the same residue joined into one, at the place of the first."""
        if (self.place[1:] > self.place[:-1]).all():  # the usual case of one chain, told without sorting
            return self
        key = joint_codes(self.place, self.chain.code, self.segment.code, self.resname.code)
        if (key[1:] > key[:-1]).all():
            return self
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        if len(first) == len(key):
            return self
        first_run = first[group]  # the run that each run joins
        order, _ = self.rows(np.argsort(first_run, kind="stable"))
        kept = np.flatnonzero(first_run == np.arange(len(key)))
        total = np.bincount(first_run, weights=self.count, minlength=len(key))[kept].astype(np.int64)
        words = {name: getattr(self, name).take(kept) for name in ("resname", "chain", "segment", "icode")}
        return replace(
            self,
            name=self.name.take(order),
            altloc=self.altloc.take(order),
            xyz=self.xyz[order],
            occupancy=self.occupancy[order],
            b_factor=self.b_factor[order],
            start=np.cumsum(total) - total,
            seqnum=self.seqnum[kept],
            label_seq=self.label_seq[kept],
            hetero=self.hetero[kept],
            **words,
        )


@dataclass(frozen=True)
class ParsedStructure:
    """One model of one file: its atoms, the sequences that the file states, the header."""

    atoms: AtomSite
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Component ids of each polymer (SEQRES, entity_poly_seq): by label_asym_id with ``has_labels``, else by chain."""
    parents: dict[str, str] = field(default_factory=dict)
    """Modified component -> standard component, as the file itself says (MODRES, pdbx_struct_mod_residue)."""
    has_labels: bool = False
    """Whether label_seq tells polymer residues from the rest."""
    ended_chains: frozenset[str] = frozenset()
    """Ids of the chains whose end the file states (PDB: TER)."""
    n_models: int = 1
    model_number: int = 1
    resolution: float | None = None
    method: str | None = None
    deposition_date: str | None = None
    release_date: str | None = None
    warnings: tuple[str, ...] = ()

    def seqres(self, residue: int) -> tuple[str, ...]:
        """Component ids of the polymer that a residue of ``atoms`` belongs to; empty where the file states none."""
        atoms = self.atoms
        return self.sequences.get(atoms.segment[residue] if self.has_labels else atoms.chain[residue], ())


def plausible(xyz: np.ndarray) -> np.ndarray:
    """bool [A]: rows of ``xyz`` [A, 3] that are finite and inside ``MAX_COORDINATE``."""
    size = np.abs(xyz)
    if size.max(initial=0.0) < MAX_COORDINATE:  # the usual case; false for NaN
        return np.ones(len(xyz), dtype=bool)
    with np.errstate(invalid="ignore"):
        inside = size < MAX_COORDINATE
    return inside[:, 0] & inside[:, 1] & inside[:, 2]
