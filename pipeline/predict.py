"""Predict: sequences in, structures out.

python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS
"""

import argparse
import csv
import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from Bio.SeqIO.FastaIO import SimpleFastaParser
from rich.progress import track
from rich.table import Table

from data_prep.dataset import DatasetError, StructureDataset
from data_prep.record import ProteinRecord
from data_prep.residues import RESTYPES, sequence_to_aatype
from data_prep.structure_bytes import atomic_write
from data_prep.structure_io import write_mmcif, write_pdb
from pipeline.command import make_console, pick_device, run_command
from pipeline.folding.geometry import atom14_to_atom37
from pipeline.folding.model import FoldingModel
from pipeline.folding.stem import StemError
from pipeline.losses.plddt import predicted_plddt
from pipeline.run import RunError, load_run

PREDICTIONS_FILE = "predictions.csv"


class InputError(ValueError):
    """Sequences that cannot be folded; the message is one line."""


@dataclass(frozen=True)
class Query:
    """A sequence to fold."""

    name: str
    """Safe as a file name."""
    sequence: str
    """One-letter codes; anything but the 20 is folded as unknown (X)."""
    residue_index: np.ndarray
    """int [N]."""


@dataclass(frozen=True)
class PredictionRow:
    """One line of predictions.csv."""

    name: str
    file: str
    length: int
    mean_plddt: float
    unknown_residues: int
    seconds: float


