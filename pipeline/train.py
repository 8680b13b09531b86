"""Train: a dataset in, a run directory out.

python -m pipeline.train --data DATASET --out RUN --esm esm2_t12_35M --adapter lorta --rank 8
"""

import argparse
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.checksums import sha256
from data_prep.files.release import add_version_option, release
from pipeline.config.command import EXIT_FAILED, EXIT_INTERRUPTED, make_console, run_command, say
from pipeline.config.device import is_out_of_memory
from pipeline.config.layers import (
    describe_fields,
    dotted_layer,
    dotted_values,
    file_layer,
    has_field,
    merge,
    preset_layer,
    preset_names,
    resolve,
    with_absolute_paths,
)
from pipeline.config.progress import Clock
from pipeline.config.schema import ADAPTER_METHODS, TRUNK_METHODS, ConfigError, RunConfig
from pipeline.folding.esm2_weights import DEMO_STEM, ESM2_SHAPES, StemError, is_hub_name
from pipeline.folding.weights import WeightsError
from pipeline.runs.directory import RunDirectory, RunError, require_weights, with_initial_shape
from pipeline.runs.initial import PUBLISHED
from pipeline.runs.tables import TableError
from pipeline.training.chains import own_ids
from pipeline.training.dry_run import estimate, night, report
from pipeline.training.gradient_check import GradientPathError
from pipeline.training.loop import train
from pipeline.training.outcome import Interrupted, TimeUp, TrainingError
from pipeline.training.processes import Processes, is_lost_connection, is_restarted
from pipeline.training.trial import try_steps, why_not

NAMED_OPTIONS = {
    "esm": ("stem", "name"),
    "esm_weights": ("stem", "weights"),
    "esm_init": ("stem", "init"),
    "init_from": ("init", "weights"),
    "adapter": ("adapter", "method"),
    "rank": ("adapter", "rank"),
    "trunk_adapter": ("trunk_adapter", "method"),
    "trunk_rank": ("trunk_adapter", "rank"),
    "max_steps": ("training", "max_steps"),
    "checkpoint_every": ("training", "checkpoint_every"),
    "seed": ("training", "seed"),
    "device": ("training", "device"),
    "precision": ("training", "precision"),
    "overfit": ("data", "overfit"),
}
"""Options that are short for a field of the configuration."""

