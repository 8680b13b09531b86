"""A grid of methods, ranks, tasks and seeds: cells with a configuration each, and their results as rows."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from data_prep.file_names import is_file_name
from pipeline.config import ConfigError, file_layer, resolve
from pipeline.lm.settings import STAGES, StageConfig

GRID_KEYS = ("stage", "tasks", "seeds", "shared", "method")


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    config: StageConfig
    folder: Path
    """Relative to the directory of the grid."""

    @property
    def name(self) -> str:
        """Method and rank, as in the tables."""
        adapter = self.config.adapter
        return f"{adapter.method} r={adapter.rank}" if adapter.rank else adapter.method


def grid_names() -> list[str]:
    """Names of the grids that come with the package."""
    folder = resources.files("pipeline.lm") / "grids"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_grid(name: str) -> dict[str, Any]:
    """A grid by name, or from a TOML file. Raises ConfigError."""
    if name in grid_names():
        grid = tomllib.loads((resources.files("pipeline.lm") / "grids" / f"{name}.toml").read_text())
    elif name.endswith(".toml"):
        grid = file_layer(Path(name))
    else:
        raise ConfigError(f"grid {name!r} is unknown: a TOML file, or one of {', '.join(grid_names())}")
    unknown = sorted(set(grid) - set(GRID_KEYS))
    if unknown:
        raise ConfigError(f"grid {name}: unknown key {unknown[0]!r}; known: {', '.join(GRID_KEYS)}")
    return grid


def parse_method(text: str) -> tuple[str, list[int] | None]:
    """``lorta:4,8`` as a name and ranks; without ranks ``None``. Raises ConfigError."""
    name, colon, ranks = text.partition(":")
    try:
        return name, [int(rank) for rank in ranks.split(",")] if colon else None
    except ValueError:
        raise ConfigError(f"method {text!r}: METHOD or METHOD:RANK,RANK,... expected, such as lorta:4,8") from None


def cells(
    grid: dict[str, Any],
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
        ConfigError: the stage, a method or a setting is wrong.
    """
    stage = grid.get("stage")
    if stage not in STAGES:
        raise ConfigError(f"a grid needs a stage, one of {', '.join(STAGES)}; found {stage!r}")
    tables = grid.get("method", {})
    chosen = [parse_method(text) for text in methods] or [(name, None) for name in tables]
    if not chosen:
        raise ConfigError("no methods: --methods lora:8 lorta:4,8, or a grid that has some")
    defaults = STAGES[stage]()
    all_tasks = (tasks or grid.get("tasks", ())) if stage == "nlu" else ("",)
    if not all_tasks:
        raise ConfigError("no tasks: --tasks stsb mrpc, or a grid that has some")
    found = []
    for task in all_tasks:
        for method, ranks in chosen:
            table = dict(tables.get(method, {}))
            own_ranks = table.pop("ranks", [0])
            for rank in ranks or own_ranks:
                for seed in seeds or grid.get("seeds", [0]):
                    fixed = {"adapter": {"method": method, "rank": rank}, "training": {"seed": seed}}
                    if task:
                        fixed["task"] = task
                    layers = (asdict(defaults), grid.get("shared", {}), table, over, fixed)
                    config = resolve(*layers, kind=STAGES[stage])
                    label = f"{method}-r{rank}" if rank else method
                    for name in filter(None, (task, label)):  # a grid may come from somewhere else
                        if not is_file_name(name):
                            raise ConfigError(f"{name!r} is no name of a task or method")
                    found.append(Cell(config, Path(task) / label / f"seed_{seed}"))
    return found


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
        "lr": cell.config.optimizer.lr,
        "head_lr": cell.config.optimizer.head_lr or cell.config.optimizer.lr,
    }
