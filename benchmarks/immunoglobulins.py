"""The second family of the benchmarks: variable domains of antibodies, nanobodies and T-cell receptors, a file each.

    python -m benchmarks.immunoglobulins --structures DIR --out DOMAINS
    python -m pipeline.prepare --pdb-dir DOMAINS --out DATASET --identity 0.6 --val-fraction 0.25

A variable domain is told by its sequence: the disulfide of its sheets, the tryptophan that is packed on it and the
motif of its last strand (Lefranc et al. 2003, positions 23, 41, 104 and 118 to 121 of the IMGT numbering). Equal
sequences are kept once, the first by file name.
"""

import argparse
import dataclasses
import re
from pathlib import Path

from data_prep.dataset.inputs import find_structures
from data_prep.structure.io import StructureError, read_structure, write_pdb
from data_prep.structure.record import ProteinRecord

DOMAIN = re.compile("C.{8,19}W.[RQK].{40,75}Y.C.{4,35}[FW]G.G.{2,7}")
BEFORE_CYSTEINE = 22
"""Residues of the domain before its first cysteine."""


def domain_of(record: ProteinRecord) -> ProteinRecord | None:
    """Return the first variable domain of a chain; None without one."""
    found = DOMAIN.search(record.sequence)
    if found is None:
        return None
    window = slice(max(0, found.start() - BEFORE_CYSTEINE), found.end())
    per_residue = ("residue_index", "atom37_positions", "atom37_mask", "b_factors", "auth_seq_id", "insertion_code")
    return dataclasses.replace(
        record,
        id=record.id.replace("/", "_"),
        chain_id="A",
        sequence=record.sequence[window],
        **{name: getattr(record, name)[window] for name in per_residue},
    )


def main() -> None:
    """Write the domains."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.immunoglobulins", description=__doc__.splitlines()[0])
    p.add_argument("--structures", type=Path, required=True, help="directory of structure files")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    arguments = p.parse_args()
    arguments.out.mkdir(parents=True)
    domains: dict[str, ProteinRecord] = {}
    files, _, formats = find_structures(arguments.structures)
    for name in sorted([*files, *(names[0] for names in formats)]):
        try:
            records = read_structure(arguments.structures / name)
        except StructureError:
            continue
        for domain in filter(None, map(domain_of, records)):
            domains.setdefault(domain.sequence, domain)
    for domain in domains.values():
        write_pdb(arguments.out / f"{domain.id}.pdb", [domain])
    print(f"wrote {len(domains)} domains of different sequence to {arguments.out}")


if __name__ == "__main__":
    main()
