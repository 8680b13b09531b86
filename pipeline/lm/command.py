"""The commands ``nlu``, ``sft`` and ``dpo``: their options, and the way from these to runs.

Importing this loads neither torch nor a library of Hugging Face's: ``--help`` is there at once.
"""

import argparse
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.files.command_line import EXIT_INTERRUPTED, CommandParser, renamed_option, run_command
from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.lm.errors import InputError, require_extra

if TYPE_CHECKING:
    from pipeline.lm.settings import StageConfig

FIELD = "field."
"""Before the name of a field of the configuration in what the parser stores for its option."""

FIELD_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--model": ("model.name", {"help": "hub name or local directory"}),
    "--init-config": (
        "model.init_config",
        {"metavar": "FILE", "help": "an untrained model of this config.json, or tiny-llama, tiny-roberta"},
    ),
    "--four-bit": (
        "model.four_bit",
        {"action": "store_const", "const": True, "help": "frozen weights in 4 bits (needs bitsandbytes)"},
    ),
    "--data": ("data.train", {"metavar": "SOURCE", "help": "training examples: file, directory or hub name"}),
    "--validation": ("data.validation", {"metavar": "FILE", "help": "held-out examples"}),
    "--adapter": ("adapter.method", {"metavar": "METHOD", "help": "how the model is adapted (default lorta)"}),
    "--rank": ("adapter.rank", {"type": int, "help": "rank of the adapter"}),
    "--alpha": ("adapter.alpha", {"type": float, "help": "scale of the update is alpha / rank"}),
    "--lr": ("optimizer.lr", {"type": float, "help": "peak learning rate of the adapter"}),
    "--head-lr": ("optimizer.head_lr", {"type": float, "help": "peak learning rate of a classification head"}),
    "--warmup-steps": (
        "optimizer.warmup",
        {"type": float, "metavar": "N", "help": "steps of warm-up; below 1: their share of all steps (default 0.06)"},
    ),
    "--epochs": ("training.epochs", {"type": float, "help": "passes over the training examples (default 1)"}),
    "--max-steps": ("training.max_steps", {"type": int, "help": "optimizer steps, in place of epochs"}),
    "--batch-size": ("training.batch_size", {"type": int, "help": "examples per optimizer step (default 16)"}),
    "--validate-every": (
        "training.evaluate_every",
        {"type": int, "metavar": "N", "help": "steps between evaluations (default: after every epoch)"},
    ),
    "--device": ("training.device", {"help": "auto, cpu, cuda, mps"}),
}
"""Options that are short for a field of the configuration, and what argparse makes of them."""

PER_CELL = ("--adapter", "--rank")
"""Those that a grid sets itself, cell by cell."""

COMMON = (
    *("--out", "--resume", "--task", "--model", "--init-config", "--data", "--validation", "--adapter", "--rank"),
    *("--lr", "--epochs", "--batch-size", "--seeds", "--loss-on", "--beta", "--preset", "--config"),
)
"""Options of the short help."""

METHODS_HELP = """\
Methods of --adapter: full, head (nlu), bitfit, houlsby, pfeiffer, adapterdrop, lora, lora-fa, adalora, dora, vera,
nola, lotr, loretta-adp, loretta-rep, lorta and the others of docs/adapters.md.
LoRTA per layer: --adapter.settings.modes '["heads", "matrices"]', per matrix: '["heads"]'.
"""


def stage_parser(stage: str, description: str, examples: str) -> CommandParser:
    """The parser of a stage; its long help has every field of the configuration."""

    def details() -> str:
        from pipeline.config.layers import describe_fields
        from pipeline.lm.settings import STAGES

        fields = describe_fields(STAGES[stage])
        return f"{METHODS_HELP}\nAny field of the configuration is an option by its dotted name:\n{fields}"

    p = CommandParser(
        f"pipeline.{stage}", description, common=COMMON, examples=examples, details=details, allow_abbrev=False
    )
    names = bundled_names("pipeline.lm", "presets", ".toml")
    presets = [name for name in names if stage_of_preset(name) == stage]
    p.add_argument("--out", type=Path, help="directory to write (default: runs/, named for stage, task, method, rank)")
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run if --out holds one, else start it; the same options again are fine, others are not",
    )
    p.add_argument("--preset", metavar="NAME", help=f"starting values: {', '.join(presets)}")
    p.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration file, over the preset")
    add_field_options(p)
    p.add_argument("--seeds", type=seed_numbers, nargs="+", metavar="N", help="one run each, such as 0 1 2 (default 0)")
    renamed_option(p, "--seed", "--seeds")
    p.add_argument("--export-lora", action="store_true", help="also write the adapter as plain PEFT LoRA, to RUN/lora")
    return p


