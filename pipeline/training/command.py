"""The train command behind its parser: which run is asked for, and what a person is told of it."""

import argparse
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from data_prep.dataset.store import StructureDataset
from data_prep.files.checksums import sha256
from data_prep.files.command_line import EXIT_FAILED, EXIT_INTERRUPTED, release
from pipeline.config.command import make_console
from pipeline.config.device import is_out_of_memory
from pipeline.config.layers import (
    dotted_layer,
    dotted_values,
    file_layer,
    has_field,
    merge,
    preset_layer,
    resolve,
    with_absolute_paths,
)
from pipeline.config.progress import Clock
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.esm2_weights import DEMO_STEM, is_hub_name
from pipeline.runs.directory import RunDirectory, RunError, require_weights, with_initial_shape
from pipeline.runs.initial import PUBLISHED
from pipeline.training.data import own_ids
from pipeline.training.dry_run import dry_run
from pipeline.training.loop import Interrupted, TimeUp, TrainingError, TrainingSummary, train
from pipeline.training.options import NAMED_OPTIONS
from pipeline.training.processes import Processes, is_lost_connection, is_restarted

FIXED = ("training.seed", "training.freeze")
"""Of ``training.*``, what a run cannot change when it goes on."""
FREE = ("trunk.checkpoint_blocks", "trunk.chunk_size", "stem.weights", "init.weights")
"""Beside ``training.*``, what it can: how the same is computed, and where the same file is now."""


def configuration(arguments: argparse.Namespace, dotted: list[str], run: RunDirectory) -> RunConfig:
    """The resolved configuration; that of the run when resuming. Raises ConfigError, RunError."""
    if not run.exists():
        return fresh_configuration(arguments, dotted)
    if not (arguments.resume or is_restarted()):
        raise RunError(f"{run.path}: holds a run already: --resume to go on with it, or another --out")
    return resumed_configuration(arguments, dotted, run)


def fresh_configuration(arguments: argparse.Namespace, dotted: list[str]) -> RunConfig:
    """The configuration that preset, file and options say. Raises ConfigError, WeightsError."""
    config: RunConfig = resolve(*with_initial_shape(list(_layers(arguments, dotted).values())))
    return with_absolute_paths(config, _is_name)


def resumed_configuration(arguments: argparse.Namespace, dotted: list[str], run: RunDirectory) -> RunConfig:
    """Return the configuration of ``run`` with what the command changes of what may change.

    A preset is what the run started from, so where the run may differ from it, it does; a file and options are wishes.

    Raises ConfigError, RunError: something else is changed.
    """
    before, own = dotted_values(run.config()), file_layer(run.config_file)
    layers = _layers(arguments, dotted)
    wanted = with_absolute_paths(resolve(own, *layers.values()), _is_name)
    for name, value in dotted_values(wanted).items():
        if value != before[name] and not _is_free(name):
            source = _source(name, arguments, layers)
            raise ConfigError(
                f"{source}: {name} = {value!r}, and {run.path} has {before[name]!r}: --resume can change training.* "
                f"(but not the seed and freeze), {', '.join(FREE)}; anything else is another run, with another --out"
            )
    layers.pop("--preset", None)
    config = with_absolute_paths(resolve(own, *layers.values()), _is_name)
    require_weights(run, config)
    return config


def _is_free(name: str) -> bool:
    """Whether a run that goes on can change this field."""
    return name in FREE or (name.startswith("training.") and name not in FIXED)


