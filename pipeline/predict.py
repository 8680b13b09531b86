"""Predict: sequences in, structures out.

python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS
"""

import argparse
import sys
from pathlib import Path

from data_prep.files.command_line import CommandParser
from pipeline.config.command import add_checkpoint_option, add_resume_option

MAX_RESIDUES = 1024

DESCRIPTION = """\
Fold sequences with a trained run or with ESMFold's published weights. Writes each structure as PDB and
ModelCIF with pLDDT (0-100) in the B-factor column, the predicted aligned error where the model has it,
and predictions.csv: lengths, confidence, seconds, and warnings of what to look at first.

The same command again goes on where it was: what is done is not folded again."""
EXAMPLES = """\
examples:
  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS
  python -m pipeline.predict --run RUN --data DATASET --split val --out PREDS
  python -m pipeline.predict --run esmfold_v1 --weights ESMFOLD_DIR --fasta SEQS.fasta.gz --out PREDS
  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS --shard 3/16    # one of 16 jobs;
  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS                 # then all in one
  python -m pipeline.predict --run RUN --fasta SEQS.fasta --out PREDS --device cuda:0,cuda:1

exit codes: 0 everything is folded; 1 some sequences were rejected or failed (see predictions.csv);
2 wrong usage, or nothing that can be folded; 130 interrupted, and the same command goes on."""
DETAILS = """\
sequences: lower case is upper case; gaps and a final * are left out; U and O are folded as C and K;
B, J, Z and X as unknown, without atoms; A:B is a complex of two chains. A record with anything else is
listed in predictions.csv as rejected, and the others go on.

--relax: each structure once more, minimised in the Amber force field with heavy atoms held where the
model put them, as AlphaFold does: in OUT/relaxed, the model's own stays in OUT. Violations of both
are in predictions.csv. It needs OpenMM: pip install 'lorta-fold[relax]'"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    common = ("--run", "--fasta", "--data", "--split", "--out", "--format", "--relax", "--checkpoint", "--device")
    p = CommandParser("pipeline.predict", DESCRIPTION, common=common, examples=EXAMPLES, details=lambda: DETAILS)
    p.add_argument("--run", required=True, help="run directory of pipeline.train; or esmfold_v1, esmfold_v0")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--fasta", type=Path, help="sequences, plain or .gz, - for standard input; the first word of a header is a name"
    )
    source.add_argument("--data", type=Path, help="dataset of pipeline.prepare; files are named by the chains' ids")
    p.add_argument("--split", default="val", help="split of --data: train, val or test (default: val)")
    p.add_argument("--out", type=Path, required=True, help="directory for the structures")
    p.add_argument("--format", choices=["pdb", "mmcif", "both"], default="both", help="files to write (default: both)")
    p.add_argument("--relax", action="store_true", help="relaxed structures too, in OUT/relaxed, see --help-all")
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)

    from pipeline.prediction import command

    return command.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
