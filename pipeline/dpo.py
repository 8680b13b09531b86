"""Preference optimisation with an adapter: pairs in, an adapted language model out.

python -m pipeline.dpo --model DIR --data pairs.jsonl --adapter lorta --rank 8 --beta 0.1 --out RUN
"""

import argparse
import sys

from pipeline.lm.command import FIELD, run_stage, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = stage_parser(
        "dpo",
        "Tune a causal language model on preference pairs (DPO). The reference is the model with its adapter switched\n"
        "off; the first loss is ln 2, which is checked.\n\n"
        "Pairs have prompt, chosen and rejected, as texts or as messages; or question, chosen, rejected and perhaps\n"
        "system (intel orca); or OpenAI's preference format. Files: JSON, JSONL, Parquet, CSV.",
        "examples:\n"
        "  python -m pipeline.dpo --model DIR --data pairs.jsonl --adapter lorta --rank 8 --beta 0.1 --out RUN\n"
        "  python -m pipeline.dpo --preset paper-orca --rank 16 --out RUN\n"
        "  python -m pipeline.dpo --init-config tiny-llama --data pairs.jsonl --max-steps 50 --out RUN",
    )
    p.add_argument(
        "--beta", dest=f"{FIELD}beta", metavar="BETA", type=float,
        help="strength of the tie to the reference (default 0.1)",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_stage("dpo", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
