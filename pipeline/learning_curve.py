"""Learning curve: is fine-tuning worth it with the structures you have, and what would more of them bring?

python -m pipeline.learning_curve --data DATASET --sizes 4 8 16 28 --adapters none,lorta:8,full --out CURVE
"""

import argparse
import sys
from pathlib import Path

from pipeline.comparison.options import add_options

ADAPTERS = "none,lorta:8,lora:8,full"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.learning_curve",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train on more and more of the training chains, and say at each size whether it was worth it.\n\n"
            "Sizes are drawn over clusters, smaller draws are parts of larger ones, and every seed has its own draw.\n"
            "Held-out chains are the same for all. Each size is compared with a straight helix, a copy of the nearest\n"
            "chain of the draw and, with --init-from, the model before training. The same command again goes on.\n"
            "Each run is what pipeline.train makes with --seed S --data.train_size N --data.train_draw S.\n\n"
            "examples:\n"
            "  python -m pipeline.learning_curve --data DATASET --sizes 4 8 16 28 --out CURVE --preset family\n"
            "  python -m pipeline.learning_curve --data DATASET --sizes 8 28 --out CURVE --init-from RUN "
            "--forgetting OTHERS"
        ),
        epilog="All other options are those of pipeline.train, for all runs: --preset, --config, --trunk.blocks ...",
        allow_abbrev=False,
    )
    add_options(p, ADAPTERS)
    p.add_argument("--sizes", type=int, nargs="+", required=True, metavar="N", help="numbers of training chains")
    p.add_argument("--init-from", default="", metavar="MODEL", help="a whole model to start from, as in pipeline.train")
    p.add_argument(
        "--forgetting",
        type=Path,
        metavar="DATASET",
        help="forgetting set: chains that are scored before and after training, to see what is lost",
    )
    p.add_argument("--dry-run", action="store_true", help="say what the runs will take, and end")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, options = parser().parse_known_args(argv)

    from pipeline.comparison import curve_command

    return curve_command.run(arguments, options)


if __name__ == "__main__":
    sys.exit(main())
