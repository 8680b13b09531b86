"""Files of one prediction: PDB, ModelCIF, and the predicted aligned error as AlphaFold DB has it.

ModelCIF is mmCIF with the categories of the PDB's extension for computed models (Vallat et al. 2023). Relaxed
structures have the same names in a directory of their own: no header can make a name that is taken there, and the
evaluator pairs either directory with the truth.
"""

import json
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gemmi import cif

from data_prep.files.atomic import write_bytes
from data_prep.files.command_line import program, release
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM_TYPES, RESNAMES, sequence_to_aatype
from data_prep.structure.writers import format_pdb
from pipeline.prediction.checks import AlignedError
from pipeline.prediction.fold import Prediction, PredictionError

Format = Literal["pdb", "mmcif", "both"]
SUFFIXES: dict[Format, tuple[str, ...]] = {"pdb": (".pdb",), "mmcif": (".cif",), "both": (".pdb", ".cif")}
ERROR_SUFFIX = ".pae.json"
RELAXED = "relaxed"
"""Directory of the relaxed structures, in that of the predictions."""
PDB_RESIDUES, PDB_LINES = 9_999, 99_999
"""Residue number, and number of an atom or end of chain, that the columns of a PDB file have digits for."""
DICTIONARY = "1.4.9"
"""Version of ModelCIF's dictionary; what is written is valid by 1.4.2 too."""
RELAXATION = "restrained minimisation in the Amber99SB force field"
METRICS = {
    "mean pLDDT": ("pLDDT", "global", "Mean of the residues' predicted lDDT, 0 to 100"),
    "pTM": ("pTM", "global", "Predicted TM-score, 0 to 1"),
    "ipTM": ("ipTM", "global", "Predicted TM-score over pairs of residues of different chains, 0 to 1"),
    "pLDDT": ("pLDDT", "local", "Predicted lDDT of the alpha carbons of a residue, 0 to 100"),
}
"""Confidence in ModelCIF: type, mode, description."""


def write_files(out: Path, prediction: Prediction, file_format: Format, model: str) -> list[str]:
    """Write a prediction of ``model`` (one line on its weights); returns the names of the structure files.

    Each file is whole or not there at all. They lie in ``out``, those of a relaxed prediction in its directory
    ``RELAXED``, without the aligned error.

    Raises:
        PredictionError: PDB was asked for alone and cannot hold it. With ``both`` there is mmCIF then, alone.
    """
    name, written = prediction.query.name, []
    relaxed = prediction.relaxed_by != ""
    if relaxed:
        out = out / RELAXED
        out.mkdir(exist_ok=True)
    for suffix in SUFFIXES[file_format]:
        path = out / f"{name}{suffix}"
        if suffix == ".cif":
            write_bytes(path, format_modelcif(prediction, model))
        else:
            try:
                write_bytes(path, format_predicted_pdb(name, prediction.records))
            except ValueError as error:
                if file_format == "pdb":
                    raise PredictionError(f"{error}: give --format mmcif") from error
                path.unlink(missing_ok=True)  # of an earlier command, and not this prediction
                continue
        written.append(path.name)
    if prediction.error is not None and not relaxed:
        write_bytes(out / f"{name}{ERROR_SUFFIX}", format_aligned_error(prediction.error))
    return written


def format_aligned_error(error: AlignedError) -> bytes:
    """Return AlphaFold DB's JSON (version 4, 2022): whole angstroms; row i is seen from the frame of residue i."""
    rows = np.rint(error.pae).astype(int).tolist()
    document = [{"predicted_aligned_error": rows, "max_predicted_aligned_error": error.largest}]
    return json.dumps(document, separators=(",", ":")).encode()


def format_predicted_pdb(name: str, chains: Sequence[ProteinRecord]) -> bytes:
    """Return chains as a PDB file that every program reads: not all of them know letters in place of high numbers.

    Raises:
        ValueError: more than such a file can hold.
    """
    last = max(int(chain.auth_seq_id.max()) for chain in chains)
    lines = sum(int(chain.atom37_mask.sum()) + 1 for chain in chains)
    for what, number, limit in (("residue", last, PDB_RESIDUES), ("atom", lines, PDB_LINES)):
        if number > limit:
            raise ValueError(f"{name}: {what} {number} does not fit a PDB file, which ends at {limit}")
    return format_pdb(name, chains, program())


