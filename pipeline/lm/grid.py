"""A grid of methods, ranks, tasks and seeds: cells with a configuration each, and their results as rows."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.config.layers import file_layer, resolve
from pipeline.config.schema import ConfigError, Strict
from pipeline.lm.glue import find_task, task_key
from pipeline.lm.settings import STAGES, StageConfig


@dataclass(frozen=True)
class Grid(Strict):
    """What a grid file holds."""

    stage: Literal[tuple(STAGES)]
    tasks: tuple[str, ...] = ()
    """Of nlu alone."""
    seeds: tuple[int, ...] = (0,)
    shared: dict[str, Any] = field(default_factory=dict)
    """Fields of the stage's configuration, for all cells."""
    method: dict[str, dict[str, Any]] = field(default_factory=dict)
    """A table per method: its ``ranks`` and its own fields."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    config: StageConfig
    folder: Path
    """Relative to the directory of the grid."""


def grid_names() -> list[str]:
    """Names of the grids that come with the package."""
    return bundled_names("pipeline.lm", "grids", ".toml")


def read_grid(name: str) -> Grid:
    """A grid by name, or from a TOML file. Raises ConfigError."""
    if name in grid_names():
        values = tomllib.loads(bundled_text("pipeline.lm", "grids", f"{name}.toml"))
    elif name.endswith(".toml"):
        values = file_layer(Path(name))
    else:
        raise ConfigError(f"grid {name!r} is unknown: a TOML file, or one of {', '.join(grid_names())}")
    try:
        return resolve(values, kind=Grid)
    except ConfigError as error:
        raise ConfigError(f"grid {name}: {str(error).removeprefix('configuration: ')}") from error


def parse_method(text: str) -> tuple[str, list[int] | None]:
    """``lorta:4,8`` as a name and ranks; without ranks ``None``. Raises ConfigError."""
    name, colon, ranks = text.partition(":")
    try:
        return name, [int(rank) for rank in ranks.split(",")] if colon else None
    except ValueError:
        raise ConfigError(f"method {text!r}: METHOD or METHOD:RANK,RANK,... expected, such as lorta:4,8") from None


def cells(
    grid: Grid,
    over: dict[str, Any],
    *,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Cell]:
    """The cells, task by task and method by method.

    Args:
        grid: as read.
        over: layer over every cell, from the command line.
        methods: as ``parse_method`` reads them; empty: those of the grid with their ranks.
        tasks, seeds: empty: those of the grid.

    Raises:
        ConfigError: a method, a task or a setting is wrong; there are no cells, or one twice.
    """
    chosen = [parse_method(text) for text in methods] or [(name, None) for name in grid.method]
    if not chosen:
        raise ConfigError("no methods: --methods lora:8 lorta:4,8, or a grid that has some")
    wanted = tuple(tasks) or grid.tasks
    if grid.stage == "nlu" and not wanted:
        raise ConfigError("no tasks: --tasks stsb mrpc, or a grid that has some")
    if grid.stage != "nlu" and wanted:
        raise ConfigError(f"tasks {', '.join(wanted)}: they are nlu's, {grid.stage} has none")
    for name in wanted:
        find_task(name)
    kind = STAGES[grid.stage]
    found: dict[Path, Cell] = {}
    for task in [task_key(name) for name in wanted] or [""]:
        for method, ranks in chosen:
            table = dict(grid.method.get(method, {}))
            own_ranks = table.pop("ranks", [0])
            if not isinstance(own_ranks, list):
                raise ConfigError(f"grid: method.{method}.ranks = {own_ranks!r}: a list of ranks expected")
            for rank in own_ranks if ranks is None else ranks:
                for seed in seeds or grid.seeds:
                    fixed = {"adapter": {"method": method, "rank": rank}, "training": {"seed": seed}}
                    if task:
                        fixed["task"] = task
                    config = resolve(asdict(kind()), grid.shared, table, over, fixed, kind=kind)
                    label = f"{method}-r{rank}" if rank else method
                    cell = Cell(config, Path(task) / label / f"seed_{seed}")
                    if cell.folder in found:
                        raise ConfigError(f"the grid has the cell {cell.folder} twice")
                    found[cell.folder] = cell
    if not found:
        raise ConfigError("the grid has no cells: a list of ranks or of seeds is empty")
    return list(found.values())


def cell_row(cell: Cell, result: dict[str, Any] | None, failure: str = "") -> dict[str, Any]:
    """The row of ``cells.csv``; without a result: why it has none."""
    row: dict[str, Any] = {
        "task": getattr(cell.config, "task", ""),
        "method": cell.config.adapter.method,
        "rank": cell.config.adapter.rank or "",
        "seed": cell.config.training.seed,
        "status": "done" if result else failure or "not run yet",
    }
    if result is None:
        return row
    metric = result["metric"]
    return row | {
        "adapter_parameters": result["parameters"]["adapter"],
        "head_parameters": result["parameters"]["head"],
        "metric": metric,
        "best": round(result["best"][metric], 5),
        "best_step": result["best"]["step"],
        "last": round(result["last"][metric], 5),
        "last_step": result["last"]["step"],
        "train_seconds": result["train_seconds"],
        "version": result["versions"]["lorta-fold"],
        "lr": cell.config.optimizer.lr,
        "head_lr": cell.config.optimizer.head_lr or cell.config.optimizer.lr,
    }