def read_fasta(path: Path) -> list[Query]:
    """Sequences of a FASTA file, named by the first word of their headers, made safe for files and unique.

    Lower case is read as upper case; gaps (``-`` and ``.``), white space and a final ``*`` are dropped.

    Raises:
        InputError: no such file, not FASTA, or a record that has no sequence or letters that are none.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as FASTA: {error}") from error
    if not text.lstrip().startswith(">"):
        raise InputError(f"{path}: not FASTA: the first line must start with '>'")
    queries: list[Query] = []
    taken: set[str] = set()
    for header, raw in SimpleFastaParser(io.StringIO(text)):
        sequence = re.sub(r"[\s.-]", "", raw).upper().removesuffix("*")
        word = header.split()[0] if header.split() else f"sequence_{len(queries) + 1}"
        if not sequence:
            raise InputError(f"{path}: record {word!r} has no sequence")
        odd = sorted(set(re.sub(r"[A-Z]", "", sequence)))
        if odd:
            raise InputError(f"{path}: record {word!r} has {''.join(odd)!r} in its sequence: one-letter codes expected")
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", word).strip(".") or f"sequence_{len(queries) + 1}"
        unique, number = name, 1
        while unique.lower() in taken:  # file systems may not tell upper from lower case
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique.lower())
        queries.append(Query(unique, sequence, np.arange(len(sequence))))
    return queries


def dataset_queries(dataset: StructureDataset, split: str) -> list[Query]:
    """Sequences of a split of a dataset, numbered as their chains are. Raises InputError for an empty split."""
    names = dataset.ids(split)
    if not names:
        raise InputError(f"{dataset.path}: no chain in split {split!r}")
    records = [dataset.load(name) for name in names]
    return [Query(record.id, record.sequence, record.residue_index) for record in records]


@torch.no_grad()
def fold(model: FoldingModel, query: Query, device: torch.device) -> ProteinRecord:
    """Fold one sequence: all heavy atoms in angstrom, pLDDT (0-100) as B-factors, chain A."""
    aatype = torch.from_numpy(sequence_to_aatype(query.sequence))[None].to(device)
    residue_index = torch.from_numpy(query.residue_index.astype(np.int64))[None].to(device)
    mask = torch.ones(aatype.shape, device=device)
    output = model(aatype, mask, residue_index, model.config.data.max_recycles)
    positions, atom_mask = atom14_to_atom37(aatype, output.structure.positions[-1].float())
    plddt = predicted_plddt(output.plddt_logits.float())[0].cpu().numpy()
    atom_mask = atom_mask[0].bool().cpu().numpy()
    n = len(query.sequence)
    return ProteinRecord(
        id=query.name,
        chain_id="A",
        sequence="".join(letter if letter in RESTYPES else "X" for letter in query.sequence),
        residue_index=query.residue_index.astype(np.int32),
        atom37_positions=positions[0].cpu().numpy() * atom_mask[..., None],
        atom37_mask=atom_mask,
        b_factors=np.where(atom_mask, plddt[:, None], 0.0).astype(np.float32),
        auth_seq_id=query.residue_index.astype(np.int32) + 1,
        insertion_code=np.full(n, "", dtype="<U1"),
    )


def predict(
    model: FoldingModel, queries: Sequence[Query], out: Path, file_format: str, device: torch.device
) -> Iterator[PredictionRow]:
    """Fold and write one query after the other."""
    write = {"pdb": write_pdb, "mmcif": write_mmcif}[file_format]
    suffix = {"pdb": ".pdb", "mmcif": ".cif"}[file_format]
    for query in queries:
        started = time.perf_counter()
        record = fold(model, query, device)
        if not np.isfinite(record.atom37_positions).all():
            raise PredictionError(f"{query.name}: the model gave coordinates that are not finite; nothing was written")
        path = out / f"{query.name}{suffix}"
        write(path, [record])
        plddt = record.b_factors[:, 1]
        yield PredictionRow(
            name=query.name,
            file=path.name,
            length=len(query.sequence),
            mean_plddt=round(float(plddt.mean()), 2),
            unknown_residues=record.sequence.count("X"),
            seconds=round(time.perf_counter() - started, 3),
        )


class PredictionError(RuntimeError):
    """A prediction that failed; the message is one line."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Fold sequences with a trained run. Writes a structure per sequence, with pLDDT (0-100) in the\n"
            "B-factor column, and predictions.csv.\n\n"
            "examples:\n"
            "  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS\n"
            "  python -m pipeline.predict --run RUN --data DATASET --split val --out PREDS"
        ),
    )
    p.add_argument("--run", type=Path, required=True, help="run directory of pipeline.train")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--fasta", type=Path, help="sequences; files are named by the first word of each header")
    source.add_argument("--data", type=Path, help="dataset of pipeline.prepare; files are named by the chains' ids")
    p.add_argument("--split", default="val", help="split of --data: train, val or test (default: val)")
    p.add_argument("--out", type=Path, required=True, help="directory for the structures")
    p.add_argument("--format", choices=["pdb", "mmcif"], default="pdb", help="default: pdb")
    p.add_argument("--checkpoint", type=int, metavar="STEP", help="a kept step, 0: untrained (default: the newest)")
    p.add_argument("--esm-weights", default="", metavar="FILE", help="the stem's pretrained weights, if they moved")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def body(arguments: argparse.Namespace) -> int:
        console = make_console()
        device = pick_device(arguments.device)
        if arguments.fasta:
            queries = read_fasta(arguments.fasta)
        else:
            queries = dataset_queries(StructureDataset(arguments.data), arguments.split)
        model, step = load_run(arguments.run, step=arguments.checkpoint, esm_weights=arguments.esm_weights)
        model.to(device)
        if model.config.training.cpu_threads:
            torch.set_num_threads(model.config.training.cpu_threads)
        arguments.out.mkdir(parents=True, exist_ok=True)
        console.print(f"Folding {len(queries)} sequences with {arguments.run}, step {step}, on {device}")
        if model.config.stem.init == "random":
            console.print("The stem of this run is randomly initialised: it was never pretrained.")
        steps = predict(model, queries, arguments.out, arguments.format, device)
        rows = list(track(steps, "folding", total=len(queries), console=console, disable=not console.is_terminal))
        write_table(arguments.out / PREDICTIONS_FILE, rows)
        console.print(table(rows))
        console.print(f"Wrote {len(rows)} structures and {PREDICTIONS_FILE} to {arguments.out}")
        truth = arguments.data or "TRUTH"
        console.print(f"Next: python -m evaluation.lddt {arguments.out} {truth} --out SCORES")
        return 0

    return run_command(
        body,
        parser().parse_args(argv),
        usage_errors=(InputError, RunError, StemError, DatasetError),
        failures=(PredictionError,),
    )


def write_table(path: Path, rows: Sequence[PredictionRow]) -> None:
    """predictions.csv."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(PredictionRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    atomic_write(path, buffer.getvalue().encode())


def table(rows: Sequence[PredictionRow], limit: int = 20) -> Table:
    """The first rows for the screen."""
    result = Table("name", "residues", "mean pLDDT", title=f"Predictions ({min(limit, len(rows))} of {len(rows)})")
    for row in rows[:limit]:
        result.add_row(row.name, str(row.length), f"{row.mean_plddt:.1f}")
    return result


if __name__ == "__main__":
    sys.exit(main())
