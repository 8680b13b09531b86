"""``python -m evaluation.lddt PREDS TRUTH``: arguments, the run, exit codes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files.command_line import CommandParser, run_command, warn
from data_prep.files.errors import UserError
from evaluation.match import MIN_IDENTITY, MODES

if TYPE_CHECKING:
    from evaluation.baselines import Baseline
    from evaluation.run import Row

_DESCRIPTION = """\
Scores predicted protein structures against true ones by lDDT over alpha carbons, as OpenStructure's bb_lddt.

PREDS and TRUTH are two directories, whose files pair by name (preds/x.pdb with truth/x.cif.gz; preds/x_B.pdb with
chain B of truth/x.pdb), or two files. TRUTH may also be a dataset directory made by pipeline.prepare.
PDB and mmCIF, plain or .gz, may be mixed.
"""

_EXAMPLES = """\
examples:
  python -m evaluation.lddt preds/ truth/                        a table on screen
  python -m evaluation.lddt preds/ truth/ --out scores --report  and scores/scores.csv, per_residue.csv,
                                                                 summary.json, report.html
  python -m evaluation.lddt preds/ dataset/ --split val          every record of the split is expected
  python -m evaluation.lddt preds/ truth/ --out scores --jobs 4 --resume     goes on with a run that was stopped
  python -m evaluation.lddt model.pdb crystal.cif.gz --chain-map A=B

