"""Demo weights: find or fetch the smallest pretrained ESM-2, for the demo and for tests; prints where it is.

python -m pipeline.demo_weights
"""

import argparse
import sys

from data_prep.files.command_line import add_version_option


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.demo_weights",
        description="Find or fetch pretrained weights of ESM-2 8M, as the demo and the tests use them, and print their "
        "path for --esm-weights. Exit code 1: there are none, and the reasons are on stderr.",
    )
    add_version_option(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser().parse_args(argv)

    from rich.console import Console

    from pipeline.folding.demo_weights import find_demo_stem

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    found = find_demo_stem(console)
    if found.path is None:
        for reason in found.reasons:
            console.print(reason)
        return 1
    console.print(found.description)
    print(found.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