def _source(name: str, arguments: argparse.Namespace, layers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the option that sets the field ``name``, as it was given."""
    short = next((option for option, field in NAMED_OPTIONS.items() if name == field), "")
    if short and getattr(arguments, short) is not None:
        return f"--{short.replace('_', '-')}"
    if has_field(layers["options"], name):
        return f"--{name}"
    of_file = has_field(layers.get("--config", {}), name)
    return f"--config {arguments.config}" if of_file else f"--preset {arguments.preset}"


def _layers(arguments: argparse.Namespace, dotted: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return the layers that the command gives, by where they come from, those that win last. Raises ConfigError."""
    layers: dict[str, Mapping[str, Any]] = {}
    if arguments.preset:
        layers["--preset"] = preset_layer(arguments.preset)
    if arguments.config:
        layers["--config"] = file_layer(arguments.config)
    options = option_layer(arguments, dotted)
    if _chooses_weights(options):
        layers = {source: _without_stem_init(layer) for source, layer in layers.items()}
    return layers | {"options": options}


def option_layer(arguments: argparse.Namespace, dotted: Sequence[str]) -> dict[str, Any]:
    """Return what the options of the command set, dotted or by their short names. Raises ConfigError."""
    layer = dotted_layer(dotted, RunConfig)
    for option, field in NAMED_OPTIONS.items():
        if getattr(arguments, option) is not None:
            section, key = field.split(".")
            layer = merge(layer, {section: {key: getattr(arguments, option)}})
    return layer


def _chooses_weights(options: Mapping[str, Any]) -> bool:
    """Whether the command line says which weights the stem has, and not whether they are pretrained."""
    stem, init = options.get("stem", {}), options.get("init", {})
    published = stem.get("name", DEMO_STEM) != DEMO_STEM
    return "init" not in stem and bool(published or stem.get("weights") or init.get("weights"))


def _without_stem_init(layer: Mapping[str, Any]) -> dict[str, Any]:
    stem = layer.get("stem", {})
    return {**layer, "stem": {key: value for key, value in stem.items() if key != "init"}}


def _is_name(weights: str) -> bool:
    """Whether this is the name of weights, not a path to them."""
    return weights in PUBLISHED or is_hub_name(weights)


def training_data(path: Path, run: RunDirectory) -> tuple[StructureDataset, str]:
    """The dataset and a checksum of it. Raises DatasetError; RunError: the run has begun with another one."""
    dataset = StructureDataset(path)
    checksum = sha256(path / "index.parquet")
    if run.exists() and run.info().get("dataset_sha256", checksum) != checksum:
        before = run.info().get("dataset")
        raise RunError(
            f"{path}: is not the dataset that {run.path} is trained on ({before}), or it has changed; "
            f"to train its model on other chains: --init-from {run.path} with another --out"
        )
    return dataset, checksum


def foreseeable(error: Exception, processes: Processes) -> str:
    """What an error of torch means, where that can be said; else empty."""
    if is_out_of_memory(error):
        return (
            f"the memory of {processes.device} ended ({str(error).splitlines()[0][:200]}): training.micro_batch = 1, "
            "trunk.checkpoint_blocks = true and --precision bf16 take less, with --resume too"
        )
    if processes.count > 1 and is_lost_connection(error):
        return "another process of the run was lost; go on with --resume (torchrun --max-restarts does by itself)"
    return ""


def run(arguments: argparse.Namespace, dotted: list[str], words: Sequence[str], clock: Clock) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: parsed.
        dotted: the rest of them, fields of the configuration by their dotted names.
        words: all of them as they were given, for ``run.json``.
        clock: when the command ends.
    """
    if arguments.dry_run:
        return _dry_run(fresh_configuration(arguments, dotted))
    run = RunDirectory(arguments.out)
    begun = run.exists()
    config = configuration(arguments, dotted, run)
    dataset, checksum = training_data(arguments.data, run)
    processes = Processes(config, run.path)
    console = make_console(quiet=not processes.is_main)
    sizes = {split: len(dataset.ids(split)) for split in ("train", "val")}
    trained_on = len(own_ids(dataset, config.data))
    console.print(
        f"Training on {trained_on} chains, validating on {trained_on if config.data.overfit else sizes['val']}, "
        f"device {processes.device}, {processes.count} process(es), stem {config.stem.name} ({config.stem.init}), "
        f"adapter {config.adapter.method}"
    )
    if arguments.resume and not begun:
        console.print(f"{run.path}: no run to go on with: a new one begins")
    if config.stem.init == "random" and config.init.weights:
        console.print("The stem was never pretrained: it is that of an earlier run, which began with a random one.")
    elif config.stem.init == "random":
        console.print("The stem is randomly initialised: it has learned nothing about proteins beforehand.")
    info = {
        "version": release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dataset": str(arguments.data.resolve()),
        "dataset_sha256": checksum,
        "dataset_chains": sizes,
        "command": ["python", "-m", "pipeline.train", *words],
    }
    try:
        summary = train(config, dataset, run, processes, info, console, clock)
    except Interrupted as error:
        console.print(
            f"{error}; saved. Go on with: python -m pipeline.train --data {arguments.data} "
            f"--out {arguments.out} --resume"
        )
        return 0 if isinstance(error, TimeUp) else EXIT_INTERRUPTED
    except (RuntimeError, MemoryError) as error:
        reason = foreseeable(error, processes)
        if not reason:
            raise
        raise TrainingError(reason) from error
    finally:
        processes.close()
    _say_what_came_of_it(summary, run, arguments, sizes, console)
    return 0


def _dry_run(config: RunConfig) -> int:
    processes = Processes(config)
    try:
        return 0 if dry_run(config, processes, make_console(quiet=not processes.is_main)) else EXIT_FAILED
    finally:
        processes.close()


def _say_what_came_of_it(
    summary: TrainingSummary,
    run: RunDirectory,
    arguments: argparse.Namespace,
    sizes: Mapping[str, int],
    console: Console,
) -> None:
    best = summary.best_step
    why = " (validation got no better)" if summary.stopped_early else ""
    console.print(
        f"Trained to step {summary.step}{why}: {summary.seconds_per_step:.2f} s per step (median), "
        f"{summary.share_waiting:.1%} of the time waiting for data, {summary.memory_mb / 1024:.1f} GB."
    )
    if best is not None:
        text = f"Best validation lDDT-Calpha: {summary.validation[best]:.4f} at step {best}"
        last = "" if best == summary.step else "; --checkpoint best takes it in place of the last"
        console.print(f"{text}{last}.")
    console.print(f"Wrote {run.path}: report.html, README.md, metrics.csv, validation.csv, checkpoints/, adapter/")
    console.print(
        f"Next: python -m pipeline.predict --run {arguments.out} --data {arguments.data} "
        f"--split {'val' if sizes['val'] else 'train'} --out PREDS"
    )
