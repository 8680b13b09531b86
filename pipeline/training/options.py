"""The command line of a training run: short names of fields of the configuration, and each field by its dotted name.

Nothing here needs torch: the help is there at once.
"""

import argparse
import math
from pathlib import Path

from data_prep.files.command_line import CommandParser, renamed_option
from pipeline.config.bundled import bundled_names

NAMED_OPTIONS = {
    "esm": "stem.name",
    "esm_weights": "stem.weights",
    "esm_init": "stem.init",
    "init_from": "init.weights",
    "adapter": "adapter.method",
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "trunk_adapter": "trunk_adapter.method",
    "trunk_rank": "trunk_adapter.rank",
    "max_steps": "training.max_steps",
    "batch_size": "data.batch_size",
    "lr": "optimizer.lr",
    "warmup_steps": "optimizer.warmup_steps",
    "validate_every": "training.validate_every",
    "checkpoint_every": "training.checkpoint_every",
    "seed": "training.seed",
    "device": "training.device",
    "precision": "training.precision",
    "overfit": "data.overfit",
}
"""Options that are short for a field of the configuration."""

COMMON = (
    *("--data", "--out", "--resume", "--dry-run", "--preset", "--config", "--esm", "--esm-weights", "--init-from"),
    *("--adapter", "--rank", "--max-steps", "--batch-size", "--lr", "--seed", "--device"),
)
"""Options of the short help."""

DESCRIPTION = """\
Train a folding trunk over an adapted ESM-2 stem.

Any field of the configuration is an option by its dotted name, as --trunk.blocks 8: --help-all lists them."""

EXAMPLES = """\
examples:
  python -m pipeline.train --data DATASET --out RUN --esm esm2_t12_35M --adapter lorta --rank 8
  python -m pipeline.train --data DATASET --out RUN --preset tiny --seed 1
  python -m pipeline.train --data DATASET --out RUN --resume --max-minutes 480
  python -m pipeline.train --dry-run --preset esmfold --batch-size 1
  python -m pipeline.train --data DATASET --out RUN --preset paper --trunk.blocks 8 --lr 5e-4
  python -m pipeline.train --data DATASET --out RUN --init-from esmfold_v1 --adapter lorta --trunk-adapter lorta
  torchrun --nproc-per-node 8 --max-restarts 3 -m pipeline.train --data DATASET --out RUN --preset paper
"""


def parser() -> CommandParser:
    """The command line."""
    p = CommandParser(
        "pipeline.train", DESCRIPTION, common=COMMON, examples=EXAMPLES, details=_fields, allow_abbrev=False
    )
    presets = ", ".join(bundled_names("pipeline", "presets", ".toml"))
    p.add_argument("--data", type=Path, help="dataset directory of pipeline.prepare")
    p.add_argument("--out", type=Path, help="run directory to write")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="say parameters, memory and time: from the shapes, and from some steps at the largest crop on --device if "
        "they fit; writes nothing, needs no weights, --data or --out",
    )
    p.add_argument("--preset", metavar="NAME", help=f"starting values: {presets}")
    p.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration file, over the preset")
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run if --out holds one, with its own configuration, else start it: one command for a job "
        "that may be started again; options may be left out or given again, and what would be another run is refused",
    )
    p.add_argument(
        "--max-minutes",
        type=_minutes,
        metavar="N",
        help="end after so many minutes of this command, saved and with exit code 0; --resume goes on",
    )
    p.add_argument("--esm", metavar="NAME", help="stem: esm2_t6_8M to esm2_t48_15B, with or without _UR50D")
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
    p.add_argument(
        "--adapter",
        metavar="METHOD",
        help="how the stem is adapted: none, full, lorta (default), lora, vera ... (docs/adapters.md)",
    )
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--alpha", type=_alpha, help="scale of the adapter times its rank: a number, default or paper")
    p.add_argument(
        "--trunk-adapter",
        metavar="METHOD",
        help="how the trunk is: full (default) trains it, none freezes it, or lorta, lora ... as for the stem",
    )
    p.add_argument("--trunk-rank", type=int, metavar="RANK", help="rank of the trunk's adapter")
    p.add_argument("--max-steps", type=int, help="optimizer steps")
    p.add_argument("--batch-size", type=int, metavar="N", help="chains in a step, over all processes")
    p.add_argument("--lr", type=float, help="peak learning rate of the trunk (--optimizer.stem_lr: of the adapter)")
    p.add_argument("--warmup-steps", type=int, metavar="N", help="steps over which the learning rate grows to its peak")
    p.add_argument("--validate-every", type=int, metavar="STEPS")
    p.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    p.add_argument("--seed", type=int)
    p.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--precision", choices=["fp32", "bf16"])
    p.add_argument("--overfit", type=int, metavar="N", help="train and validate on the first N training chains alone")
    renamed_option(p, "--auto-resume", "--resume")
    return p


def _fields() -> str:
    from pipeline.config.layers import describe_fields

    return "fields of the configuration and their defaults:\n" + describe_fields()


def _alpha(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # "default" or "paper"; the configuration says what it can be


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of minutes above 0 expected")
    return minutes