FIXED = ("training.seed", "training.freeze")
"""Of ``training.*``, what a run cannot change when it goes on."""
FREE = ("trunk.checkpoint_blocks", "trunk.chunk_size", "stem.weights", "init.weights")
"""Beside ``training.*``, what it can: how the same is computed, and where the same file is now."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train a folding trunk over an adapted ESM-2 stem.\n\n"
            "examples:\n"
            "  python -m pipeline.train --data DATASET --out RUN --esm esm2_t12_35M --adapter lorta --rank 8\n"
            "  python -m pipeline.train --data DATASET --out RUN --preset tiny --seed 1\n"
            "  python -m pipeline.train --data DATASET --out RUN --resume --max-minutes 480\n"
            "  python -m pipeline.train --dry-run --preset esmfold --data.batch_size 1\n"
            "  python -m pipeline.train --data DATASET --out RUN --preset paper --trunk.blocks 8 --optimizer.lr 5e-4\n"
            "  python -m pipeline.train --data DATASET --out RUN --init-from esmfold_v1 --adapter lorta "
            "--trunk-adapter lorta\n"
            "  torchrun --nproc-per-node 8 --max-restarts 3 -m pipeline.train --data DATASET --out RUN --preset paper"
        ),
        epilog=(
            "Any field of the configuration is an option by its dotted name; fields and defaults:\n" + describe_fields()
        ),
        allow_abbrev=False,
    )
    add_version_option(p)
    p.add_argument("--data", type=Path, help="dataset directory of pipeline.prepare")
    p.add_argument("--out", type=Path, help="run directory to write")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="say parameters, memory and time: from the shapes, and from some steps at the largest crop on --device if "
        "they fit; writes nothing, needs no weights, --data or --out",
    )
    p.add_argument("--preset", metavar="NAME", help=f"starting values: {', '.join(preset_names())}")
    p.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration file, over the preset")
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run if --out holds one, with its own configuration, else start it: one command for a job "
        "that may be started again; options may be left out or given again, and what would be another run is refused",
    )
    p.add_argument("--auto-resume", action="store_true", help=argparse.SUPPRESS)
    p.add_argument(
        "--max-minutes",
        type=_minutes,
        metavar="N",
        help="end after so many minutes of this command, saved and with exit code 0; --resume goes on",
    )
    p.add_argument("--esm", metavar="NAME", help=f"stem: {', '.join(ESM2_SHAPES)}, with or without _UR50D")
    p.add_argument(
        "--esm-weights",
        metavar="FILE",
        help="pretrained weights: fair-esm's .pt, a Hugging Face directory of an ESM-2 with any head, or its name on "
        "the hub (default: the caches of torch and of Hugging Face, then a download)",
    )
    p.add_argument("--esm-init", choices=["pretrained", "random"], help="random: an untrained stem, no weights needed")
    p.add_argument(
        "--init-from",
        metavar="MODEL",
        help="a whole model to start from: esmfold_v1, fair-esm's .pt, a Hugging Face directory, our .safetensors or a "
        "run directory; the shapes are then its own",
    )
    p.add_argument("--adapter", metavar="METHOD", help=f"how the stem is adapted: {', '.join(ADAPTER_METHODS)}")
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument(
        "--trunk-adapter",
        metavar="METHOD",
        help=f"how the trunk is: full (default) trains it, none freezes it, or {', '.join(TRUNK_METHODS[2:])}",
    )
    p.add_argument("--trunk-rank", type=int, metavar="RANK", help="rank of the trunk's adapter")
    p.add_argument("--max-steps", type=int, help="optimizer steps")
    p.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    p.add_argument("--seed", type=int)
    p.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--precision", choices=["fp32", "bf16"])
    p.add_argument("--overfit", type=int, metavar="N", help="train and validate on the first N training chains alone")
    return p


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of minutes above 0 expected")
    return minutes


def configuration(arguments: argparse.Namespace, dotted: list[str], run: RunDirectory) -> RunConfig:
    """The resolved configuration; that of the run when resuming. Raises ConfigError, RunError."""
    if not run.exists():
        return fresh_configuration(arguments, dotted)
    if not (arguments.resume or is_restarted()):
        raise RunError(f"{run.path}: holds a run already: --resume to go on with it, or another --out")
    return resumed_configuration(arguments, dotted, run)


def fresh_configuration(arguments: argparse.Namespace, dotted: list[str]) -> RunConfig:
    """The configuration that preset, file and options say. Raises ConfigError, WeightsError."""
    config = resolve(*with_initial_shape(list(_layers(arguments, dotted).values())))
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
    short = next((o for o, path in NAMED_OPTIONS.items() if name == ".".join(path)), "")
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
    options = merge(*_options(arguments, dotted))
    if _chooses_weights(options):
        layers = {source: _without_stem_init(layer) for source, layer in layers.items()}
    return layers | {"options": options}


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


def _options(arguments: argparse.Namespace, dotted: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the dotted and the named options set."""
    named: dict[str, Any] = {}
    for option, (section, key) in NAMED_OPTIONS.items():
        value = getattr(arguments, option)
        if value is not None:
            named.setdefault(section, {})[key] = value
    return dotted_layer(dotted), named


def dry_run(config: RunConfig) -> int:
    """Say what a run will take; returns the exit code."""
    processes = Processes(config)
    console = make_console(quiet=not processes.is_main)
    try:
        expected = estimate(config)
        report(expected, config, console)
        reason = why_not(expected, processes.device)
        if processes.any(bool(reason)):  # all or none: the steps are taken together
            console.print(f"Not measured here: {reason or 'another process has no room for it'}.")
            return 0
        trial = try_steps(config, processes)
    finally:
        processes.close()
    if trial is None:
        console.print(f"Measured on {processes.device}: the memory does not suffice for a step.")
        return EXIT_FAILED
    console.print(
        f"Measured on {processes.device}, {processes.count} process(es), {config.training.precision}: "
        f"{trial.seconds:.3g} s a step on average over the recycles, {trial.memory_mb / 1024:.2f} GB at most; "
        f"{night(trial.seconds, config.training.max_steps)}, validation not counted."
    )
    return 0


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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser()
    arguments, dotted = options.parse_known_args(argv)
    clock = Clock(arguments.max_minutes)
    if arguments.auto_resume:
        say("warning: --auto-resume is called --resume now; the next version will not know it")
        arguments.resume = True
    if not arguments.dry_run and not (arguments.data and arguments.out):
        options.error("--data and --out are needed (or --dry-run)")

    def body(arguments: argparse.Namespace) -> int:
        if arguments.dry_run:
            return dry_run(fresh_configuration(arguments, dotted))
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
            "command": ["python", "-m", "pipeline.train", *(sys.argv[1:] if argv is None else argv)],
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
        return 0

    return run_command(
        body,
        arguments,
        usage_errors=(StemError, WeightsError, RunError, DatasetError, ConfigError, TableError),
        failures=(TrainingError, GradientPathError),
    )


if __name__ == "__main__":
    sys.exit(main())
