"""Instruction tuning with an adapter: examples in, an adapted language model out.

python -m pipeline.sft --model meta-llama/Llama-2-7b-hf --data alpaca.json --adapter lorta --rank 48 --out RUN
"""

import argparse
import sys

from pipeline.lm.command import FIELD, run_stage, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = stage_parser(
        "sft",
        "Tune a causal language model on instructions.\n\n"
        "Examples have instruction, input and output (Alpaca); or prompt and completion; or messages (the last answer\n"
        "is the completion); or text. Files: JSON, JSONL, Parquet, CSV.",
        "examples:\n"
        "  python -m pipeline.sft --model meta-llama/Llama-2-7b-hf --data alpaca.json --rank 48 --out RUN\n"
        "  python -m pipeline.sft --preset paper-alpaca --rank 96 --out RUN\n"
        "  python -m pipeline.sft --init-config tiny-llama --data alpaca.json --max-steps 50 --out RUN\n"
        "  python -m pipeline.sft --model DIR --data chats.jsonl --loss-on all --four-bit --out RUN",
    )
    p.add_argument(
        "--loss-on", dest=f"{FIELD}loss_on", choices=["completion", "all"],
        help="tokens that the loss counts (default completion)",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_stage("sft", parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