def format_modelcif(prediction: Prediction, model: str) -> bytes:
    """Return a prediction of ``model`` (one line on its weights) as ModelCIF.

    Chains of the same sequence are one entity. ``label_seq_id`` counts a chain's residues from 1, ``auth_seq_id`` is
    the number in the source, so that its gaps are kept. Residues of unknown type are UNK of the sequence without atoms.
    """
    query, chains, name = prediction.query, prediction.records, prediction.query.name
    sequences = list(dict.fromkeys(query.chains))
    entity_of = [sequences.index(sequence) + 1 for sequence in query.chains]
    entities = [name] if len(sequences) == 1 else [f"{name}, chain {query.chains.index(s) + 1}" for s in sequences]
    document = cif.Document()
    block = document.add_new_block("".join(letter for letter in name if letter.isalnum()) or "prediction")
    _add(block, "entry", [name], "id")
    title = f"Predicted structure of {name}"
    _add(block, "struct", [name, title, "computational"], "entry_id title pdbx_structure_determination_methodology")
    _add(block, "audit_conform", ["mmcif_ma.dic", DICTIONARY], "dict_name dict_version")

    programs: list[tuple[str | None, ...]] = [
        ("lorta-fold", "model building", "folding of protein sequences", release(), None)
    ]
    steps = [("prediction", model)]
    results: list[tuple[str, str, str | None]] = [(name, "model coordinates", None)]
    if prediction.relaxed_by:
        relaxer, version = prediction.relaxed_by.rsplit(" ", 1)
        programs.append((relaxer, "refinement", "molecular mechanics", version, "https://openmm.org"))
        steps.append(("relaxation", RELAXATION))
        results.insert(0, ("coordinates before relaxation", "other", "result of a step"))
    columns = "pdbx_ordinal name classification description version location type"
    _add(block, "software", [(i, *about, "program") for i, about in enumerate(programs, 1)], columns)
    numbers = range(1, len(programs) + 1)  # each program is a group of its own, and has a step
    _add(block, "ma_software_group", [(i, i, i) for i in numbers], "ordinal_id group_id software_id")

    types = sorted({RESNAMES[aatype] for aatype in prediction.aatype})
    linking = [(t, "peptide linking" if t == "GLY" else "L-peptide linking", "CCD Core") for t in types]
    _add(block, "chem_comp", linking, "id type ma_provenance")
    described = [(i, "polymer", "man", about, entity_of.count(i)) for i, about in enumerate(entities, 1)]
    _add(block, "entity", described, "id type src_method pdbx_description pdbx_number_of_molecules")
    polymers = [
        (i, "polypeptide(L)", "no", "no", strands, _wrapped(sequence.replace("X", "(UNK)")), _wrapped(sequence))
        for i, sequence in enumerate(sequences, 1)
        for strands in [",".join(c.chain_id for c, entity in zip(chains, entity_of, strict=True) if entity == i)]
    ]
    columns = "type nstd_linkage nstd_monomer pdbx_strand_id pdbx_seq_one_letter_code pdbx_seq_one_letter_code_can"
    _add(block, "entity_poly", polymers, f"entity_id {columns}")
    residues = [
        (entity, i, RESNAMES[aatype])
        for entity, sequence in enumerate(sequences, 1)
        for i, aatype in enumerate(sequence_to_aatype(sequence), 1)
    ]
    _add(block, "entity_poly_seq", residues, "entity_id num mon_id")
    units = [(c.chain_id, entity, f"chain {c.chain_id}") for c, entity in zip(chains, entity_of, strict=True)]
    _add(block, "struct_asym", units, "id entity_id details")
    _add(block, "ma_target_entity_instance", units, "asym_id entity_id details")
    scheme = [
        (c.chain_id, entity, i, RESNAMES[aatype], number, number, RESNAMES[aatype], RESNAMES[aatype], c.chain_id, None)
        for c, entity in zip(chains, entity_of, strict=True)
        for i, (aatype, number) in enumerate(zip(c.aatype.tolist(), c.auth_seq_id.tolist(), strict=True), 1)
    ]
    columns = "pdb_seq_num auth_seq_num pdb_mon_id auth_mon_id pdb_strand_id pdb_ins_code"
    _add(block, "pdbx_poly_seq_scheme", scheme, f"asym_id entity_id seq_id mon_id {columns}")

    data = [(about, "target", None) for about in entities] + results
    numbered = [(i, *about) for i, about in enumerate(data, 1)]
    _add(block, "ma_data", numbered, "id name content_type content_type_other_details")
    groups = [1] * len(entities) + list(range(2, len(results) + 2))  # all targets, then what each step makes
    grouped = [(i, group, i) for i, group in enumerate(groups, 1)]
    _add(block, "ma_data_group", grouped, "ordinal_id group_id data_id")
    targets = [(i, i, "designed") for i in range(1, len(entities) + 1)]
    _add(block, "ma_target_entity", targets, "entity_id data_id origin")
    protocol = [(i, 1, i, "modeling", *about, i, i, i + 1) for i, about in enumerate(steps, 1)]
    columns = "step_name details software_group_id input_data_group_id output_data_group_id"
    _add(block, "ma_protocol_step", protocol, f"ordinal_id protocol_id step_id method_type {columns}")
    columns = "ordinal_id model_id model_name data_id model_type"  # model_id is what versions before 1.4.7 refer to
    _add(block, "ma_model_list", [(1, 1, name, len(data), "Ab initio model")], columns)
    _add_confidence(block, prediction, chains)
    _add_atoms(block, chains, entity_of)
    return document.as_string().encode()


