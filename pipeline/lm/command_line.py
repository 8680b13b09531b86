"""Options that the language-model commands share, and their way into a configuration."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.files.release import add_version_option
from pipeline.config.command import EXIT_INTERRUPTED, make_console, run_command
from pipeline.config.layers import describe_fields, dotted_layer, file_layer, resolve
from pipeline.lm.errors import InputError, StageFailed, require_extra
from pipeline.lm.glue import task_key
from pipeline.lm.settings import STAGES, StageConfig, preset_layer, preset_names, stage_of_preset

NAMED_OPTIONS = {
    "model": ("model", "name"),
    "init_config": ("model", "init_config"),
    "four_bit": ("model", "four_bit"),
    "data": ("data", "train"),
    "validation": ("data", "validation"),
    "adapter": ("adapter", "method"),
    "rank": ("adapter", "rank"),
    "alpha": ("adapter", "alpha"),
    "lr": ("optimizer", "lr"),
    "head_lr": ("optimizer", "head_lr"),
    "epochs": ("training", "epochs"),
    "max_steps": ("training", "max_steps"),
    "batch_size": ("training", "batch_size"),
    "seed": ("training", "seed"),
    "device": ("training", "device"),
}
"""Options that are short for a field of the configuration."""

TOP_LEVEL = ("task", "beta", "loss_on")


def stage_parser(stage: str, description: str) -> argparse.ArgumentParser:
    """A parser with the description of a stage and every field of its configuration in the help."""
    p = argparse.ArgumentParser(
        prog=f"python -m pipeline.{stage}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=description,
        epilog=(
            "Methods of --adapter: full, head (nlu), bitfit, houlsby, pfeiffer, adapterdrop, lora, lora-fa, adalora,\n"
            "dora, vera, nola, lotr, loretta-adp, loretta-rep, lorta and the others of docs/adapters.md.\n"
            'LoRTA per layer: --adapter.settings.modes \'["heads", "matrices"]\', per matrix: \'["heads"]\'.\n\n'
            "Any field of the configuration is an option by its dotted name; fields and defaults:\n"
            + describe_fields(STAGES[stage])
        ),
        allow_abbrev=False,
    )
    add_version_option(p)
    return p


def add_stage_options(p: argparse.ArgumentParser, stage: str) -> None:
    """The options of every stage."""
    presets = [name for name in preset_names() if stage_of_preset(name) == stage]
    p.add_argument("--out", type=Path, help="directory to write (default: runs/, named for stage, task, method, rank)")
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run if --out holds one, else start it; the same options again are fine, others are not",
    )
    p.add_argument("--preset", metavar="NAME", help=f"starting values: {', '.join(presets)}")
    p.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration file, over the preset")
    p.add_argument("--model", help="hub name or local directory")
    p.add_argument(
        "--init-config", metavar="FILE", help="an untrained model of this config.json, or tiny-llama, tiny-roberta"
    )
    p.add_argument("--four-bit", action="store_const", const=True, help="frozen weights in 4 bits (needs bitsandbytes)")
    p.add_argument("--data", metavar="SOURCE", help="training examples: file, directory or hub name")
    p.add_argument("--validation", metavar="FILE", help="held-out examples")
    p.add_argument("--adapter", metavar="METHOD", help="how the model is adapted (default lorta), see below")
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--alpha", type=float, help="scale of the update is alpha / rank")
    p.add_argument("--lr", type=float, help="peak learning rate of the adapter")
    p.add_argument("--epochs", type=float)
    p.add_argument("--max-steps", type=int, help="optimizer steps, in place of epochs")
    p.add_argument("--batch-size", type=int, help="examples per optimizer step")
    p.add_argument("--device", help="auto, cpu, cuda, mps")
    p.add_argument("--export-lora", action="store_true", help="also write the adapter as plain PEFT LoRA, to RUN/lora")


def numbers(text: str) -> list[int]:
    """Seeds such as ``0`` or ``0,1,2``, for argparse."""
    if not all(part.isdecimal() and int(part) < 2**32 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 0 to 4294967295 expected, such as 0,1,2")
    return [int(part) for part in text.split(",")]


def default_out(stage: str, config: StageConfig) -> Path:
    """``runs/nlu-rte-lorta-r4`` and the like."""
    rank = f"r{config.adapter.rank}" if config.adapter.rank else ""
    return Path("runs") / "-".join(
        part for part in (stage, getattr(config, "task", ""), config.adapter.method, rank) if part
    )


def configuration(stage: str, arguments: argparse.Namespace, dotted: list[str]) -> StageConfig:
    """The resolved configuration: defaults, preset, file, dotted options, named options. Raises ConfigError."""
    named: dict[str, Any] = {}
    for option, (section, key) in NAMED_OPTIONS.items():
        value = getattr(arguments, option, None)
        if value is not None:
            named.setdefault(section, {})[key] = value
    if named.get("model", {}).get("init_config"):
        named["model"].setdefault("name", "")  # in place of a preset's model
    for key in TOP_LEVEL:
        if getattr(arguments, key, None) is not None:
            named[key] = getattr(arguments, key)
    layers = [preset_layer(arguments.preset, stage, task_key(named.get("task", "")))] if arguments.preset else []
    if arguments.config:
        layers.append(file_layer(arguments.config))
    defaults = stage_defaults(stage)
    return resolve(defaults, *layers, dotted_layer(dotted), named, kind=STAGES[stage])


def stage_defaults(stage: str) -> dict[str, Any]:
    """Defaults of a stage as a layer: where a section's differ from its class, a partial section would lose them."""
    return asdict(STAGES[stage]())


def run_causal_stage(stage: str, arguments: argparse.Namespace, dotted: list[str]) -> int:
    """The body of ``pipeline.sft`` and ``pipeline.dpo``; returns the exit code."""

    def body(arguments: argparse.Namespace) -> int:
        require_extra(f"pipeline.{stage}")
        config = configuration(stage, arguments, dotted)
        from pipeline.lm.engine import Interrupted
        from pipeline.lm.stages import train_stage

        console = make_console()
        arguments.out = arguments.out or default_out(stage, config)
        try:
            result = train_stage(
                stage, config, arguments.out, console, resume=arguments.resume, export_lora=arguments.export_lora
            )
        except Interrupted as error:
            console.print(f"{error}; saved. Go on with the same command and --resume")
            return EXIT_INTERRUPTED
        losses = [(name, result[name]["step"], result[name]["loss"]) for name in ("first", "best", "last")]
        console.print("Held-out loss: " + ", ".join(f"{name} {loss:.4f} (step {step})" for name, step, loss in losses))
        what = "model/" if config.adapter.method == "full" else "adapter/, adapter_best/"
        console.print(f"Wrote {arguments.out}: {what}, metrics.csv, evaluations.csv, results.json, README.md")
        console.print(f"Next: python -m pipeline.mtbench --run {arguments.out} --out ANSWERS")
        return 0

    return run_command(body, arguments, usage_errors=(InputError,), failures=(StageFailed,))