def stage_of_preset(name: str) -> str:
    """``nlu``, ``sft`` or ``dpo``, of a preset that comes with the package."""
    return tomllib.loads(bundled_text("pipeline.lm", "presets", f"{name}.toml"))["stage"]


def add_field_options(p: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add the options that are short for a field of the configuration."""
    for option, (field, settings) in FIELD_OPTIONS.items():
        if option not in without:
            name = {} if "action" in settings else {"metavar": option[2:].upper().replace("-", "_")}
            p.add_argument(option, dest=FIELD + field, **(name | settings))


def field_layer(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of these options as a layer of the configuration."""
    layer: dict[str, Any] = {}
    for name, value in vars(arguments).items():
        if name.startswith(FIELD) and value is not None:
            *sections, key = name.removeprefix(FIELD).split(".")
            (layer.setdefault(sections[0], {}) if sections else layer)[key] = value
    return layer


def seed_numbers(text: str) -> list[int]:
    """Seeds such as ``0`` or ``0,1,2``, for argparse."""
    if not all(part.isdecimal() and int(part) < 2**32 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 0 to 4294967295 expected, such as 0 1 2")
    return [int(part) for part in text.split(",")]


def chosen_seeds(given: list[list[int]] | None) -> list[int]:
    """The seeds of ``--seeds``; none where it was not given."""
    return [seed for part in given or () for seed in part]


def configuration(stage: str, arguments: argparse.Namespace, dotted: list[str]) -> "StageConfig":
    """The resolved configuration: defaults, preset, file, dotted options, named options. Raises ConfigError."""
    from pipeline.config.layers import dotted_layer, file_layer, resolve
    from pipeline.lm.glue import task_key
    from pipeline.lm.settings import STAGES, preset_layer

    named = field_layer(arguments)
    if named.get("model", {}).get("init_config"):
        named["model"].setdefault("name", "")  # in place of a preset's model
    # A section whose defaults differ from those of its class would lose them where a layer sets a part of it.
    layers = [asdict(STAGES[stage]())]
    if arguments.preset:
        layers.append(preset_layer(arguments.preset, stage, task_key(named.get("task", ""))))
    if arguments.config:
        layers.append(file_layer(arguments.config))
    return resolve(*layers, dotted_layer(dotted), named, kind=STAGES[stage])


def default_out(stage: str, config: "StageConfig") -> Path:
    """``runs/nlu-rte-lorta-r4`` and the like."""
    rank = f"r{config.adapter.rank}" if config.adapter.rank else ""
    return Path("runs") / "-".join(
        part for part in (stage, getattr(config, "task", ""), config.adapter.method, rank) if part
    )


def run_stage(stage: str, p: argparse.ArgumentParser, argv: list[str] | None) -> int:
    """Run the command of a stage; return the exit code.

    ``nlu`` puts the run of a seed into ``seed_N`` and writes a table of all; so do the others with several seeds.
    """
    arguments, dotted = p.parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        require_extra(f"pipeline.{stage}")
        config = configuration(stage, arguments, dotted)
        seeds = chosen_seeds(arguments.seeds) or [config.training.seed]
        if len(set(seeds)) < len(seeds):
            raise InputError(f"--seeds {' '.join(map(str, seeds))}: the same seed twice")
        from pipeline.config.command import make_console
        from pipeline.lm.engine import Interrupted
        from pipeline.lm.results import write_seed_tables
        from pipeline.lm.stages import train_stage

        console, out = make_console(), arguments.out or default_out(stage, config)
        several = stage == "nlu" or len(seeds) > 1
        results: list[dict[str, Any]] = []
        try:
            for seed in seeds:
                one = replace(config, training=replace(config.training, seed=seed))
                folder = out / f"seed_{seed}" if several else out
                results.append(
                    train_stage(stage, one, folder, console, resume=arguments.resume, export_lora=arguments.export_lora)
                )
                if several:
                    console.print(write_seed_tables(out, results))
        except Interrupted as error:
            console.print(f"{error}; saved. Go on with the same command and --resume")
            return EXIT_INTERRUPTED
        if stage != "nlu":
            rows = [(name, results[-1][name]) for name in ("first", "best", "last")]
            losses = ", ".join(f"{name} {row['loss']:.4f} (step {row['step']})" for name, row in rows)
            console.print(f"Held-out loss: {losses}")
        if several:
            console.print(f"Wrote {out}: results.csv, results.md, seed_*/ (config.toml, metrics.csv, README.md, ...)")
        else:
            what = "model/" if config.adapter.method == "full" else "adapter/, adapter_best/"
            console.print(f"Wrote {out}: {what}, metrics.csv, evaluations.csv, results.json, README.md")
        if stage == "nlu":
            console.print("Next: python -m pipeline.lm_compare --help, for tables of methods, ranks and tasks")
        else:
            console.print(f"Next: python -m pipeline.mtbench --run {folder} --out ANSWERS")
        return 0

    return run_command(body, arguments)
