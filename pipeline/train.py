"""Train: a dataset in, a run directory out.

python -m pipeline.train --data DATASET --out RUN --esm esm2_t12_35M --adapter lorta --rank 8
"""

import sys

from data_prep.files.command_line import run_command
from pipeline.training.options import parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = parser()
    arguments, dotted = p.parse_known_args(argv)
    if not arguments.dry_run and not (arguments.data and arguments.out):
        p.error("--data and --out are needed (or --dry-run)")

    from pipeline.config.progress import Clock

    clock, words = Clock(arguments.max_minutes), sys.argv[1:] if argv is None else argv

    from pipeline.training import command

    return run_command(lambda given: command.run(given, dotted, words, clock), arguments)


if __name__ == "__main__":
    sys.exit(main())
