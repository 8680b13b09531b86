"""Speed of reading structure files against Biopython's parsers and gemmi's, as ratios within one process.

    python benchmarks/prepare.py --structures DIR --out prepare.json

Ours and Biopython's side open the file, decompress and parse it, and end with the same arrays per chain: sequence,
atom37 positions, mask and B-factors, residue numbers, insertion codes. Ours does more in its time: checks, SEQRES,
conformers, modified residues, hashes. gemmi's side ends with the arrays of its ``FlatStructure``, as they stand in the
file. They alternate every 32 files in one thread, so that a busy machine slows
all alike, and garbage is collected in between, so that neither pays for what the other left behind; of its own each
pays for what Python collects within such a turn, as in a run over many files. Times are CPU time. Beside the ratios:
the rate of whole ingestion (filters, shards) in one process and in several, and the memory of a process that reads half
of the files and all of them.
"""

import argparse
import gc
import gzip
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import gemmi
import numpy as np
from Bio.PDB import MMCIFParser, PDBParser
from Bio.PDB.PDBExceptions import PDBConstructionException
from Bio.SeqUtils import seq1
from rich.console import Console
from rich.table import Table

from data_prep.dataset.blocks import Blocks
from data_prep.dataset.ingest import IngestSettings
from data_prep.dataset.inputs import find_structures
from data_prep.structure.io import StructureError, read_structure
from data_prep.structure.residues import ATOM37_INDEX

DEMO = Path(__file__).resolve().parents[1] / "pipeline" / "demo_structures"
PDB_ENTRIES = 230_000
PROJECTED_CORES = 32
FILES_PER_TURN = 32
INGESTED_FILES = 3000
"""Read again and again until there are so many: the start of a process must not count, and memory has time to grow."""


def biopython_chains(path: Path) -> list[tuple]:
    """The same arrays by way of Biopython's objects."""
    parser = MMCIFParser(QUIET=True) if ".cif" in path.name.lower() else PDBParser(QUIET=True)
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        model = next(iter(parser.get_structure("x", file)))
    chains = []
    for chain in model:
        residues = [residue for residue in chain if residue.id[0] == " " or "CA" in residue]
        positions = np.zeros((len(residues), 37, 3), dtype=np.float32)
        mask, b_factors = np.zeros((len(residues), 37), dtype=bool), np.zeros((len(residues), 37), dtype=np.float32)
        for i, residue in enumerate(residues):
            for atom in residue:
                place = ATOM37_INDEX.get(atom.name)
                if place is not None:
                    positions[i, place], mask[i, place], b_factors[i, place] = atom.coord, True, atom.bfactor
        sequence = seq1("".join(residue.resname for residue in residues))
        chains.append((sequence, positions, mask, b_factors, [residue.id[1:] for residue in residues]))
    return chains


def gemmi_arrays(path: Path) -> tuple:
    """Parsing alone: gemmi's arrays of atoms."""
    flat = gemmi.FlatStructure(gemmi.read_structure(str(path)))
    return flat.pos, flat.atom_names, flat.residue_names, flat.resnums


def readable(files: list[Path]) -> dict[Path, int]:
    """The files that all can read, with their number of chains as ours counts them; the others are named."""
    chains = {}
    for path in files:
        try:
            biopython_chains(path)
            gemmi_arrays(path)
            chains[path] = len(read_structure(path))
        except (StructureError, PDBConstructionException, ValueError, KeyError, RuntimeError) as error:
            print(f"left out {path.name}: {error}", file=sys.stderr)
    return chains


def cpu_seconds(read: Callable[[Path], object], files: list[Path]) -> float:
    """CPU time of reading the files one after another, their garbage included and that of others excluded."""
    gc.collect()
    start = time.process_time()
    for path in files:
        read(path)
    return time.process_time() - start


