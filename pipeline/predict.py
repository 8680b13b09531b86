"""Predict: sequences in, structures out.

python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.release import add_version_option, release
from data_prep.files.workers import handled_by
from pipeline.config.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    add_checkpoint_option,
    add_resume_option,
    make_console,
    run_command,
)
from pipeline.config.device import pick_device
from pipeline.config.schema import MAX_THREADS, ConfigError
from pipeline.folding.esm2_weights import StemError
from pipeline.folding.weights import WeightsError
from pipeline.prediction.directory import PredictionDirectory, Shard
from pipeline.prediction.engine import Plan, run
from pipeline.prediction.files import RELAXED, SUFFIXES
from pipeline.prediction.fold import PredictionError
from pipeline.prediction.loading import Loaded, Source, load
from pipeline.prediction.modelcif_file import Origin
from pipeline.prediction.progress import FoldingProgress
from pipeline.prediction.relaxation import RelaxationError, require_openmm
from pipeline.prediction.report import write_report
from pipeline.prediction.rows import SEPARATOR, PredictionRow, rejected_row
from pipeline.prediction.sequences import InputError, Query, Rejected, dataset_queries, read_fasta
from pipeline.prediction.worker import Output
from pipeline.runs.directory import RunError

MAX_RESIDUES = 1024
SHOWN = 20
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Fold sequences with a trained run or with ESMFold's published weights. Writes each structure as PDB and\n"
            "ModelCIF with pLDDT (0-100) in the B-factor column, the predicted aligned error where the model has it,\n"
            "and predictions.csv: lengths, confidence, seconds, and warnings of what to look at first.\n\n"
            "The same command again goes on where it was: what is done is not folded again."
        ),
        epilog=(
            "examples:\n"
            "  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS\n"
            "  python -m pipeline.predict --run RUN --data DATASET --split val --out PREDS\n"
            "  python -m pipeline.predict --run esmfold_v1 --weights ESMFOLD_DIR --fasta SEQS.fasta.gz --out PREDS\n"
            "  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS --shard 3/16    # one of 16 jobs;\n"
            "  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS                 # then all in one\n"
            "  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS --device cuda:0,cuda:1\n\n"
            "sequences: lower case is upper case; gaps and a final * are left out; U and O are folded as C and K;\n"
            "B, J, Z and X as unknown, without atoms; A:B is a complex of two chains. A record with anything else is\n"
            "listed in predictions.csv as rejected, and the others go on.\n\n"
            "--relax: each structure once more, minimised in the Amber force field with heavy atoms held where the\n"
            "model put them, as AlphaFold does: in OUT/relaxed, the model's own stays in OUT. Violations of both\n"
            "are in predictions.csv. It needs OpenMM: pip install 'lorta-fold[relax]'\n\n"
            "exit codes: 0 everything is folded; 1 some sequences were rejected or failed (see predictions.csv);\n"
            "2 wrong usage, or nothing that can be folded; 130 interrupted, and the same command goes on."
        ),
    )
    add_version_option(p)
    p.add_argument("--run", required=True, help="run directory of pipeline.train; or esmfold_v1, esmfold_v0")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--fasta", type=Path, help="sequences, plain or .gz, - for standard input; the first word of a header is a name"
    )
    source.add_argument("--data", type=Path, help="dataset of pipeline.prepare; files are named by the chains' ids")
    p.add_argument("--split", default="val", help="split of --data: train, val or test (default: val)")
    p.add_argument("--out", type=Path, required=True, help="directory for the structures")
    p.add_argument("--format", choices=list(SUFFIXES), default="both", help="files to write (default: both)")
    p.add_argument("--relax", action="store_true", help="relaxed structures too, in OUT/relaxed, see below")
    p.add_argument("--recycles", type=int, metavar="N", help="passes after the first (default: the model's own)")
    p.add_argument("--overwrite", action="store_true", help="delete the predictions in --out, and begin anew")
    add_resume_option(p)
    weights = p.add_argument_group("model")
    add_checkpoint_option(weights)
    weights.add_argument(
        "--weights", default="", metavar="FILE", help="the published model's own file or directory, if elsewhere"
    )
    weights.add_argument(
        "--esm-weights", default="", metavar="FILE", help="the stem's pretrained weights, if elsewhere"
    )
    machine = p.add_argument_group("machine")
    machine.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, mps; several: cuda:0,cuda:1 (default: auto)"
    )
    machine.add_argument("--shard", metavar="I/N", help="fold part I of N alone, for arrays of jobs")
    machine.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="for each device beyond the weights, as 20G (default: 80%% of what is free)",
    )
    machine.add_argument(
        "--batch-residues", type=int, default=MAX_RESIDUES, metavar="N",
        help=f"residues folded together, if memory is enough; 1: one sequence at a time (default: {MAX_RESIDUES})",
    )  # fmt: skip
    machine.add_argument("--cpu-threads", type=int, default=0, metavar="N", help="default: that of the run")
    return p


def parse_size(text: str) -> int:
    """Bytes of ``512M``, ``20G``, ``1.5GiB``. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or float(match[1]) == 0:
        raise ConfigError(f"--max-memory {text}: a size such as 512M or 20G is expected")
    return int(float(match[1]) * UNITS[match[2]])


