"""PDB, mmCIF and BinaryCIF files to ``ProteinRecord`` and back: the only reader and writer of structure files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.files.atomic import write_bytes
from data_prep.structure.assemble import SkippedChain, assemble
from data_prep.structure.atom_site import ModelChoice
from data_prep.structure.mmcif import parse_binary_cif, parse_mmcif
from data_prep.structure.pdb import parse_pdb
from data_prep.structure.record import ProteinRecord
from data_prep.structure.structure_bytes import (
    StructureError,
    is_structure_name,
    read_text,
    structure_stem,
)
from data_prep.structure.writers import format_mmcif, format_pdb

__all__ = [
    "StructureError",
    "StructureFile",
    "is_structure_name",
    "read_structure",
    "read_structure_file",
    "structure_stem",
    "write_mmcif",
    "write_pdb",
]


_PARSERS = {"pdb": parse_pdb, "mmcif": parse_mmcif, "bcif": parse_binary_cif}


@dataclass(frozen=True)
class StructureFile:
    """What one structure file holds."""

    path: str
    format: str
    """'pdb', 'mmcif' or 'bcif' (BinaryCIF), told by the content."""
    sha256: str
    """Hash of the file as it lies on disk."""
    records: tuple[ProteinRecord, ...]
    """Protein chains in file order; never empty."""
    skipped: tuple[SkippedChain, ...]
    """Polymers that are no proteins."""


def read_structure_file(
    path: str | os.PathLike, *, model: ModelChoice = None, name: str | None = None
) -> StructureFile:
    """Read one structure file: its protein chains and what was skipped.

    ``model`` is the number of a model in the file, None its first, 'all' all of them: then the ids of a file with
    several end in ``.m<number>``. ``name`` takes the place of the file's stem in the ids of the records. See
    ``data_prep.structure.assemble`` for what counts as a residue and which conformer is kept. Raises ``StructureError``
    where the file cannot be read or holds no protein residue.
    """
    text = read_text(path)
    name = structure_stem(path) if name is None else name
    records: list[ProteinRecord] = []
    skipped: list[SkippedChain] = []
    taken: set[str] = set()
    content = ""
    for parsed in _PARSERS[text.format](text.path, text.data, model):
        found, others, content = assemble(
            parsed, name=name, source_file=str(path), source_sha256=text.sha256, taken=taken,
            is_one_of_all=model == "all" and parsed.n_models > 1,
        )  # fmt: skip
        records += found
        skipped += others
    if not records:
        without = ", ".join(chain.reason for chain in skipped if chain.reason.startswith("none of the atoms"))
        raise StructureError(path, f"no protein residues ({without or content or 'no residues'})")
    return StructureFile(str(path), text.format, text.sha256, tuple(records), tuple(skipped))


def read_structure(
    path: str | os.PathLike, *, model: ModelChoice = None, name: str | None = None
) -> list[ProteinRecord]:
    """All protein chains of the first (or the chosen) model of a structure file, in file order; never empty.

    Parameters and errors as of ``read_structure_file``.
    """
    return list(read_structure_file(path, model=model, name=name).records)


def write_pdb(path: str | os.PathLike, chains: Sequence[ProteinRecord], model_of: str = "") -> None:
    """Write chains as one PDB file, whole or not at all; ``model_of``: the program that predicted them.

    Raises ``ValueError`` for what the format cannot hold: a chain id longer than one character or used twice, a
    coordinate, B-factor or residue number too large for its columns.
    """
    write_bytes(path, format_pdb(structure_stem(path), chains, model_of))


def write_mmcif(path: str | os.PathLike, chains: Sequence[ProteinRecord]) -> None:
    """Write chains as one mmCIF file, whole or not at all. Raises ``ValueError`` without chains."""
    if not chains:
        raise ValueError(f"{path}: no chains to write")
    write_bytes(path, format_mmcif(structure_stem(path), chains))
