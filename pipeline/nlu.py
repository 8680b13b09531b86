"""Text classification with an adapter: a GLUE task in, scores over seeds and the adapter out.

python -m pipeline.nlu --task rte --model roberta-base --adapter lorta --rank 4 --out RUN
"""

import argparse
import sys
from dataclasses import replace

from pipeline.config.command import EXIT_INTERRUPTED, make_console, run_command
from pipeline.config.schema import ConfigError
from pipeline.lm.command_line import add_stage_options, configuration, default_out, numbers, stage_parser
from pipeline.lm.errors import InputError, StageFailed, require_extra


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = stage_parser(
        "nlu",
        "Fine-tune an encoder on a GLUE task with an adapter and a new head.\n\n"
        "examples:\n"
        "  python -m pipeline.nlu --task rte --model roberta-base --adapter lorta --rank 4 --out RUN\n"
        "  python -m pipeline.nlu --task stsb --data glue --model ./MiniLM --adapter lora --seeds 0 1 2 --out RUN\n"
        "  python -m pipeline.nlu --task mrpc --preset paper-roberta-base --seeds 0 1 2 3 4 --out RUN\n"
        "  python -m pipeline.nlu --task rte --data glue/RTE --init-config tiny-roberta --max-steps 20 --out RUN\n\n"
        "--data is a directory with train.tsv and dev.tsv of GLUE (or of JSONL, Parquet or CSV files with the hub's\n"
        "column names), the directory above it, one file, or a hub name; without it GLUE comes from the hub.\n"
        "RUN/seed_N is the run of a seed; RUN/results.csv and results.md have all seeds, best and last epoch.",
    )
    p.add_argument("--task", required=True, help="cola, sst2, mrpc, stsb, qnli, rte, qqp, mnli, wnli")
    seeds = p.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=numbers, nargs="+", metavar="N", help="one run each, such as 0 1 2 (default 0)")
    seeds.add_argument("--seed", type=int, help="the seed of a single run")
    p.add_argument("--head-lr", type=float, help="peak learning rate of the head")
    add_stage_options(p, "nlu")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, dotted = parser().parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        require_extra("pipeline.nlu")
        config = configuration("nlu", arguments, dotted)
        from pipeline.lm.engine import Interrupted
        from pipeline.lm.seeds import write_seed_tables
        from pipeline.lm.stages import train_stage

        console = make_console()
        seeds = [seed for part in arguments.seeds or [[config.training.seed]] for seed in part]
        arguments.out = arguments.out or default_out("nlu", config)
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"--seeds {' '.join(map(str, seeds))}: the same seed twice")
        results = []
        for seed in seeds:
            one = replace(config, training=replace(config.training, seed=seed))
            try:
                results.append(
                    train_stage(
                        "nlu", one, arguments.out / f"seed_{seed}", console, resume=arguments.resume,
                        export_lora=arguments.export_lora,
                    )
                )  # fmt: skip
            except Interrupted as error:
                console.print(f"{error}; saved. Go on with the same command and --resume")
                return EXIT_INTERRUPTED
            console.print(write_seed_tables(arguments.out, results))
        console.print(
            f"Wrote {arguments.out}: results.csv, results.md, seed_*/ (config.toml, metrics.csv, README.md, ...)"
        )
        console.print("Next: python -m pipeline.lm_compare --help, for tables of methods, ranks and tasks")
        return 0

    return run_command(body, arguments, usage_errors=(InputError,), failures=(StageFailed,))


if __name__ == "__main__":
    sys.exit(main())
