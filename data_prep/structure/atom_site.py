"""AtomSite: what both formats state of one model, as columns, before anything is decided about it; choosing models."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from data_prep.structure.categorical import Categorical, joint_codes
from data_prep.structure.structure_bytes import StructureError

MAX_COORDINATE = 10_000.0
"""angstrom: a coordinate this far out does not fit a PDB file and is taken for damage."""

BACKBONE = ("N", "CA", "C")

SAME_ALPHA_CARBON = 2.0
"""angstrom: two alpha carbons of one name and number nearer than this are one that is listed twice."""

MAX_DAMAGED_FRACTION = 0.02
"""Share of damaged atom records above which a file is refused as a whole."""


@dataclass(frozen=True)
class AtomSite:
    """A atoms of the chosen model, and the R residues that they form: one component at one place of a chain.

    Residue r has the atoms ``start[r]`` to ``start[r] + count[r]``.
    """

    name: Categorical
    """[A], e.g. 'CA'."""
    altloc: Categorical
    """[A], '' for none."""
    xyz: np.ndarray
    """float64 [A, 3], angstrom; NaN in a row whose coordinates the file does not state."""
    occupancy: np.ndarray
    """float32 [A], 1 where the file states none."""
    b_factor: np.ndarray
    """float32 [A], angstrom^2, 0 where the file states none."""
    start: np.ndarray
    """int64 [R], increasing from 0."""
    resname: Categorical
    """[R], component id."""
    chain: Categorical
    """[R], author's chain id, may be ''."""
    segment: Categorical
    """[R]: label_asym_id; in PDB files the segment id (columns 73-76). '' for none."""
    ters: np.ndarray
    """int64 [R]: TER records seen before in this chain (0 in mmCIF)."""
    seqnum: np.ndarray
    """int32 [R], author's residue number."""
    icode: Categorical
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

    @cached_property
    def backbone(self) -> np.ndarray:
        """float64 [R, 3, 3], angstrom: N, CA and C of each residue, of alternate locations the first; NaN without."""
        places = np.full((len(self.start), 3, 3), np.nan)
        for place, name in enumerate(BACKBONE):
            rows = self.rows_named(name)[::-1]
            places[self.start.searchsorted(rows, side="right") - 1, place] = self.xyz.take(rows, axis=0)
        return places

    def rows_named(self, *names: str) -> np.ndarray:
        """int64 [n], increasing: the atoms of these names."""
        codes = [self.name.values.index(name) for name in names if name in self.name.values]
        return (self.name.code == codes[0] if len(codes) == 1 else np.isin(self.name.code, codes)).nonzero()[0]

    def with_whole_residues(self) -> Self:
        """One residue for each backbone: runs of atoms of one component at one place are joined, at the place of the
        first, unless each has a backbone of its own; runs with two of them are parted."""
        atoms = self._parted()
        if (atoms.place[1:] > atoms.place[:-1]).all():  # the usual case of one chain, told without sorting
            return atoms
        key = joint_codes(atoms.place, atoms.chain.code, atoms.ters, atoms.resname.code)
        if (key[1:] > key[:-1]).all():
            return atoms
        _, group, size = np.unique(key, return_inverse=True, return_counts=True)
        if len(size) == len(key):
            return atoms
        head = np.arange(len(key))  # the run that each run joins
        latest: dict[int, int] = {}
        for run in np.flatnonzero(size[group] > 1).tolist():
            other = latest.get(int(group[run]))
            if other is not None and not atoms._are_two(atoms._atoms(other), atoms._atoms(run)):
                head[run] = other
            else:
                latest[int(group[run])] = run
        order, _ = atoms.rows(np.argsort(head, kind="stable"))
        kept = np.flatnonzero(head == np.arange(len(key)))
        total = np.bincount(head, weights=atoms.count, minlength=len(key))[kept].astype(np.int64)
        return replace(
            atoms,
            name=atoms.name.take(order),
            altloc=atoms.altloc.take(order),
            xyz=atoms.xyz[order],
            occupancy=atoms.occupancy[order],
            b_factor=atoms.b_factor[order],
            start=np.cumsum(total) - total,
            **atoms._residue_columns(kept),
        )

    def _parted(self) -> Self:
        """Runs that hold the same alpha carbon twice parted where the second residue begins, if there is one."""
        alpha = self.rows_named("CA")
        owner = np.searchsorted(self.start, alpha, side="right") - 1
        same = (owner[1:] == owner[:-1]) & (self.altloc.code[alpha[1:]] == self.altloc.code[alpha[:-1]])
        cuts = []
        for residue in dict.fromkeys(owner[1:][same].tolist()):
            rows, seen = self._atoms(residue), set()
            for row in rows:
                atom = int(self.name.code[row]), int(self.altloc.code[row])
                if atom in seen:
                    if self._are_two(range(rows.start, row), range(row, rows.stop)):
                        cuts.append((residue, row))
                    break
                seen.add(atom)
        if not cuts:
            return self
        residues = np.sort(np.append(np.arange(len(self.start)), [residue for residue, _ in cuts]))
        start = np.sort(np.append(self.start, [row for _, row in cuts]))
        return replace(self, start=start, **self._residue_columns(residues))

    def _atoms(self, residue: int) -> range:
        """The rows of its atoms."""
        return range(int(self.start[residue]), int(self.start[residue] + self.count[residue]))

    def _are_two(self, first: range, second: range) -> bool:
        """Whether these atoms are of two residues: both have a backbone, or one of an alpha carbon alone, apart."""
        atoms = [{self.name[row]: row for row in reversed(rows)} for rows in (first, second)]
        whole = all(each.keys() >= {*BACKBONE} for each in atoms) or all(list(each) == ["CA"] for each in atoms)
        if not whole or self.altloc[atoms[0]["CA"]] != self.altloc[atoms[1]["CA"]]:
            return False
        return not np.linalg.norm(self.xyz[atoms[0]["CA"]] - self.xyz[atoms[1]["CA"]]) < SAME_ALPHA_CARBON

    def _residue_columns(self, residues: np.ndarray) -> dict[str, Any]:
        """The columns [R] of some residues, all but ``start``."""
        words = {name: getattr(self, name).take(residues) for name in ("resname", "chain", "segment", "icode")}
        return words | {name: getattr(self, name)[residues] for name in ("ters", "seqnum", "label_seq", "hetero")}


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
    states_plddt: bool = False
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


ModelChoice = int | Literal["all"] | None
"""A stated number, all, or (None) the first that holds atoms."""


def choose_models(path: str | os.PathLike, numbers: Sequence[int], choice: ModelChoice) -> range | list[int]:
    """Positions of the chosen models among the ``numbers`` of those that hold atoms, in file order.

    Raises ``StructureError`` for a number that is not there.
    """
    if choice == "all":
        return range(len(numbers))
    if choice is None:
        return [0]
    if choice in numbers:
        return [numbers.index(choice)]
    shown = ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
    raise StructureError(path, f"has no model {choice}: its models are {shown}")


def model_note(n_models: int, position: int, choice: ModelChoice) -> list[str]:
    """The warning that a record of one of several models carries; none where the file has one."""
    if n_models == 1:
        return []
    if choice == "all":
        return [f"model {position + 1} of {n_models}"]
    return [f"{n_models} models, the {'first' if choice is None else 'chosen'} one was read"]
