"""ProteinRecord: what the project knows of one protein chain."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_prep.structure.residues import ATOM37_INDEX, sequence_to_aatype


@dataclass(frozen=True, eq=False)
class ProteinRecord:
    """One protein chain of one model of one structure file. N residues, observed or not."""

    id: str
    """Unique in a dataset and safe as a file name: ``<file stem>_<chain id>``."""
    chain_id: str
    """The author's chain id (auth_asym_id); may be empty in old PDB files."""
    sequence: str
    """N one-letter codes: SEQRES where the file has it, else the observed residues; X is unknown.
    Modified residues are their parents (MSE is M)."""
    residue_index: np.ndarray
    """int32 [N], strictly increasing, from 0: the position along SEQRES. Without SEQRES it follows the author's
    numbering, so that a gap in the numbers is a gap here."""
    atom37_positions: np.ndarray
    """float32 [N, 37, 3], angstrom; 0 where the mask is False."""
    atom37_mask: np.ndarray
    """bool [N, 37]: atoms that the file states."""
    b_factors: np.ndarray
    """float32 [N, 37]: the file's B-factor column (angstrom^2, or pLDDT in predictions); 0 where masked."""
    auth_seq_id: np.ndarray
    """int32 [N]: the author's residue number; meaningful where ``observed``."""
    insertion_code: np.ndarray
    """<U1 [N]: the PDB insertion code, '' for none."""
    resolution: float | None = None
    """angstrom; None where the file states none (NMR, predictions, headerless files)."""
    method: str | None = None
    """Experimental method in the PDB's words, e.g. 'X-RAY DIFFRACTION'."""
    deposition_date: str | None = None
    """ISO date."""
    release_date: str | None = None
    """ISO date of the first public release."""
    source_file: str = ""
    """Path as it was given, relative to the input directory where there was one."""
    source_sha256: str = ""
    """Hash of the bytes of the file as it lies on disk (compressed, if it is)."""
    model_number: int = 1
    states_plddt: bool = False
    """The file says that its B-factors are pLDDT (mmCIF's ma_qa_metric)."""
    warnings: tuple[str, ...] = ()
    """One line each: what was repaired, mapped or dropped while this chain was read."""

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def aatype(self) -> np.ndarray:
        """int64 [N], 0-19 and 20 for unknown."""
        return sequence_to_aatype(self.sequence)

    @property
    def observed(self) -> np.ndarray:
        """bool [N]: residues with at least one atom."""
        return np.logical_or.reduce(self.atom37_mask, axis=-1)

    @property
    def ca_positions(self) -> np.ndarray:
        """float32 [N, 3], angstrom."""
        return self.atom37_positions[:, ATOM37_INDEX["CA"]]

    @property
    def ca_mask(self) -> np.ndarray:
        """bool [N]: residues whose alpha carbon is stated."""
        return self.atom37_mask[:, ATOM37_INDEX["CA"]]
