"""A grid of methods, ranks, tasks and seeds: its cells, and their results as a table and plots.

Table and plots have the shapes of the LoRTA paper's Table 1 and Figures 2 and 4.
"""

import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.files.atomic import write_text
from data_prep.files.command_line import program
from data_prep.pages import Plot
from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.config.layers import file_layer, resolve
from pipeline.config.schema import ConfigError, Strict
from pipeline.lm.glue import find_task, task_key
from pipeline.lm.results import markdown, result_row, rows_as_csv, spread
from pipeline.lm.settings import STAGES, StageConfig

Row = dict[str, Any]
"""A row of ``cells.csv``."""


@dataclass(frozen=True)
class Grid(Strict):
    """What a grid file holds."""

    stage: Literal["nlu", "sft", "dpo"]
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


def parse_adapters(words: Sequence[str]) -> list[tuple[str, list[int] | None]]:
    """``lora:8,lorta:4,8`` as methods with their ranks; without ranks ``None``. Raises ConfigError.

    A number alone is a further rank of the method before it.
    """
    found: list[tuple[str, list[int] | None]] = []
    for part in (part.strip() for word in words for part in word.split(",")):
        method, colon, rank = part.partition(":")
        try:
            if colon:
                found.append((method, [int(rank)]))
            elif found and found[-1][1] is not None and part.isdecimal():
                found[-1][1].append(int(part))
            else:
                found.append((method, None))
        except ValueError:
            raise ConfigError(f"--adapters {part!r}: METHOD or METHOD:RANK expected, such as lorta:8") from None
    return found


def cells(
    grid: Grid,
    over: dict[str, Any],
    *,
    adapters: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Cell]:
    """The cells, task by task and method by method.

    Args:
        grid: as read.
        over: layer over every cell, from the command line.
        adapters: as ``parse_adapters`` reads them; empty: those of the grid with their ranks.
        tasks, seeds: empty: those of the grid.

    Raises:
        ConfigError: a method, a task or a setting is wrong; there are no cells, or one twice.
    """
    chosen = parse_adapters(adapters) or [(name, None) for name in grid.method]
    if not chosen:
        raise ConfigError("no methods: --adapters lora:8,lorta:8, or a grid that has some")
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


def cell_row(cell: Cell, result: dict[str, Any] | None, failure: str = "") -> Row:
    """The row of ``cells.csv``; without a result: why it has none."""
    row: Row = {
        "task": getattr(cell.config, "task", ""),
        "method": cell.config.adapter.method,
        "rank": cell.config.adapter.rank or "",
        "seed": cell.config.training.seed,
        "status": "done" if result else failure or "not run yet",
    }
    if result is None:
        return row
    scores = result_row(result)
    return {
        **row,
        **scores,
        **{kind: round(scores[kind], 5) for kind in ("best", "last")},
        "lr": cell.config.optimizer.lr,
        "head_lr": cell.config.optimizer.head_lr or cell.config.optimizer.lr,
    }


def _label(row: Row) -> str:
    return f"{row['method']} r={row['rank']}" if row["rank"] else row["method"]


def _groups(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Finished rows by method with rank, then by task, in the order of the grid."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["status"] == "done":
            groups.setdefault(_label(row), {}).setdefault(row["task"], []).append(row)
    return groups


def score_table(rows: Sequence[Row], kind: str) -> str:
    """Methods against tasks: mean ± s.d. over seeds of the ``best`` or ``last`` evaluation, and the average of tasks.

    A cell says how many seeds it has when they are fewer than the most. The average is given only where every task has
    results.
    """
    groups = _groups(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    metrics = {row["task"]: row["metric"] for row in rows if row["status"] == "done"}
    seeds = max((len(found) for by_task in groups.values() for found in by_task.values()), default=0)
    lines = []
    for name, by_task in groups.items():
        parameters = next(iter(by_task.values()))[0]["adapter_parameters"]
        line = [name, f"{parameters:,}"]
        for task in tasks:
            values = [row[kind] for row in by_task.get(task, [])]
            few = f" ({len(values)} of {seeds} seeds)" if 0 < len(values) < seeds else ""
            line.append(spread(values) + few if values else "")
        if len(tasks) > 1:
            complete = all(task in by_task for task in tasks)
            means = [statistics.fmean(row[kind] for row in by_task[task]) for task in tasks] if complete else []
            line.append(f"{statistics.fmean(means):.3f}" if means else "")
        lines.append(line)
    header = ["method", "adapter parameters", *(f"{task} {metrics.get(task, '')}".strip() for task in tasks)]
    return markdown(header + (["average"] if len(tasks) > 1 else []), lines)


def plot(rows: Sequence[Row], kind: str, file: Path) -> None:
    """Score or loss against trainable adapter parameters (log scale), a panel per task; seeds as dots, means joined."""
    done = [row for row in rows if row["status"] == "done"]
    tasks = list(dict.fromkeys(row["task"] for row in done))
    methods = list(dict.fromkeys(row["method"] for row in done))

    def draw(*panels: Any) -> None:
        for panel, task in zip(panels, tasks, strict=True):
            here = [row for row in done if row["task"] == task]
            for index, method in enumerate(methods):
                own = [row for row in here if row["method"] == method]
                if not own:
                    continue
                colour = f"C{index}"
                if own[0]["adapter_parameters"] == 0:  # the head alone: no place on a log axis
                    panel.axhline(statistics.fmean(r[kind] for r in own), color=colour, ls=":", label=method)
                    continue
                sizes = sorted({row["adapter_parameters"] for row in own})
                means = [statistics.fmean(r[kind] for r in own if r["adapter_parameters"] == size) for size in sizes]
                panel.plot(sizes, means, "o-", color=colour, label=method)
                dots = [(r["adapter_parameters"], r[kind]) for r in own]
                panel.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.4)
            label = f"{here[0]['metric']} ({kind} evaluation)"
            panel.set(xscale="log", xlabel="trainable adapter parameters", ylabel=label, title=task)
            panel.legend(fontsize="small")

    Plot(draw, 5.2 * len(tasks), 4.0, panels=len(tasks)).save(file)


def write_comparison(folder: Path, rows: Sequence[Row], title: str, *, plots: bool) -> list[str]:
    """Write ``cells.csv``, ``table.md`` and perhaps the plots; returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "cells.csv", rows_as_csv(rows))
    names = ["cells.csv"]
    if any(row["status"] == "done" for row in rows):
        text = f"# {title}\n\n"
        for kind in ("best", "last"):
            text += f"Mean ± s.d. over seeds, {kind} evaluation of each run:\n\n{score_table(rows, kind)}\n"
        missing = [row for row in rows if row["status"] != "done"]
        if missing:
            text += "Without a result:\n\n" + "".join(
                f"* {row['task']} {_label(row)}, seed {row['seed']}: {row['status']}\n" for row in missing
            )
        text += f"\nWritten by {program()}.\n"
        write_text(folder / "table.md", text)
        for kind in ("best", "last") if plots else ():
            for suffix in ("png", "svg"):
                plot(rows, kind, folder / f"parameters_{kind}.{suffix}")
                names.append(f"parameters_{kind}.{suffix}")
        names.append("table.md")
    return names