def _add_confidence(block: cif.Block, prediction: Prediction, chains: Sequence[ProteinRecord]) -> None:
    error = prediction.error
    found = {
        "mean pLDDT": round(prediction.mean_plddt, 2),
        "pTM": None if error is None else error.ptm,
        "ipTM": None if error is None else error.iptm,
        "pLDDT": prediction.plddt,
    }
    metrics = [(name, *METRICS[name]) for name, value in found.items() if value is not None]
    numbered = [(i, *metric) for i, metric in enumerate(metrics, 1)]
    _add(block, "ma_qa_metric", numbered, "id name type mode description")
    overall = [(i, 1, i, found[name]) for i, name, _, mode, _ in numbered if mode == "global"]
    _add(block, "ma_qa_metric_global", overall, "ordinal_id model_id metric_id metric_value")
    place = [(c.chain_id, i, RESNAMES[aatype]) for c in chains for i, aatype in enumerate(c.aatype.tolist(), 1)]
    known = np.flatnonzero(prediction.known).tolist()  # the category is one of residues with atoms
    local = [(n, 1, *place[i], len(metrics), round(float(prediction.plddt[i]), 2)) for n, i in enumerate(known, 1)]
    columns = "label_asym_id label_seq_id label_comp_id metric_id metric_value"
    _add(block, "ma_qa_metric_local", local, f"ordinal_id model_id {columns}")


def _add_atoms(block: cif.Block, chains: Sequence[ProteinRecord], entity_of: Sequence[int]) -> None:
    rows: list[tuple] = []
    for chain, entity in zip(chains, entity_of, strict=True):
        residue, atom = np.nonzero(chain.atom37_mask)
        xyz, confidence = chain.atom37_positions[residue, atom], chain.b_factors[residue, atom]
        places = zip(residue.tolist(), atom.tolist(), xyz.tolist(), confidence.tolist(), strict=True)
        names, numbers, own = [RESNAMES[aatype] for aatype in chain.aatype], chain.auth_seq_id.tolist(), chain.chain_id
        for i, kind, (x, y, z), value in places:
            name = ATOM_TYPES[kind]
            label = (name[0], name, None, names[i], own, entity, i + 1, None)
            rows.append(("ATOM", len(rows) + 1, *label, x, y, z, 1.0, value, numbers[i], names[i], own, name, 1))
    columns = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id"
    columns += " label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id"
    _add(block, "atom_site", rows, f"{columns} auth_comp_id auth_asym_id auth_atom_id pdbx_PDB_model_num")
    _add(block, "atom_type", [(symbol,) for symbol in sorted({row[2] for row in rows})], "symbol")


def _add(block: cif.Block, category: str, rows: Sequence[Any], columns: str) -> None:
    """Add a category of ``rows``, or of a single row of texts; None is what does not apply."""
    if isinstance(rows[0], str):
        for column, value in zip(columns.split(), rows, strict=True):
            block.set_pair(f"_{category}.{column}", _quoted(value))
    else:
        cells = [_cells(values) for values in zip(*rows, strict=True)]
        block.init_loop(f"_{category}.", columns.split()).set_all_values(cells)


def _cells(values: Sequence[str | float | None]) -> list[str]:
    kind = type(values[0])
    if not all(type(value) is kind for value in values):  # some do not apply
        return ["." if value is None else _cells([value])[0] for value in values]
    if kind is float:
        return [f"{value:.3f}" for value in values]
    return ["."] * len(values) if kind is type(None) else list(map(_quoted if kind is str else str, values))


@lru_cache(maxsize=4096)  # most are names of atoms and residues
def _quoted(text: str) -> str:
    return cif.quote(text.encode("ascii", "replace").decode())


def _wrapped(sequence: str) -> str:
    """Lines of 80 where one would be too long for CIF."""
    return "\n".join(textwrap.wrap(sequence, 80)) if len(sequence) > 80 else sequence
