"""Compare: adapters on one dataset, several seeds each, with error bars.

python -m pipeline.compare --data DATASET --adapters none,lora:1,lorta:8,full --seeds 3 --out COMPARISON
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.release import add_version_option, program
from data_prep.structure.structure_bytes import atomic_write
from evaluation.baselines import verdict, write_baselines
from pipeline.comparison.arms import USAGE_ERRORS, Arm, ArmError, parse_adapters
from pipeline.comparison.directory import open_directory
from pipeline.comparison.results import (
    ArmResult,
    PairedDifference,
    arm_result,
    copy_differences,
    curve,
    markdown_table,
    paired_differences,
    target_scores,
    write_csv,
)
from pipeline.config.command import EXIT_FAILED, add_resume_option, make_console, run_command
from pipeline.pages.figures import curves_with_spread, dots_by_name

ADAPTERS = "none,lora:1,lorta:1,lorta:8,lorta:64,full"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train one model per adapter and seed, and compare them target by target.\n\n"
            "Arms of one seed see the same chains and crops in the same order and start from the same trunk. An arm\n"
            "that is done is not repeated, one that was interrupted goes on: give the same command again. Adapters\n"
            "and seeds may be added to a comparison; other options are refused.\n\n"
            "examples:\n"
            "  python -m pipeline.compare --data DATASET --out COMPARISON --preset tiny --max-steps 400\n"
            "  python -m pipeline.compare --data DATASET --out COMPARISON --adapters none,lorta:8,lorta:8:256 --seeds 5"
        ),
        epilog="All other options are those of pipeline.train, for all arms: --preset, --config, --trunk.blocks ...",
        allow_abbrev=False,
    )
    add_version_option(p)
    p.add_argument("--data", type=Path, required=True, help="dataset directory with a validation split")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    add_resume_option(p)
    p.add_argument(
        "--adapters",
        default=ADAPTERS,
        metavar="LIST",
        help="by commas METHOD:RANK, METHOD:RANK:ALPHA, or METHOD for those without a rank (none, full, bitfit ...); "
        f"the first is the reference (default: {ADAPTERS})",
    )
    p.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    p.add_argument("--train-chains", type=int, default=10, metavar="N", help="training chains to score at the end")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, options = parser().parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        console = make_console()
        adapters = parse_adapters(arguments.adapters)
        if arguments.seeds < 1:
            raise ArmError(f"--seeds {arguments.seeds}: at least 1")
        dataset = StructureDataset(arguments.data)
        if not dataset.ids("val"):
            raise DatasetError(f"{arguments.data}: no validation chains: see pipeline.prepare --val-fraction")
        # Seed by seed, so that an early stop leaves whole comparisons.
        arms = [
            Arm(adapter, seed, arguments.out / "runs" / f"{adapter.folder}_seed{seed}")
            for seed in range(arguments.seeds)
            for adapter in adapters
        ]
        configs = [arm.configuration(options) for arm in arms[: len(adapters)]]  # in all that could be wrong
        open_directory(arguments.out, arguments.data, options, configs[0], {"--train-chains": arguments.train_chains})
        failed: dict[str, str] = {}
        for number, arm in enumerate(arms, start=1):
            label = f"arm {number}/{len(arms)}: {arm.adapter.name}, seed {arm.seed}"
            if arm.is_done():
                console.print(f"{label}: done before")
                continue
            console.print(f"{label}: training, see {arm.log}")
            problem = arm.train(arguments.data, ["--device", arguments.device, *options])
            if problem:
                failed[f"{arm.adapter.name}, seed {arm.seed}"] = problem
                console.print(f"{label}: failed: {problem}")
                continue
            arm.score_training_chains(dataset, arguments.train_chains, arguments.device)
            result = arm_result(arm)
            words = verdict(target_scores(arm), arm.baselines())
            console.print(f"{label}: validation lDDT-Calpha {result.val_lddt_ca:.4f}" + (f": {words}" if words else ""))
        done = [arm for arm in arms if arm.is_done()]
        if not done:
            print("error: no arm was trained to its end", file=sys.stderr)
            return EXIT_FAILED
        table = write_comparison(arguments.out, done, adapters[0].name, failed)
        console.print(table)
        console.print(f"Wrote {arguments.out}: comparison.md, arms.csv, differences.csv, curves.svg, scores.svg, runs/")
        return EXIT_FAILED if failed else 0

    return run_command(body, arguments, usage_errors=USAGE_ERRORS)


def write_comparison(out: Path, arms: Sequence[Arm], reference: str, failed: dict[str, str]) -> str:
    """Tables and figures of finished arms; returns the Markdown table."""
    results = [arm_result(arm) for arm in arms]
    results.sort(key=lambda result: [arm.adapter.name for arm in arms].index(result.adapter))
    scores: dict[str, dict[int, dict[str, float]]] = {}
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for arm in arms:
        scores.setdefault(arm.adapter.name, {})[arm.seed] = target_scores(arm)
        lines.setdefault(arm.adapter.name, []).append(list(curve(arm).items()))
    baselines = arms[0].baselines()  # those of all arms: they share dataset and options
    differences = paired_differences(scores, reference) if reference in scores else []
    differences += copy_differences(scores, baselines)
    if baselines:
        write_baselines(out / "baselines.csv", baselines)
    write_csv(out / "arms.csv", ArmResult, results)
    write_csv(out / "differences.csv", PairedDifference, differences)
    table = markdown_table(results, differences, baselines)
    text = table + "".join(f"\nFailed: {name}: {problem}\n" for name, problem in failed.items())
    text += f"\nWritten by {program()}.\n"
    atomic_write(out / "comparison.md", text.encode())
    figure = curves_with_spread(lines, "step", "validation lDDT-Cα")
    atomic_write(out / "curves.svg", figure.encode())
    dots: dict[str, list[float]] = {}
    for result in results:
        dots.setdefault(f"{result.adapter}\n{result.stem_parameters:,} parameters", []).append(result.val_lddt_ca)
    atomic_write(out / "scores.svg", dots_by_name(dots, "validation lDDT-Cα, a dot per seed").encode())
    return table


if __name__ == "__main__":
    sys.exit(main())