exit status: 0 all predictions scored, 1 some failed (with --strict also: some truth has no prediction), 2 the arguments
do not work.
"""

_DETAILS = """\
lddt_ca pools over all pairs of alpha carbons closer than 15 A in the truth; a pair that the prediction lacks counts as
not preserved. Other numbers (over common residues only, mean per residue, with AlphaFold's strict comparisons, ...)
stand beside it under their own names, which summary.json defines; --all-atom and --superposition add more.

Every target ends in a row with a status: scored, partial (scored, residues are missing), failed, missing (a truth
without prediction) or extra (a prediction without truth), and with a reason.
"""

_COMMON = ("--out", "--report", "--plots", "--split", "--all-atom", "--superposition", "--jobs", "--resume")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    kept = f": scored targets are kept in {options.out}, --resume goes on" if options.out is not None else ""
    return run_command(_run, options, interrupted=f"stopped{kept}")


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that --help and a wrong argument answer at once.
    from rich.console import Console

    from evaluation import output
    from evaluation.run import Settings, run_targets
    from evaluation.targets import pair, read_ids

    if options.resume and options.out is None:
        raise UserError("--resume goes on with the run in the directory of --out: add --out DIR")
    if options.report and options.out is None:
        raise UserError("--report writes report.html into the directory of --out: add --out DIR")
    if options.plots and options.out is None:
        raise UserError("--plots writes a directory plots into that of --out: add --out DIR")
    if options.plot_target and not options.plots:
        raise UserError("--plot-target chooses what --plots draws: add --plots")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file: expected a directory")
    settings = Settings(options.match, options.min_identity, options.chain_map, options.all_atom, options.superposition)
    ids = None if options.ids is None else read_ids(options.ids)
    pairing = pair(
        options.preds, options.truth, options.pairs, options.split, ids, options.truth_suffix, options.pred_suffix
    )

    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(
        f"predictions: {options.preds}   truth: {options.truth}", markup=False, highlight=False, soft_wrap=True
    )
    rows, taken = run_targets(pairing.targets, settings, options.out, options.resume, options.jobs)
    if options.resume:
        console.print(f"resumed: {taken} of {len(rows)} targets were scored before", highlight=False)
    summary = output.summarise(rows, settings, options.seed, pairing.notes, _baselines(options.truth, rows))
    output.show(console, rows, summary)
    if options.out is None:
        console.print("nothing written: add --out DIR to keep the scores")
    else:
        written = output.write_scores(options.out, rows, summary)
        if options.report:
            from evaluation.report import write_report

            written.append(write_report(options.out, rows, summary))
        if options.plots:
            written += _plots(options, rows, summary)
        for path in written:
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return _exit_status(rows, options.strict)


def _baselines(truth: Path, rows: "Sequence[Row]") -> "list[Baseline]":
    """The baselines of all scored targets where the truth is a dataset; its training chains are there to copy."""
    if not (truth / "dataset.json").is_file():
        return []
    from data_prep.dataset.store import StructureDataset  # loads file formats that no other truth needs
    from evaluation.baselines import score_baselines

    return score_baselines(StructureDataset(truth), [row.target for row in rows if row.score is not None])


def _plots(options: argparse.Namespace, rows: "Sequence[Row]", summary: dict) -> list[Path]:
    from evaluation.report import write_plots  # loads Matplotlib

    scored = {row.target for row in rows if row.score is not None}
    for name in options.plot_target:
        if name not in scored:
            warn(f"--plot-target {name}: no target of this name has a score: not drawn")
    return write_plots(options.out / "plots", rows, summary, [name for name in options.plot_target if name in scored])


def _exit_status(rows: "Sequence[Row]", strict: bool) -> int:
    bad = {"failed", "missing"} if strict else {"failed"}
    return int(any(row.status in bad for row in rows))


def _parser() -> CommandParser:
    parser = CommandParser(
        "evaluation.lddt", _DESCRIPTION, common=_COMMON, examples=_EXAMPLES, details=lambda: _DETAILS
    )
    parser.add_argument("preds", metavar="PREDS", type=Path, help="predictions: directory or file")
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="true structures: directory, dataset or file")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write scores.csv, per_residue.csv and summary.json there"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write DIR/report.html, one page that needs no network: plots, a table, and for a "
        "chosen target its residues, distance differences and the structures in 3D",
    )
    parser.add_argument(
        "--plots",
        action="store_true",
        help="also write the drawings as files into DIR/plots: histogram, lDDT against length, pLDDT against lDDT, and "
        "the residues and distance differences of a target (the worst, unless --plot-target names others)",
    )
    parser.add_argument(
        "--plot-target",
        metavar="NAME",
        action="append",
        default=[],
        help="with --plots: draw the residues of this target; may be given several times",
    )
    parser.add_argument(
        "--all-atom",
        action="store_true",
        help="also lDDT over all heavy atoms (lddt_all), symmetric side chains resolved",
    )
    parser.add_argument(
        "--superposition",
        action="store_true",
        help="also TM-score by the given correspondence (not TM-align), GDT-TS, GDT-HA and RMSD",
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE.csv",
        type=Path,
        help="pairs by table instead of by name: columns pred and truth, and target where predictions' names repeat; "
        "paths relative to PREDS and TRUTH, else to the table, else to the working directory",
    )
    parser.add_argument(
        "--ids", metavar="FILE", type=Path, help="score these targets alone, one name per line; all are expected"
    )
    parser.add_argument(
        "--truth-suffix", metavar="TEXT", default="", help="prediction x belongs to truth x<TEXT>, e.g. _ref: x_ref.cif"
    )
    parser.add_argument(
        "--pred-suffix",
        metavar="TEXT",
        default="",
        help="prediction x<TEXT> belongs to truth x; the samples of AlphaFold, ColabFold, Boltz, Chai, Protenix and "
        "OpenFold (x_model_0.cif, x/ranked_0.pdb) pair without it",
    )
    parser.add_argument("--split", help="TRUTH is a dataset: expect every record of this split, e.g. val")
    parser.add_argument(
        "--match",
        choices=MODES,
        default="auto",
        help="pair residues by the author's number and insertion code, by position along the sequence (label), or by "
        "alignment; auto takes number unless another way pairs a larger share with residues of the same name, and says "
        "what it took (default: %(default)s)",
    )
    parser.add_argument(
        "--chain-map",
        metavar="A=B,C=D",
        type=_chain_map,
        help="truth chain A is the prediction's B, and so on, for all targets; without it the assignment that keeps "
        "the most distances is taken",
    )
    parser.add_argument(
        "--min-identity",
        metavar="SHARE",
        type=_share,
        default=MIN_IDENTITY,
        help="share of the shorter chain's residues that must find one of the same name; below, they are not "
        "the same protein and there is no score (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs", metavar="N", type=_count, default=1, help="processes that score at once (default: %(default)s)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take from --out what was scored before with the same settings from the same files, and score the rest",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 also when a truth has no prediction")
    parser.add_argument("--seed", type=_seed, default=0, help="of the bootstrap intervals (default: %(default)s)")
    return parser


def _chain_map(text: str) -> dict[str, str]:
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(part) != 2 for part in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: expected TRUTH=PREDICTION, such as A=B or A=B,C=D")
    chains = dict(pairs)
    if len(chains) != len(pairs) or len(set(chains.values())) != len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: a chain is named twice")
    return chains


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    """The argument of ``--seed``."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share between 0 and 1, such as {MIN_IDENTITY}")
    return share


if __name__ == "__main__":
    sys.exit(main())
