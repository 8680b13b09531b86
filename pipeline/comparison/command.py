"""Run a comparison of adapters, or a search for the alpha of each."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.atomic import write_text
from data_prep.files.command_line import EXIT_FAILED, program, run_command, say
from data_prep.pages import curves_with_spread, dots_by_name
from evaluation.baselines import verdict, write_baselines
from pipeline.comparison.alpha import FIRST, Trial, best, judge, search
from pipeline.comparison.directory import open_directory
from pipeline.comparison.options import listed_seeds
from pipeline.comparison.results import (
    PairedDifference,
    RunResult,
    copy_differences,
    curve,
    markdown_table,
    paired_differences,
    run_result,
    target_scores,
    write_csv,
)
from pipeline.comparison.variants import DRAW, Adapter, ComparisonError, Variant, parse_adapters
from pipeline.config.command import make_console
from pipeline.config.layers import dotted_values


def run(arguments: argparse.Namespace, options: list[str]) -> int:
    """Run the command; returns the exit code."""
    if arguments.sweep_alpha is not None:
        return run_command(lambda given: sweep(given, options), arguments)
    return run_command(lambda given: compare(given, options), arguments)


def dataset_with_validation(path: Path) -> StructureDataset:
    """Open the dataset. Raises DatasetError, also where nothing is held out."""
    dataset = StructureDataset(path)
    if not dataset.ids("val"):
        raise DatasetError(f"{path}: no validation chains: see pipeline.prepare --val-fraction")
    return dataset


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds. Raises ComparisonError for one below 0 or given twice."""
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ComparisonError(f"--seeds {' '.join(map(str, seeds))}: expected different numbers from 0 on")
    return list(seeds)


def variant_of(arguments: argparse.Namespace, adapter: Adapter, seed: int) -> Variant:
    """Return the variant, with its place under ``--out``."""
    return Variant(adapter, seed, arguments.out / "runs" / f"{adapter.folder}_seed{seed}")


def open_comparison(arguments: argparse.Namespace, options: Sequence[str], variants: Sequence[Variant]) -> None:
    """Check all options before the first run, and that ``--out`` is of the same ones. Raises what they are wrong by."""
    configs = [variant.configuration(options) for variant in variants]
    values = dotted_values(configs[0])
    drawn = {} if variants[0].size else {option: values[option.removeprefix("--")] for option in DRAW}
    open_directory(
        arguments.out, arguments.data, options, configs[0], {"--train-chains": arguments.train_chains, **drawn}
    )


def train_all(
    variants: Sequence[Variant],
    dataset: StructureDataset,
    arguments: argparse.Namespace,
    options: Sequence[str],
    console: Console,
) -> dict[str, str]:
    """Train the variants that are not done, one after the other, and score them; returns what went wrong, by name.

    Args:
        variants: in their order.
        dataset: what they train on.
        arguments: of the command.
        options: of the train command, for all.
        console: for progress.
    """
    failed = {}
    for number, variant in enumerate(variants, start=1):
        label = f"run {number}/{len(variants)}: {variant.name}"
        if variant.is_done():
            console.print(f"{label}: done before")
            continue
        console.print(f"{label}: training, see {variant.log}")
        problem = variant.train(arguments.data, ["--device", arguments.device, *options])
        if problem:
            failed[variant.name] = problem
            console.print(f"{label}: failed: {problem}")
            continue
        variant.score_training_chains(dataset, arguments.train_chains, arguments.device)
        words = verdict(target_scores(variant), variant.baselines())
        reached = f"validation lDDT-Calpha {run_result(variant).val_lddt_ca:.4f}"
        console.print(f"{label}: {reached}: {words}" if words else f"{label}: {reached}")
    return failed


def compare(arguments: argparse.Namespace, options: list[str]) -> int:
    """Train every adapter with every seed, and write the tables; returns the exit code."""
    console = make_console()
    adapters, seeds = parse_adapters(arguments.adapters), checked_seeds(listed_seeds(arguments.seeds, say))
    dataset = dataset_with_validation(arguments.data)
    # Seed by seed, so that an early stop leaves whole comparisons.
    variants = [variant_of(arguments, adapter, seed) for seed in seeds for adapter in adapters]
    open_comparison(arguments, options, variants[: len(adapters)])

    failed = train_all(variants, dataset, arguments, options, console)
    done = [variant for variant in variants if variant.is_done()]
    if not done:
        say("error: no run was trained to its end")
        return EXIT_FAILED
    console.print(write_comparison(arguments.out, done, adapters[0].name, failed))
    console.print(f"Wrote {arguments.out}: comparison.md, runs.csv, differences.csv, curves.svg, scores.svg, runs/")
    return EXIT_FAILED if failed else 0


