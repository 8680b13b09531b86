"""Compare methods, ranks and seeds on language-model stages: a grid in, tables and plots out.

python -m pipeline.lm_compare --grid glue-minilm --model DIR --data glue --out OUT
"""

import argparse
import sys
from pathlib import Path

from data_prep.files.release import add_version_option
from pipeline.config.command import EXIT_FAILED, EXIT_INTERRUPTED, add_resume_option, make_console, run_command
from pipeline.config.layers import dotted_layer, merge
from pipeline.config.schema import ConfigError
from pipeline.lm.command_line import numbers
from pipeline.lm.errors import InputError, StageFailed, require_extra
from pipeline.lm.grid import Grid, cell_row, cells, grid_names, read_grid
from pipeline.lm.settings import STAGES


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.lm_compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Train every cell of a grid of methods x ranks x seeds (x tasks) and tabulate score or loss against\n"
            "trainable parameters.\n\n"
            "examples:\n"
            "  python -m pipeline.lm_compare --grid glue-minilm --model ./MiniLM --data glue --out OUT\n"
            "  python -m pipeline.lm_compare --grid glue-minilm --model ./MiniLM --data glue --out OUT \\\n"
            "      --tasks mrpc rte --methods lora:8 lorta:8,32 --seeds 0 1\n"
            "  python -m pipeline.lm_compare --stage sft --init-config tiny-llama --data alpaca.json --out OUT \\\n"
            "      --methods lora:1,8 lorta:4,8,48 --training.max_steps 200 --optimizer.lr 3e-3\n\n"
            "The same command again goes on where it was interrupted: finished cells are kept, and a cell goes on\n"
            "from its last checkpoint. A cell that fails is listed and does not stop the others (exit 1 at the end).\n"
            "OUT/cells.csv has a row per cell and OUT/table.md the table, both written after every cell;\n"
            "OUT/parameters_*.png and .svg are the plots. OUT/.../seed_N are the runs of pipeline.nlu, .sft and .dpo."
        ),
        epilog=(
            "A grid is a TOML file:\n"
            '  stage = "nlu"                      # nlu, sft or dpo\n'
            '  tasks = ["stsb", "mrpc"]           # nlu only\n'
            "  seeds = [0, 1, 2]\n"
            "  [shared]                           # fields of the stage's configuration, for all cells\n"
            "  training = { max_steps = 400 }\n"
            "  [method.lora]                      # a table per method: its ranks and its own settings\n"
            "  ranks = [8]\n"
            "  optimizer = { lr = 1e-3 }\n\n"
            "Any field of the stage's configuration is an option by its dotted name and holds for all cells:\n"
            "see python -m pipeline.nlu --help (sft, dpo)."
        ),
        allow_abbrev=False,
    )
    add_version_option(p)
    p.add_argument("--out", type=Path, help="directory to write, or to go on with (default: runs/compare-STAGE)")
    add_resume_option(p)
    p.add_argument("--grid", metavar="GRID", help=f"TOML file, or one of {', '.join(grid_names())}")
    p.add_argument("--stage", choices=sorted(STAGES), help="without a grid: what is trained")
    p.add_argument("--methods", nargs="+", metavar="METHOD[:RANK,...]", help="in place of the grid's")
    p.add_argument("--tasks", nargs="+", metavar="TASK")
    p.add_argument("--seeds", nargs="+", type=numbers, metavar="N", help="such as 0 1 2")
    p.add_argument("--model", help="hub name or local directory")
    p.add_argument("--init-config", metavar="FILE", help="an untrained model of this configuration")
    p.add_argument("--data", metavar="SOURCE", help="examples: file, directory or hub name")
    p.add_argument("--list", action="store_true", help="print the cells and what is done of them, train nothing")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, dotted = parser().parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        require_extra("pipeline.lm_compare")
        if bool(arguments.grid) == bool(arguments.stage):
            raise ConfigError("give one of --grid and --stage")
        grid = read_grid(arguments.grid) if arguments.grid else Grid(arguments.stage)
        named = {
            "model": {"name": arguments.model, "init_config": arguments.init_config},
            "data": {"train": arguments.data},
        }
        given = {key: {k: v for k, v in values.items() if v is not None} for key, values in named.items()}
        found = cells(
            grid, merge(dotted_layer(dotted), {key: values for key, values in given.items() if values}),
            methods=arguments.methods or (), tasks=arguments.tasks or (),
            seeds=[seed for part in arguments.seeds or () for seed in part],
        )  # fmt: skip
        console = make_console()
        arguments.out = arguments.out or Path("runs") / f"compare-{grid.stage}"
        from pipeline.lm.comparison import write_comparison
        from pipeline.lm.engine import Interrupted
        from pipeline.lm.run import LanguageRun
        from pipeline.lm.stages import train_stage

        def rows() -> list[dict]:
            listed = []
            for cell in found:
                run, result, failure = LanguageRun(arguments.out / cell.folder), None, failures.get(cell.folder, "")
                try:
                    result = run.results() if run.results_file.is_file() and not failure else None
                except InputError as error:
                    failure = str(error)
                listed.append(cell_row(cell, result, failure))
            return listed

        failures: dict[Path, str] = {}
        title = f"{grid.stage}: {' '.join(['python', '-m', 'pipeline.lm_compare', *(argv or sys.argv[1:])])}"
        if arguments.list:
            for cell, row in zip(found, rows(), strict=True):
                console.print(f"{cell.folder}: {row['status']}")
            return 0
        for number, cell in enumerate(found, 1):
            console.print(f"[{number} of {len(found)}] {cell.folder}")
            try:
                train_stage(grid.stage, cell.config, arguments.out / cell.folder, console, resume=True)
            except Interrupted as error:
                console.print(f"{error}; saved. Go on with the same command.")
                return EXIT_INTERRUPTED
            except (StageFailed, ConfigError, InputError) as error:
                failures[cell.folder] = str(error)
                console.print(f"failed: {error}")
            names = write_comparison(arguments.out, rows(), title, plots=number == len(found))
        console.print(f"Wrote {arguments.out}: {', '.join(names)}")
        if failures:
            console.print(f"{len(failures)} of {len(found)} cells failed; the same command tries them again")
        return EXIT_FAILED if failures else 0

    return run_command(body, arguments, usage_errors=(InputError,), failures=(StageFailed,))


if __name__ == "__main__":
    sys.exit(main())
