"""Files of one prediction: PDB, ModelCIF, and the predicted aligned error as AlphaFold DB has it.

Relaxed structures have the same names in a directory of their own: no header can make a name that is taken there, and
the evaluator pairs either directory with the truth.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.files.release import program
from data_prep.structure.io import write_pdb
from data_prep.structure.record import ProteinRecord
from data_prep.structure.structure_bytes import atomic_write
from pipeline.prediction.aligned_error import AlignedError
from pipeline.prediction.fold import Prediction, PredictionError
from pipeline.prediction.modelcif_file import Origin, format_modelcif

Format = Literal["pdb", "mmcif", "both"]
SUFFIXES: dict[Format, tuple[str, ...]] = {"pdb": (".pdb",), "mmcif": (".cif",), "both": (".pdb", ".cif")}
ERROR_SUFFIX = ".pae.json"
RELAXED = "relaxed"
"""Directory of the relaxed structures, in that of the predictions."""
PDB_RESIDUES, PDB_LINES = 9_999, 99_999
"""Residue number, and number of an atom or end of chain, that the columns of a PDB file have digits for."""


def format_aligned_error(error: AlignedError) -> bytes:
    """AlphaFold DB's JSON (version 4, 2022): whole angstroms; row i is what is seen from the frame of residue i."""
    rows = np.rint(error.pae).astype(int).tolist()
    document = [{"predicted_aligned_error": rows, "max_predicted_aligned_error": error.largest}]
    return json.dumps(document, separators=(",", ":")).encode()


def write_predicted_pdb(path: Path, chains: Sequence[ProteinRecord]) -> None:
    """Write chains as a PDB file that every program reads: not all of them know letters in place of high numbers.

    Raises:
        ValueError: more than such a file can hold; nothing is written.
    """
    last = max(int(chain.auth_seq_id.max()) for chain in chains)
    lines = sum(int(chain.atom37_mask.sum()) + 1 for chain in chains)
    for what, number, limit in (("residue", last, PDB_RESIDUES), ("atom", lines, PDB_LINES)):
        if number > limit:
            raise ValueError(f"{path.stem}: {what} {number} does not fit a PDB file, which ends at {limit}")
    write_pdb(path, chains, program())


def write_files(out: Path, prediction: Prediction, file_format: Format, origin: Origin) -> list[str]:
    """Write a prediction, each file whole or not at all; returns the names of the structure files.

    They lie in ``out``, those of a relaxed prediction in its directory ``RELAXED``, without the aligned error.

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
            atomic_write(path, format_modelcif(prediction, origin))
        else:
            try:
                write_predicted_pdb(path, prediction.records)
            except ValueError as error:
                if file_format == "pdb":
                    raise PredictionError(f"{error}: give --format mmcif") from error
                path.unlink(missing_ok=True)  # of an earlier command, and not this prediction
                continue
        written.append(path.name)
    if prediction.error is not None and not relaxed:
        atomic_write(out / f"{name}{ERROR_SUFFIX}", format_aligned_error(prediction.error))
    return written
