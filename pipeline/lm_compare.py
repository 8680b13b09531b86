"""Compare methods, ranks and seeds on language-model stages: a grid in, tables and plots out.

python -m pipeline.lm_compare --grid glue-minilm --model DIR --data glue --out OUT
"""

import argparse
import sys
from pathlib import Path

from data_prep.files.command_line import EXIT_FAILED, EXIT_INTERRUPTED, CommandParser, renamed_option, run_command
from data_prep.files.errors import UserError
from pipeline.config.bundled import bundled_names
from pipeline.lm.command import PER_CELL, add_field_options, chosen_seeds, field_layer, seed_numbers
from pipeline.lm.errors import InputError, require_extra

EXAMPLES = """\
examples:
  python -m pipeline.lm_compare --grid glue-minilm --model ./MiniLM --data glue --out OUT
  python -m pipeline.lm_compare --grid glue-minilm --model ./MiniLM --data glue --out OUT \\
      --tasks mrpc rte --adapters lora:8,lorta:8,lorta:32 --seeds 0 1
  python -m pipeline.lm_compare --stage sft --init-config tiny-llama --data alpaca.json --out OUT \\
      --adapters lora:1,lora:8,lorta:48 --max-steps 200 --lr 3e-3"""

GRID_HELP = """\
A grid is a TOML file:
  stage = "nlu"                      # nlu, sft or dpo
  tasks = ["stsb", "mrpc"]           # nlu only
  seeds = [0, 1, 2]
  [shared]                           # fields of the stage's configuration, for all cells
  training = { max_steps = 400 }
  [method.lora]                      # a table per method: its ranks and its own settings
  ranks = [8]
  optimizer = { lr = 1e-3 }

Any field of the stage's configuration is an option by its dotted name and holds for all cells: see
python -m pipeline.nlu --help-all (sft, dpo)."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = CommandParser(
        "pipeline.lm_compare",
        "Train every cell of a grid of methods x ranks x seeds (x tasks) and tabulate score or loss against\n"
        "trainable parameters.\n\n"
        "The same command again goes on where it was interrupted: finished cells are kept, and a cell goes on\n"
        "from its last checkpoint. A cell that fails is listed and does not stop the others (exit 1 at the end).\n"
        "OUT/cells.csv has a row per cell and OUT/table.md the table, both written after every cell;\n"
        "OUT/parameters_*.png and .svg are the plots. OUT/.../seed_N are the runs of pipeline.nlu, .sft and .dpo.",
        common=("--out", "--resume", "--grid", "--stage", "--adapters", "--tasks", "--seeds", "--model", "--data"),
        examples=EXAMPLES,
        details=lambda: GRID_HELP,
        allow_abbrev=False,
    )
    grids = bundled_names("pipeline.lm", "grids", ".toml")
    p.add_argument("--out", type=Path, help="directory to write, or to go on with (default: runs/compare-STAGE)")
    p.add_argument("--resume", action="store_true", help="go on with what is in --out, as it does without it too")
    p.add_argument("--grid", metavar="GRID", help=f"TOML file, or one of {', '.join(grids)}")
    p.add_argument("--stage", choices=["dpo", "nlu", "sft"], help="without a grid: what is trained")
    p.add_argument(
        "--adapters", nargs="+", metavar="METHOD[:RANK]", help="in place of the grid's, such as lora:8,lorta:4,lorta:8"
    )
    renamed_option(p, "--methods", "--adapters")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="in place of the grid's (nlu)")
    p.add_argument("--seeds", nargs="+", type=seed_numbers, metavar="N", help="such as 0 1 2")
    add_field_options(p, without=PER_CELL)
    p.add_argument("--list", action="store_true", help="print the cells and what is done of them, train nothing")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments, dotted = parser().parse_known_args(argv)

    def body(arguments: argparse.Namespace) -> int:
        require_extra("pipeline.lm_compare")
        if bool(arguments.grid) == bool(arguments.stage):
            raise InputError("give one of --grid and --stage")
        from pipeline.config.command import make_console
        from pipeline.config.layers import dotted_layer, merge
        from pipeline.lm.engine import Interrupted
        from pipeline.lm.grid import Grid, cell_row, cells, read_grid, write_comparison
        from pipeline.lm.run import LanguageRun
        from pipeline.lm.stages import train_stage

        grid = read_grid(arguments.grid) if arguments.grid else Grid(arguments.stage)
        found = cells(
            grid, merge(dotted_layer(dotted), field_layer(arguments)),
            adapters=arguments.adapters or (), tasks=arguments.tasks or (), seeds=chosen_seeds(arguments.seeds),
        )  # fmt: skip
        console, out = make_console(), arguments.out or Path("runs") / f"compare-{grid.stage}"
        failures: dict[Path, str] = {}

        def rows() -> list[dict]:
            listed = []
            for cell in found:
                run, result, failure = LanguageRun(out / cell.folder), None, failures.get(cell.folder, "")
                try:
                    result = run.results() if run.results_file.is_file() and not failure else None
                except InputError as error:
                    failure = str(error)
                listed.append(cell_row(cell, result, failure))
            return listed

        title = f"{grid.stage}: {' '.join(['python', '-m', 'pipeline.lm_compare', *(argv or sys.argv[1:])])}"
        if arguments.list:
            for cell, row in zip(found, rows(), strict=True):
                console.print(f"{cell.folder}: {row['status']}")
            return 0
        for number, cell in enumerate(found, 1):
            console.print(f"[{number} of {len(found)}] {cell.folder}")
            try:
                train_stage(grid.stage, cell.config, out / cell.folder, console, resume=True)
            except Interrupted as error:
                console.print(f"{error}; saved. Go on with the same command.")
                return EXIT_INTERRUPTED
            except UserError as error:
                failures[cell.folder] = str(error)
                console.print(f"failed: {error}")
            names = write_comparison(out, rows(), title, plots=number == len(found))
        console.print(f"Wrote {out}: {', '.join(names)}")
        if failures:
            console.print(f"{len(failures)} of {len(found)} cells failed; the same command tries them again")
        return EXIT_FAILED if failures else 0

    return run_command(body, arguments)


if __name__ == "__main__":
    sys.exit(main())