def compare(files: list[Path]) -> dict:
    """CPU time of all three over the files that all can read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chains = readable(files)
        files = list(chains)
        ours = theirs = gemmis = 0.0
        for start in range(0, len(files), FILES_PER_TURN):
            turn = files[start : start + FILES_PER_TURN]
            ours += cpu_seconds(read_structure, turn)
            theirs += cpu_seconds(biopython_chains, turn)
            gemmis += cpu_seconds(gemmi_arrays, turn)
    return {
        "files": len(files),
        "chains": sum(chains.values()),
        "biopython_ms_per_file": 1000 * theirs / len(files),
        "ours_ms_per_file": 1000 * ours / len(files),
        "gemmi_ms_per_file": 1000 * gemmis / len(files),
        "ratio": theirs / ours,
        "ratio_to_gemmi": ours / gemmis,
        "files_per_second_per_core": len(files) / ours,
        "chains_per_second_per_core": sum(chains.values()) / ours,
    }


def ingestion(root: Path, files: list[str], jobs: int) -> tuple[float, float]:
    """Files per second of reading, filtering and storing; peak resident MiB of this process and its children so far."""
    with tempfile.TemporaryDirectory() as directory:
        blocks = Blocks(root, tuple(files), IngestSettings(), Path(directory))
        start = time.perf_counter()
        for _ in blocks.make(blocks.missing(), jobs):
            pass
        seconds = time.perf_counter() - start
    per_mib = 1024 * 1024 if sys.platform == "darwin" else 1024
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return len(files) / seconds, peak / per_mib


def in_fresh_process(root: Path, files: list[str], jobs: int) -> tuple[float, float]:
    """``ingestion`` where no file was read before."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_ingestion, args=(sender, root, files, jobs))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def _send_ingestion(sender, *arguments) -> None:
    sender.send(ingestion(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=DEMO, metavar="DIR", help="files to read (default: demo's)")
    parser.add_argument("--files", type=int, default=60, help="of each format at most (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes against one (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the numbers here")
    options = parser.parse_args()

    names = find_structures(options.structures)[0]
    formats = {}
    for label, is_cif in (("PDB", False), ("mmCIF", True)):
        of_format = [options.structures / name for name in names if ("cif" in Path(name).name.lower()) is is_cif]
        if of_format:
            formats[label] = compare(of_format[:: max(1, len(of_format) // options.files)])
    if not formats:
        raise SystemExit(f"error: {options.structures}: no structure files")
    many = names * -(-INGESTED_FILES // len(names))
    runs = {
        "one_process": in_fresh_process(options.structures, many, 1),
        "one_process_half_the_files": in_fresh_process(options.structures, many[: len(many) // 2], 1),
        f"{options.jobs}_processes": in_fresh_process(options.structures, many, options.jobs),
    }

    table = Table(title="CPU time per file, one thread")
    for column in ("format", "files", "Biopython", "ours", "ratio", "files/s/core", "chains/s/core"):
        table.add_column(column, justify="right")
    for label, row in formats.items():
        table.add_row(
            label,
            str(row["files"]),
            f"{row['biopython_ms_per_file']:.1f} ms",
            f"{row['ours_ms_per_file']:.2f} ms",
            f"{row['ratio']:.1f}x",
            f"{row['files_per_second_per_core']:.0f}",
            f"{row['chains_per_second_per_core']:.0f}",
        )
    Console().print(table)
    for name, (rate, peak) in runs.items():
        print(f"ingestion of {len(many)}, {name.replace('_', ' ')}: {rate:.0f} files/s, peak {peak:.0f} MiB")
    slowest = min(row["files_per_second_per_core"] for row in formats.values())
    minutes = PDB_ENTRIES / (slowest * PROJECTED_CORES) / 60
    print(
        f"projection: {PDB_ENTRIES:,} entries like the slower format's, {PROJECTED_CORES} cores: {minutes:.1f} min "
        "(reading only, if the disk keeps up)"
    )
    if options.out is not None:
        versions = {"python": sys.version.split()[0]}
        versions |= {name: version(name) for name in ("numpy", "biopython", "gemmi", "lorta-fold")}
        ingested = {name: {"files_per_second": rate, "peak_mib": peak} for name, (rate, peak) in runs.items()}
        numbers = {"formats": formats, "ingestion": ingested, "projected_minutes": minutes, "versions": versions}
        options.out.write_text(json.dumps(numbers, indent=2) + "\n")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
