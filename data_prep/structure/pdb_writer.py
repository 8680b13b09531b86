"""``ProteinRecord`` to PDB text (format version 3.3)."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.structure.mmcif_writer import has_full_sequence
from data_prep.structure.pdb_fields import HYBRID36_DIGITS, MONTHS
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM_TYPES, RESNAMES


def format_pdb(name: str, chains: Sequence[ProteinRecord], model_of: str = "") -> bytes:
    """PDB text of ``chains``; the header is that of the first. Raises ``ValueError`` for what does not fit.

    ``model_of`` is the program that predicted them, for the remark on theoretical models (225).
    """
    if not chains:
        raise ValueError(f"{name}: no chains to write")
    ids = [chain.chain_id for chain in chains]
    if any(len(chain_id) > 1 for chain_id in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"{name}: chain ids {ids} are not distinct single characters: write mmCIF instead of PDB")
    lines = [*_header(chains[0]), *_model_remark(model_of), *_seqres(chains), *_atoms(name, chains), "END"]
    return ("\n".join(line.ljust(80) for line in lines) + "\n").encode()


def _pdb_date(iso: str) -> str:
    year, month, day = iso.split("-")
    return f"{day}-{MONTHS[int(month) - 1]}-{year[2:]}"


def _header(chain: ProteinRecord) -> Iterator[str]:
    if chain.deposition_date:
        yield f"HEADER    {'':40s}{_pdb_date(chain.deposition_date)}   XXXX"
    if chain.method:
        yield f"EXPDTA    {chain.method}"
    if chain.release_date:
        yield f"REVDAT   1   {_pdb_date(chain.release_date)} XXXX    0"
    if chain.resolution is not None:
        yield "REMARK   2"
        yield f"REMARK   2 RESOLUTION. {chain.resolution:7.2f} ANGSTROMS."


def _model_remark(program: str) -> Iterator[str]:
    if program:
        yield from ("REMARK 225", "REMARK 225 THEORETICAL MODEL", f"REMARK 225 PREDICTED BY {program}")


def _seqres(chains: Sequence[ProteinRecord]) -> Iterator[str]:
    """SEQRES of the chains whose residues count without gaps; the others are placed by their author's numbers."""
    for chain in filter(has_full_sequence, chains):
        names = [RESNAMES[aatype] for aatype in chain.aatype.tolist()]
        for serial, start in enumerate(range(0, len(names), 13), start=1):
            residues = " ".join(names[start : start + 13])
            yield f"SEQRES {serial % 1000:3d} {chain.chain_id or ' '} {len(names):4d}  {residues}"


def _atoms(name: str, chains: Sequence[ProteinRecord]) -> Iterator[str]:
    serial = 0
    for chain in chains:
        chain_id = chain.chain_id or " "
        tail = ""
        for i, atom in np.argwhere(chain.atom37_mask).tolist():
            serial += 1
            atom_name = ATOM_TYPES[atom]
            tail = (
                f"{RESNAMES[int(chain.aatype[i])]:>3s} {chain_id}"
                f"{hybrid36(int(chain.auth_seq_id[i]), 4)}{str(chain.insertion_code[i]) or ' '}"
            )
            x, y, z = (f"{value:8.3f}" for value in chain.atom37_positions[i, atom].tolist())
            line = (
                f"ATOM  {hybrid36(serial, 5)}  {atom_name:<3s} {tail}   {x}{y}{z}  1.00"
                f"{chain.b_factors[i, atom]:6.2f}          {atom_name[0]:>2s}"
            )
            if len(line) != 78:
                raise ValueError(f"{name}: {atom_name} of {tail} does not fit the columns of a PDB file: write mmCIF")
            yield line
        serial += 1
        yield f"TER   {hybrid36(serial, 5)}      {tail}"


def hybrid36(value: int, width: int) -> str:
    """A number in ``width`` columns; from 10 ** width on in base 36 with a leading capital (cctbx's hybrid-36)."""
    if -(10 ** (width - 1)) < value < 10**width:
        return f"{value:{width}d}"
    rest = value - 10**width + 10 * 36 ** (width - 1)
    if value < 0 or rest >= 36**width:
        raise ValueError(f"{value} does not fit {width} columns of a PDB file: write mmCIF")
    digits = ""
    for _ in range(width):
        rest, digit = divmod(rest, 36)
        digits = HYBRID36_DIGITS[digit] + digits
    return digits