def write_comparison(out: Path, variants: Sequence[Variant], reference: str, failed: Mapping[str, str]) -> str:
    """Tables and figures of finished variants; returns the Markdown table."""
    results = [run_result(variant) for variant in variants]
    results.sort(key=lambda result: [variant.adapter.name for variant in variants].index(result.adapter))
    scores: dict[str, dict[int, dict[str, float]]] = {}
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for variant in variants:
        scores.setdefault(variant.adapter.name, {})[variant.seed] = target_scores(variant)
        lines.setdefault(variant.adapter.name, []).append(list(curve(variant).items()))
    baselines = variants[0].baselines()  # those of all variants: they share dataset and options
    differences = paired_differences(scores, reference) if reference in scores else []
    differences += copy_differences(scores, baselines)
    if baselines:
        write_baselines(out / "baselines.csv", baselines)
    write_csv(out / "runs.csv", RunResult, results)
    write_csv(out / "differences.csv", PairedDifference, differences)
    table = markdown_table(results, differences, baselines)
    text = table + "".join(f"\nFailed: {name}: {problem}\n" for name, problem in failed.items())
    text += f"\nWritten by {program()}.\n"
    write_text(out / "comparison.md", text)
    curves_with_spread(lines, "step", "validation lDDT-Cα").save(out / "curves.svg")
    dots: dict[str, list[float]] = {}
    for result in results:
        dots.setdefault(f"{result.adapter}\n{result.stem_parameters:,} parameters", []).append(result.val_lddt_ca)
    dots_by_name(dots, "validation lDDT-Cα, a dot per seed").save(out / "scores.svg")
    return table


def sweep(arguments: argparse.Namespace, options: list[str]) -> int:
    """Find the alpha of each adapter, with the first seed; returns the exit code."""
    console = make_console()
    adapters, seed = parse_adapters(arguments.adapters), arguments.seeds[0]
    for adapter in adapters:
        if not adapter.rank or adapter.alpha is not None:
            raise ComparisonError(f"--sweep-alpha: --adapters {adapter.name}: expected METHOD:RANK, as in lorta:8")
    if arguments.sweep_alpha < 1:
        raise ComparisonError(f"--sweep-alpha {arguments.sweep_alpha}: at least 1 pair")
    dataset_with_validation(arguments.data)
    variants = [variant_of(arguments, replace(adapter, alpha=FIRST[0] * adapter.rank), seed) for adapter in adapters]
    open_comparison(arguments, options, variants)

    def trial(adapter: Adapter, alpha: float) -> Trial:
        variant, problem = variant_of(arguments, replace(adapter, alpha=alpha), seed), ""
        if variant.is_trained():
            console.print(f"{variant.name}: done before")
        else:
            console.print(f"{variant.name}: training, see {variant.log}")
            problem = variant.train(arguments.data, ["--device", arguments.device, *options])
        result = judge(variant, problem)
        reached = f"validation lDDT-Calpha {result.lddt_ca:.4f}" + (f": {result.words}" if result.words else "")
        console.print(f"{variant.name}: {result.reason or reached}")
        return result

    trials: list[Trial] = []
    code = 0
    for adapter in adapters:
        found = search(partial(trial, adapter), adapter.rank, arguments.sweep_alpha)
        trials += found
        write_csv(arguments.out / "sweep.csv", Trial, trials)
        chosen = best(found)
        if chosen is None:
            say(f"error: {adapter.name}: no alpha converged, see {arguments.out}/sweep.csv: try a lower learning rate")
            code = EXIT_FAILED
            continue
        console.print(
            f"Next: python -m pipeline.train --data {arguments.data} --out RUN --adapter {adapter.method} "
            f"--rank {adapter.rank} --adapter.alpha {chosen.alpha!r} {shlex.join(options)}".rstrip()
        )
    console.print(f"Wrote {arguments.out}: sweep.csv, and a run for each alpha in runs/")
    return code
