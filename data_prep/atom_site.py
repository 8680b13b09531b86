"""AtomSite: what both formats state of one model, as columns, before anything is decided about it."""

from dataclasses import dataclass, field

import numpy as np

MAX_COORDINATE = 10_000.0
"""angstrom: a coordinate this far out does not fit a PDB file and is taken for damage."""


@dataclass(frozen=True)
class AtomSite:
    """Rows are atoms of the chosen model in file order, A of them."""

    name: np.ndarray
    """str [A], e.g. 'CA'."""
    altloc: np.ndarray
    """str [A], '' for none."""
    resname: np.ndarray
    """str [A], component id."""
    chain: np.ndarray
    """str [A], author's chain id, may be ''."""
    segment: np.ndarray
    """str [A]: label_asym_id; in PDB files the number of TER records seen before in this chain."""
    seqnum: np.ndarray
    """int32 [A], author's residue number."""
    icode: np.ndarray
    """str [A], '' for none."""
    label_seq: np.ndarray
    """int32 [A], position along entity_poly_seq from 1; 0 where the file states none (always 0 in PDB files)."""
    hetero: np.ndarray
    """bool [A], a HETATM record."""
    xyz: np.ndarray
    """float64 [A, 3], angstrom; NaN in a row whose coordinates the file does not state."""
    occupancy: np.ndarray
    """float32 [A], 1 where the file states none."""
    b_factor: np.ndarray
    """float32 [A], angstrom^2, 0 where the file states none."""

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True)
class ParsedStructure:
    """One model of one file: its atoms, the sequences that the file states, the header."""

    atoms: AtomSite
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Component ids of each polymer: by chain id (PDB: SEQRES), by label_asym_id (mmCIF: entity_poly_seq)."""
    parents: dict[str, str] = field(default_factory=dict)
    """Modified component -> standard component, as the file itself says (MODRES, pdbx_struct_mod_residue)."""
    has_labels: bool = False
    """Whether label_seq tells polymer residues from the rest."""
    n_models: int = 1
    model_number: int = 1
    resolution: float | None = None
    method: str | None = None
    deposition_date: str | None = None
    release_date: str | None = None
    warnings: tuple[str, ...] = ()


def plausible(xyz: np.ndarray) -> np.ndarray:
    """bool [A]: rows of ``xyz`` [A, 3] that are finite and inside ``MAX_COORDINATE``."""
    with np.errstate(invalid="ignore"):
        return (np.abs(xyz) < MAX_COORDINATE).all(axis=1)
