"""``ProteinRecord`` to PDB text (format version 3.3) and to mmCIF (PDBx/mmCIF dictionary 5, wwPDB)."""

from collections.abc import Iterator, Sequence

import numpy as np
from gemmi import cif

from data_prep.structure.pdb import HYBRID36_DIGITS, MONTHS
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


_ATOM_TAGS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"),
    *("label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"),
    *("B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
)


def format_mmcif(name: str, chains: Sequence[ProteinRecord]) -> bytes:
    """mmCIF text of ``chains`` in one data block, one entity per chain."""
    document = cif.Document()
    block = document.add_new_block("".join(c for c in name if c.isalnum() or c in "-_.") or "structure")
    block.set_pair("_entry.id", cif.quote(name))
    _write_header(block, chains[0])
    asym_ids = [_letters(i) for i in range(len(chains))]
    numbered = list(enumerate(chains, start=1))
    # One loop at a time: a gemmi Loop dangles as soon as the next one is added to its block.
    _add_loop(block, "_entity.", "id type pdbx_description", [[i, "polymer", cif.quote(c.id)] for i, c in numbered])
    _add_loop(
        block,
        "_entity_poly.",
        "entity_id type pdbx_seq_one_letter_code_can pdbx_strand_id",
        [[i, "'polypeptide(L)'", chain.sequence, _quoted_chain(chain)] for i, chain in numbered],
    )
    _add_loop(block, "_struct_asym.", "id entity_id", list(zip(asym_ids, range(1, len(chains) + 1), strict=True)))
    # Without SEQRES the residue index follows the author's numbers, gaps included: entity_poly_seq could not say that.
    residues = [
        [i, number, RESNAMES[aatype], "n"]
        for i, chain in numbered
        if has_full_sequence(chain)
        for number, aatype in enumerate(chain.aatype.tolist(), start=1)
    ]
    if residues:
        _add_loop(block, "_entity_poly_seq.", "entity_id num mon_id hetero", residues)
    _write_atoms(block, chains, asym_ids)
    return document.as_string().encode()


def _add_loop(block: cif.Block, category: str, tags: str, rows: Sequence[Sequence[object]]) -> None:
    loop = block.init_loop(category, tags.split())
    for row in rows:
        loop.add_row([str(value) for value in row])


def has_full_sequence(chain: ProteinRecord) -> bool:
    """Whether the residues of a record count from 0 without gaps, so that its sequence can stand as SEQRES."""
    return bool((chain.residue_index == np.arange(len(chain))).all())


def _write_header(block: cif.Block, chain: ProteinRecord) -> None:
    if chain.deposition_date:
        block.set_pair("_pdbx_database_status.recvd_initial_deposition_date", chain.deposition_date)
    if chain.release_date:
        _add_loop(block, "_pdbx_audit_revision_history.", "ordinal revision_date", [[1, chain.release_date]])
    if chain.method:
        _add_loop(block, "_exptl.", "method", [[cif.quote(method)] for method in chain.method.split("; ")])
    if chain.resolution is not None:
        block.set_pair("_refine.pdbx_refine_id", cif.quote(chain.method or "?"))
        block.set_pair("_refine.ls_d_res_high", repr(float(chain.resolution)))


def _write_atoms(block: cif.Block, chains: Sequence[ProteinRecord], asym_ids: list[str]) -> None:
    loop = block.init_loop("_atom_site.", list(_ATOM_TAGS))
    serial = 0
    for entity, (chain, asym_id) in enumerate(zip(chains, asym_ids, strict=True), start=1):
        auth_asym = _quoted_chain(chain)
        for i, atom in np.argwhere(chain.atom37_mask).tolist():
            serial += 1
            name, component = ATOM_TYPES[atom], RESNAMES[int(chain.aatype[i])]
            x, y, z = (f"{value:.3f}" for value in chain.atom37_positions[i, atom].tolist())
            icode = str(chain.insertion_code[i]) or "?"
            loop.add_row(
                [
                    *("ATOM", str(serial), name[0], name, ".", component, asym_id, str(entity)),
                    *(str(int(chain.residue_index[i]) + 1), icode, x, y, z, "1.00", _exact(chain.b_factors[i, atom])),
                    *(str(int(chain.auth_seq_id[i])), component, auth_asym, name, str(chain.model_number)),
                ]
            )


def _exact(value: np.float32) -> str:
    """Two decimals where that is the number, else as many as it takes to read the same float32 back."""
    text = f"{value:.2f}"
    return text if np.float32(text) == value else np.format_float_positional(value)


def _quoted_chain(chain: ProteinRecord) -> str:
    return cif.quote(chain.chain_id) if chain.chain_id else "."


def _letters(index: int) -> str:
    """0, 1, ... to A, ..., Z, AA, AB, ..."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("A") + digit) + text
    return text