def select(records: Sequence[Query | Rejected], shard: Shard | None) -> list[Query | Rejected]:
    """The records of a part: dealt out longest first, so that all parts take as long; rejected ones to the first."""
    if shard is None:
        return list(records)
    queries = [record for record in records if isinstance(record, Query)]
    dealt = sorted(queries, key=lambda query: (-query.length, query.name))[shard.number - 1 :: shard.count]
    names = {query.name for query in dealt}
    return [r for r in records if (r.name in names if isinstance(r, Query) else shard.number == 1)]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def body(arguments: argparse.Namespace) -> int:
        console = make_console()
        if arguments.overwrite and (arguments.resume or arguments.shard):
            other = "--resume" if arguments.resume else "--shard"
            raise ConfigError(f"--overwrite with {other}: the one deletes what the other goes on with: choose")
        shard = _shard(arguments.shard)
        picked = [pick_device(name) for name in arguments.device.split(",")]
        devices = tuple(map(str, picked))
        memory = parse_size(arguments.max_memory) if arguments.max_memory else None
        if arguments.batch_residues < 1:
            raise ConfigError("--batch-residues must be above 0")
        if arguments.recycles is not None and arguments.recycles < 0:
            raise ConfigError("--recycles must not be below 0")
        if not 0 <= arguments.cpu_threads <= MAX_THREADS:
            raise ConfigError(f"--cpu-threads must be from 0 to {MAX_THREADS}")
        if arguments.relax:
            require_openmm()
        records = read_fasta(arguments.fasta) if arguments.fasta else None
        if records is None:
            records = dataset_queries(StructureDataset(arguments.data), arguments.split)
        source = Source(arguments.run, arguments.checkpoint, arguments.weights, arguments.esm_weights)
        loaded = load(source)
        config = loaded.model.config
        recycles = config.data.max_recycles if arguments.recycles is None else arguments.recycles
        plan = Plan(
            source=source,
            output=Output(arguments.out, arguments.format, Origin(loaded.description), arguments.relax),
            devices=devices,
            num_recycles=recycles,
            max_memory=memory,
            max_residues=arguments.batch_residues,
            cpu_threads=arguments.cpu_threads,
        )
        settings = {"model": loaded.fingerprint, "recycles": recycles, "format": arguments.format}
        about = {"version": release(), "run": arguments.run, "description": loaded.description, "step": loaded.step}
        with PredictionDirectory(arguments.out, shard) as directory:
            directory.open(settings, about, overwrite=arguments.overwrite)
            rows, code = fold_all(directory, select(records, shard), plan, loaded, console)
        page = None
        if code != EXIT_INTERRUPTED:
            console.print(summary(rows))
            if shard is None:
                page = write_report(arguments.out, rows, loaded.description)
        failed = [row for row in rows if row.status != "done"]
        table = directory.table.name
        written = table if page is None else f"{table} and {page.name}"
        console.print(f"Wrote {len(rows) - len(failed)} structures, {written} to {arguments.out}", markup=False)
        if arguments.relax and code != EXIT_INTERRUPTED:
            console.print(relaxations(rows, arguments.out), markup=False)
        if failed:
            first = failed[0]
            console.print(
                f"Not folded: {len(failed)}, see {table}; the first, {first.name}: {first.reason}", markup=False
            )
        if code == EXIT_INTERRUPTED:
            print("interrupted: the same command goes on", file=sys.stderr)
        elif shard is not None:
            console.print("Next, when all parts are done: the same command without --shard, for one table of all")
        else:
            truth = arguments.data or "TRUTH"
            console.print(f"Next: python -m evaluation.lddt {arguments.out} {truth} --out SCORES", markup=False)
        return code

    return run_command(
        body,
        parser().parse_args(argv),
        usage_errors=(InputError, RunError, StemError, WeightsError, DatasetError, RelaxationError),
        failures=(PredictionError,),
    )


