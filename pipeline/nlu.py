"""Text classification with an adapter: a GLUE task in, scores over seeds and the adapter out.

python -m pipeline.nlu --task rte --model roberta-base --adapter lorta --rank 4 --out RUN
"""

import argparse
import sys

from pipeline.lm.command import FIELD, run_stage, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = stage_parser(
        "nlu",
        "Fine-tune an encoder on a GLUE task with an adapter and a new head.\n\n"
        "--data is a directory with train.tsv and dev.tsv of GLUE (or of JSONL, Parquet or CSV files with the hub's\n"
        "column names), the directory above it, one file, or a hub name; without it GLUE comes from the hub.\n"
        "RUN/seed_N is the run of a seed; RUN/results.csv and results.md have all seeds, best and last epoch.",
        "examples:\n"
        "  python -m pipeline.nlu --task rte --model roberta-base --adapter lorta --rank 4 --out RUN\n"
        "  python -m pipeline.nlu --task stsb --data glue --model ./MiniLM --adapter lora --seeds 0 1 2 --out RUN\n"
        "  python -m pipeline.nlu --task mrpc --preset paper-roberta-base --seeds 0 1 2 3 4 --out RUN\n"
        "  python -m pipeline.nlu --task rte --data glue/RTE --init-config tiny-roberta --max-steps 20 --out RUN",
    )
    p.add_argument(
        "--task",
        dest=f"{FIELD}task",
        metavar="TASK",
        required=True,
        help="cola, sst2, mrpc, stsb, qnli, rte, qqp, mnli, wnli",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_stage("nlu", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
