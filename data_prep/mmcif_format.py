"""mmCIF text to ``ParsedStructure`` and ``ProteinRecord`` to mmCIF (PDBx/mmCIF dictionary 5, wwPDB)."""

from collections.abc import Sequence

import numpy as np
from gemmi import cif

from data_prep.atom_site import AtomSite, ParsedStructure, plausible
from data_prep.record import ProteinRecord
from data_prep.residues import ATOM_TYPES, RESNAMES
from data_prep.structure_bytes import StructureError

_ATOM_TAGS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"),
    *("label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"),
    *("B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
)


def parse_mmcif(path: str, data: bytes, model: int | None = None) -> ParsedStructure:
    """Parse mmCIF text; ``model`` is a pdbx_PDB_model_num, None is the first model.

    Raises ``StructureError`` for broken syntax, without atoms, without a column that is needed, for a model that is
    not there.
    """
    block, extra = _atom_block(path, data)
    columns = _Columns(path, block)
    warnings = [f"{extra} further data blocks with atoms were not read"] if extra else []

    numbers = columns.integers("pdbx_PDB_model_num", default=1)
    order = list(dict.fromkeys(numbers.tolist()))
    if model is not None and model not in order:
        shown = ", ".join(map(str, order[:10])) + (" ..." if len(order) > 10 else "")
        raise StructureError(path, f"has no model {model}: its models are {shown}")
    model_number = order[0] if model is None else model
    rows = np.flatnonzero(numbers == model_number)
    if len(order) > 1:
        warnings.append(f"{len(order)} models, the {'first' if model is None else 'chosen'} one was read")

    xyz = np.stack([columns.numbers(f"Cartn_{axis}", default=np.nan)[rows] for axis in "xyz"], axis=1)
    outside = ~plausible(xyz) & np.isfinite(xyz).all(axis=1)
    if outside.any():
        warnings.append(f"{outside.sum()} atoms with impossible coordinates treated as missing")
        xyz[outside] = np.nan
    label_asym = columns.text("label_asym_id")
    label_seq = columns.integers("label_seq_id", default=0)
    seqnum_name = "auth_seq_id" if columns.has("auth_seq_id") else "label_seq_id"
    atoms = AtomSite(
        name=columns.text("label_atom_id", "auth_atom_id")[rows],
        altloc=columns.text("label_alt_id")[rows],
        resname=columns.text("label_comp_id", "auth_comp_id")[rows],
        chain=columns.text("auth_asym_id", "label_asym_id")[rows],
        segment=label_asym[rows],
        seqnum=columns.integers(seqnum_name, default=0)[rows],
        icode=columns.text("pdbx_PDB_ins_code")[rows],
        label_seq=label_seq[rows],
        hetero=columns.text("group_PDB")[rows] == "HETATM",
        xyz=xyz,
        occupancy=columns.numbers("occupancy", default=1.0)[rows].astype(np.float32),
        b_factor=columns.numbers("B_iso_or_equiv", default=0.0)[rows].astype(np.float32),
    )
    return ParsedStructure(
        atoms=atoms,
        sequences=_sequences(block),
        parents=_parents(block),
        has_labels=bool((atoms.label_seq > 0).any()),
        n_models=len(order),
        model_number=model_number,
        resolution=_resolution(block),
        method=_method(block),
        deposition_date=_first_date(block, "_pdbx_database_status.recvd_initial_deposition_date")
        or _first_date(block, "_database_PDB_rev.date_original"),
        release_date=_release_date(block),
        warnings=tuple(warnings),
    )