def _shard(text: str | None) -> Shard | None:
    try:
        return None if text is None else Shard.parse(text)
    except ValueError as error:
        raise ConfigError(f"--shard {error}") from None


def fold_all(
    directory: PredictionDirectory,
    records: Sequence[Query | Rejected],
    plan: Plan,
    loaded: Loaded,
    console: Console,
) -> tuple[list[PredictionRow], int]:
    """Fold what is not done; rows of this command's records in their order, and the exit code."""
    queries = [record for record in records if isinstance(record, Query)]
    waiting = [query for query in queries if directory.finished(query, relax=plan.output.relax) is None]
    done = f", {len(queries) - len(waiting)} of them are done" if len(waiting) < len(queries) else ""
    recycles = f"{plan.num_recycles} recycles"
    console.print(f"Folding {len(queries)} sequences{done}, with {loaded.description}", markup=False)
    console.print(f"Device {', '.join(plan.devices)}; {recycles}; batches of up to {plan.max_residues} residues")
    if loaded.model.config.stem.init == "random":
        console.print("The stem of this model was never pretrained: it began with random weights.")
    names = [record.name for record in records]
    code = 0
    try:
        for record in records:
            if isinstance(record, Rejected):
                directory.add(rejected_row(record))
        with handled_by(interrupt, signal.SIGTERM), FoldingProgress(console, waiting) as progress:
            for event in run(plan, loaded, waiting) if waiting else ():
                if isinstance(event, str):
                    progress.say(event)
                else:
                    directory.add(event)
                    progress.add(event)
            if waiting:
                progress.say(progress.text())
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        rows = directory.finish(names)
    wanted = set(names)
    rows = [row for row in rows if row.name in wanted]
    if code == 0 and any(row.status != "done" for row in rows):
        code = EXIT_FAILED
    return rows, code


def interrupt(*_: object) -> NoReturn:
    """What SIGTERM does, with which batch systems announce the end of a job: as Ctrl-C, the table is put in order."""
    raise KeyboardInterrupt


def relaxations(rows: Sequence[PredictionRow], out: Path) -> str:
    """A line on what relaxation did."""
    done = [row for row in rows if row.relaxed == "done"]
    failed = sum(row.relaxed == "failed" for row in rows)
    counts = [
        f"{sum(getattr(row, name) or 0 for row in done)} {name.replace('_', ' ')} are now "
        f"{sum(getattr(row, f'relaxed_{name}') or 0 for row in done)}"
        for name in ("clashes", "broken_bonds", "bad_angles", "bad_residues")
    ]
    more = f"; {failed} could not be relaxed, see their warnings" if failed else ""
    return f"Relaxed {len(done)} structures, in {out / RELAXED}: {', '.join(counts)}{more}"


def summary(rows: Sequence[PredictionRow]) -> Table:
    """The first rows for the screen."""
    title = f"Predictions ({min(SHOWN, len(rows))} of {len(rows)})"
    result = Table("name", "residues", "mean pLDDT", "look at first", title=title)
    for row in rows[:SHOWN]:
        confidence = "" if row.mean_plddt is None else f"{row.mean_plddt:.1f}"
        first, *more = (row.warnings or row.reason).split(SEPARATOR)
        remark = f"{first}, and {len(more)} more" if more else first
        result.add_row(row.name, "" if row.length is None else str(row.length), confidence, remark)
    return result


if __name__ == "__main__":
    sys.exit(main())
