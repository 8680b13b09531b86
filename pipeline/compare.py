"""Compare: adapters on one dataset, several seeds each, with error bars; or find the alpha of each.

python -m pipeline.compare --data DATASET --adapters none,lora:1,lorta:8,full --seeds 0 1 2 --out COMPARISON
"""

import argparse
import sys

from pipeline.comparison.options import add_options

ADAPTERS = "none,lora:1,lorta:1,lorta:8,lorta:64,full"
PAIRS = 5
"""Of alphas that are tried at most, down to half of the rank."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train one model per adapter and seed, and compare them target by target.\n\n"
            "Runs of one seed see the same chains and crops in the same order and start from the same trunk. A run\n"
            "that is done is not repeated, one that was interrupted goes on: give the same command again. Adapters\n"
            "and seeds may be added to a comparison; other options are refused.\n\n"
            "examples:\n"
            "  python -m pipeline.compare --data DATASET --out COMPARISON --preset tiny --max-steps 400\n"
            "  python -m pipeline.compare --data DATASET --out COMPARISON --adapters none,lorta:8:256 --seeds 0 1 2 3\n"
            "  python -m pipeline.compare --data DATASET --out COMPARISON --adapters lorta:8 --sweep-alpha"
        ),
        epilog="All other options are those of pipeline.train, for all runs: --preset, --config, --trunk.blocks ...",
        allow_abbrev=False,
    )
    add_options(p, ADAPTERS)
    p.add_argument(
        "--sweep-alpha",
        type=int,
        nargs="?",
        const=PAIRS,
        metavar="PAIRS",
        help="find the alpha of each adapter instead, with the first seed, as the LoRTA paper does: try 256 and 128 "
        "times the rank, halve both twice while neither converges, and take the better one of the first pair in which "
        f"one does, of PAIRS at most (default: {PAIRS})",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, options = parser().parse_known_args(argv)

    from pipeline.comparison import command

    return command.run(arguments, options)


if __name__ == "__main__":
    sys.exit(main())
