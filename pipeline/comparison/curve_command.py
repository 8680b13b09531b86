"""Train a learning curve cell by cell, and write what it says."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.atomic import write_text
from data_prep.files.command_line import EXIT_FAILED, program, run_command, say
from data_prep.files.text import csv_text
from data_prep.pages import curves_with_spread, render_page
from pipeline.comparison.command import checked_seeds, dataset_with_validation, open_comparison, train_all
from pipeline.comparison.curve import (
    FEW,
    Curve,
    Outlook,
    Row,
    SizedDifference,
    curve_lines,
    curve_table,
    read_cell,
)
from pipeline.comparison.results import write_csv
from pipeline.comparison.variants import ComparisonError, Variant, parse_adapters
from pipeline.config.command import make_console
from pipeline.config.progress import duration
from pipeline.config.schema import RunConfig
from pipeline.runs.directory import RunDirectory
from pipeline.training.data import own_ids
from pipeline.training.dry_run import estimate, measure, why_not
from pipeline.training.processes import Processes

HOW = (
    "Each size trains on that many chains, drawn over the clusters of the training split (one of each before a second "
    "one of any) by hashes of the sequences: the draws of one seed are parts of each other, and another seed draws "
    "others (subsets.csv). The held-out chains are the same for all. Scores are those after the last step; the best "
    "model of a size is chosen by the same scores. The copy is of the nearest training chain of the subset. Brackets "
    f"have 95% bootstrap intervals over seeds and targets, none with fewer than {FEW}."
)


def run(arguments: argparse.Namespace, options: list[str]) -> int:
    """Run the command; returns the exit code."""
    return run_command(lambda given: learning_curve(given, options), arguments)


def learning_curve(arguments: argparse.Namespace, options: list[str]) -> int:
    """Train every adapter with every size and seed, and write the curve; returns the exit code."""
    console, out = make_console(), arguments.out
    adapters, seeds = parse_adapters(arguments.adapters), checked_seeds(arguments.seeds)
    dataset = checked_dataset(arguments.data, arguments.sizes)
    sizes = sorted(arguments.sizes)
    if arguments.init_from:
        options = ["--init-from", arguments.init_from, *options]
    if arguments.forgetting:
        check_forgetting(arguments.forgetting, dataset)
        options = ["--training.panel", str(arguments.forgetting), *options]
    variants = [
        Variant(adapter, seed, out / "runs" / f"{adapter.folder}_{size}chains_seed{seed}", size)
        for seed in seeds
        for size in sizes
        for adapter in adapters
    ]
    configs = [variant.configuration(options) for variant in variants]
    if not arguments.dry_run:
        open_comparison(arguments, options, variants[: len(adapters)])
    say_what_it_takes(variants, configs, arguments.device, console)
    if arguments.dry_run:
        return 0

    failed = train_all(variants, dataset, arguments, options, console)
    done = [variant for variant in variants if variant.is_done()]
    if not done:
        say("error: no run was trained to its end")
        return EXIT_FAILED
    curve = Curve([read_cell(variant) for variant in done], has_base=bool(configs[0].init.weights))
    write_subsets(out / "subsets.csv", dataset, dict(zip(variants, configs, strict=True)))
    for line in write_curve(out, curve, failed):
        console.print(line)
    console.print(
        f"Wrote {out}: learning_curve.html, learning_curve.md, learning_curve.svg, curve.csv, differences.csv, "
        "outlook.csv, subsets.csv, runs/"
    )
    return EXIT_FAILED if failed else 0


def checked_dataset(path: Path, sizes: Sequence[int]) -> StructureDataset:
    """Open the dataset. Raises DatasetError, ComparisonError: no curve of these sizes can be drawn on it."""
    dataset = StructureDataset(path)
    chains, train = dataset.ids(), dataset.ids("train")
    if len(set(dataset.column("cluster", chains))) == 1:
        raise DatasetError(
            f"{path}: its {len(chains)} chains are all of one cluster, so that none can be held out: prepare it with a "
            "higher --identity, or with more distant relatives"
        )
    dataset_with_validation(path)
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ComparisonError(f"--sizes {' '.join(map(str, sizes))}: expected different numbers of chains from 1 on")
    if max(sizes) > len(train):
        raise ComparisonError(f"--sizes {max(sizes)}: the training split of {path} has {len(train)} chains")
    return dataset


def check_forgetting(path: Path, dataset: StructureDataset) -> None:
    """Raise ComparisonError where the forgetting set has a sequence that may be trained on."""
    forgetting = StructureDataset(path)
    train = set(dataset.column("sequence", dataset.ids("train")))
    both = [name for name in forgetting.ids() if forgetting.row(name)["sequence"] in train]
    if both:
        raise ComparisonError(
            f"--forgetting {path}: {len(both)} of its {len(forgetting.ids())} chains are training chains of "
            f"{dataset.path}, such as {both[0]}: a forgetting set must not be trained on"
        )


def say_what_it_takes(variants: Sequence[Variant], configs: Sequence[RunConfig], device: str, console: Console) -> None:
    """Print how long the runs that are left will take: from those that are done, or from some steps taken now."""
    left = [(variant, config) for variant, config in zip(variants, configs, strict=True) if not variant.is_trained()]
    console.print(f"{len(variants)} runs, {len(variants) - len(left)} done before.")
    seconds: dict[str, float] = {}
    for variant in variants:
        if variant.is_trained():
            seconds[variant.adapter.name] = float(RunDirectory(variant.path).summary()["seconds_per_step"])
    total = 0.0
    for variant, config in left:
        name = variant.adapter.name
        if name not in seconds:
            measured = _measured(config, device)
            if isinstance(measured, str):
                console.print(f"What they take is not measured here: {measured}.")
                return
            seconds[name] = measured
        total += seconds[name] * config.training.max_steps
    if left:
        steps = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
        console.print(f"A step takes: {steps}. All that is left: {duration(total)}, validation not counted.")


def _measured(config: RunConfig, device: str) -> float | str:
    """Seconds of a step; or why they cannot be measured."""
    processes = Processes(config)
    try:
        reason = why_not(estimate(config), processes.device)
        seconds = None if reason else measure(config, processes)
    finally:
        processes.close()
    return (reason or f"the memory of {device} does not suffice for a step") if seconds is None else seconds


def write_subsets(path: Path, dataset: StructureDataset, variants: Mapping[Variant, RunConfig]) -> None:
    """Write which chains each size and seed trains on."""
    rows: list[tuple[object, ...]] = []
    draws = {(variant.seed, variant.size): own_ids(dataset, config.data) for variant, config in variants.items()}
    for (seed, size), names in sorted(draws.items()):
        clusters = dataset.column("cluster", names)
        rows += ((seed, size, name, cluster) for name, cluster in zip(names, clusters, strict=True))
    write_text(path, csv_text(("seed", "size", "chain", "cluster"), rows))


def write_curve(out: Path, curve: Curve, failed: Mapping[str, str]) -> list[str]:
    """Write tables, figure and page; returns the sentences that say what came out."""
    said = [curve.verdict(size) for size in curve.sizes]
    said += [curve.outlook_in_words(adapter) for adapter in curve.adapters]
    said += [f"Failed: {name}: {problem}" for name, problem in failed.items()]
    table = curve_table(curve)
    plot = curves_with_spread(curve_lines(curve), "training structures", "held-out lDDT-Cα")
    write_csv(out / "curve.csv", Row, curve.rows())
    write_csv(out / "differences.csv", SizedDifference, curve.differences())
    write_csv(out / "outlook.csv", Outlook, [curve.outlook(adapter) for adapter in curve.adapters])
    plot.save(out / "learning_curve.svg")
    sentences = "\n".join(f"- {line}" for line in said)
    text = f"# Learning curve\n\n{sentences}\n\n{table}\n{HOW}\n\nWritten by {program()}.\n"
    write_text(out / "learning_curve.md", text)
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    shown = {"said": said, "plot": plot, "heading": heading, "rows": rows, "how": HOW, "program": program()}
    write_text(out / "learning_curve.html", render_page("pipeline.comparison", "learning_curve.html.jinja", **shown))
    return said