def _atom_block(path: str, data: bytes) -> tuple[cif.Block, int]:
    """The first data block with atoms, and how many more there are."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode("utf-8")
    try:
        document = cif.read_string(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    except (ValueError, RuntimeError) as error:
        raise StructureError(path, f"broken mmCIF syntax: {error}") from None
    blocks = [block for block in document if len(block.find_values("_atom_site.Cartn_x")) > 0]
    if not blocks:
        raise StructureError(path, "no _atom_site rows with Cartn_x: no atoms")
    return blocks[0], len(blocks) - 1


class _Columns:
    """The columns of _atom_site as arrays over all rows."""

    def __init__(self, path: str, block: cif.Block) -> None:
        self._path, self._block = path, block

    def has(self, name: str) -> bool:
        return len(self._block.find_values(f"_atom_site.{name}")) > 0

    def raw(self, *names: str) -> list[str] | None:
        """The first of the named columns that is there."""
        for name in names:
            values = self._block.find_values(f"_atom_site.{name}")
            if len(values):
                return list(values)
        return None

    def _needed(self, *names: str) -> list[str]:
        values = self.raw(*names)
        if values is None:
            raise StructureError(self._path, f"no column _atom_site.{' or '.join(names)}")
        return values

    def text(self, *names: str) -> np.ndarray:
        """str [rows]; '' for '.' and '?'. Optional columns are empty."""
        optional = names[0] in ("label_alt_id", "pdbx_PDB_ins_code", "group_PDB", "label_asym_id")
        values = self.raw(*names) if optional else self._needed(*names)
        if values is None:
            return np.full(len(self._needed("Cartn_x")), "")
        unique, inverse = np.unique(np.array(values), return_inverse=True)
        plain = np.array(["" if value in (".", "?") else cif.as_string(value).strip() for value in unique.tolist()])
        return plain[inverse]

    def numbers(self, name: str, default: float) -> np.ndarray:
        """float64 [rows]; ``default`` for '.', '?' and a missing optional column; other text is an error."""
        values = self._needed(name) if name.startswith("Cartn_") else self.raw(name)
        if values is None:
            return np.full(len(self._needed("Cartn_x")), default)
        try:
            return np.array(values, dtype=np.float64)
        except ValueError:
            return np.array([self._number(name, value, default) for value in values])

    def _number(self, name: str, value: str, default: float) -> float:
        if value in (".", "?"):
            return default
        number = cif.as_number(value)  # understands a standard uncertainty, 1.23(4)
        if np.isnan(number):
            raise StructureError(self._path, f'_atom_site.{name} holds "{value[:20]}", expected a number')
        return number

    def integers(self, name: str, default: int) -> np.ndarray:
        """int32 [rows]."""
        values = self.raw(name)
        if values is None:
            return np.full(len(self._needed("Cartn_x")), default, dtype=np.int32)
        unique, inverse = np.unique(np.array(values), return_inverse=True)
        try:
            plain = [default if value in (".", "?") else int(cif.as_string(value)) for value in unique.tolist()]
            return np.array(plain, dtype=np.int32)[inverse]
        except (ValueError, OverflowError) as error:
            raise StructureError(self._path, f"_atom_site.{name} holds a value that is no integer: {error}") from None


def _rows(block: cif.Block, category: str, tags: list[str]) -> list[list[str]]:
    """Rows of a category; an absent optional tag (marked '?') and the values '.' and '?' are ''."""
    table = block.find(category, tags)
    present = [table.has_column(i) for i in range(len(tags))] if len(table) else []
    return [
        ["" if not here or row[i] in (".", "?") else cif.as_string(row[i]) for i, here in enumerate(present)]
        for row in table
    ]


def _sequences(block: cif.Block) -> dict[str, tuple[str, ...]]:
    """entity_poly_seq by label_asym_id; of a heterogeneous position the first listed component."""
    by_entity: dict[str, dict[int, str]] = {}
    for entity, number, component in _rows(block, "_entity_poly_seq.", ["entity_id", "num", "mon_id"]):
        by_entity.setdefault(entity, {}).setdefault(int(number), component)
    complete = {
        entity: tuple(positions[i + 1] for i in range(len(positions)))
        for entity, positions in by_entity.items()
        if set(positions) == set(range(1, len(positions) + 1))
    }
    pairs = _rows(block, "_struct_asym.", ["id", "entity_id"])
    pairs += _rows(block, "_atom_site.", ["label_asym_id", "label_entity_id"]) if not pairs else []
    return {asym: complete[entity] for asym, entity in pairs if entity in complete}


def _parents(block: cif.Block) -> dict[str, str]:
    pairs = _rows(block, "_pdbx_struct_mod_residue.", ["label_comp_id", "parent_comp_id"])
    pairs += _rows(block, "_chem_comp.", ["id", "mon_nstd_parent_comp_id"])
    return {component: parent for component, parent in pairs if component and parent and component != parent}


def _resolution(block: cif.Block) -> float | None:
    for tag in ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution"):
        for value in block.find_values(tag):
            number = cif.as_number(value)
            if number > 0:
                return float(number)
    return None


def _method(block: cif.Block) -> str | None:
    methods = [cif.as_string(value).upper() for value in block.find_values("_exptl.method") if value not in (".", "?")]
    return "; ".join(methods) or None


def _first_date(block: cif.Block, tag: str) -> str | None:
    dates = [cif.as_string(value) for value in block.find_values(tag) if value not in (".", "?")]
    return min(dates) if dates else None


def _release_date(block: cif.Block) -> str | None:
    return _first_date(block, "_pdbx_audit_revision_history.revision_date") or _first_date(
        block, "_database_PDB_rev.date"
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
