"""A grid from the command line: cells, tables, going on after a stop, cells that fail."""

import json
import shutil

import pytest

from data_prep.files.command_line import program, release
from pipeline import lm_compare
from pipeline.config.schema import ConfigError
from pipeline.lm.engine import Interrupted
from pipeline.lm.grid import Grid, cells, parse_adapters, read_grid
from tests.pipeline.lm.conftest import table

pytestmark = pytest.mark.slow

QUICK = ("--training.device", "cpu", "--training.cpu_threads", "1", "--model.vocabulary", "300",
         "--training.max_steps", "2", "--training.batch_size", "8", "--data.validation_limit", "4")  # fmt: skip


def compare(*words: object, code: int = 0) -> None:
    assert lm_compare.main([*map(str, words), *QUICK]) == code


@pytest.fixture(scope="module")
def finished(glue, tmp_path_factory):
    """The directory of a grid of two cells, and the options that made it."""
    out = tmp_path_factory.mktemp("grid") / "out"
    words = ["--stage", "nlu", "--tasks", "rte", "--init-config", "tiny-roberta", "--data", glue]
    words += ["--adapters", "lora:1", "--seeds", 0, 1]
    compare(*words, "--out", out)
    return out, words


def test_a_grid_is_trained_cell_by_cell_and_gone_on_with(glue, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--stage", "nlu", "--tasks", "rte", "--init-config", "tiny-roberta", "--data", glue, "--out", out]
    grid = [*words, "--adapters", "lora:2,lorta:1,lorta:4", "--seeds", 0, 1]
    compare(*grid)
    rows = table(out / "cells.csv")
    assert len(rows) == 6 and {row["status"] for row in rows} == {"done"}
    # 2 d r per site, 4 sites, 2 layers; r (d + d/H + H + L + M)
    assert {row["version"] for row in rows} == {release()}
    sizes = [(row["method"], row["rank"], int(row["adapter_parameters"])) for row in rows[::2]]
    assert sizes == [("lora", "2", 2048), ("lorta", "1", 90), ("lorta", "4", 360)]
    assert "| lorta r=4 | 360 |" in (out / "table.md").read_text()
    shutil.rmtree(out / "rte" / "lorta-r4" / "seed_1")
    before = {path: path.stat().st_mtime_ns for path in out.glob("rte/*/seed_*/results.json")}
    compare(*grid, "--list")
    assert capsys.readouterr().out.count("not run yet") == 1
    compare(*grid)
    assert table(out / "cells.csv")[5]["status"] == "done"
    assert {path: path.stat().st_mtime_ns for path in before} == before  # finished cells were left alone


def test_a_cell_that_fails_is_listed_and_the_others_are_done(alpaca, small_config, tmp_path):
    out = tmp_path / "out"
    words = ["--stage", "sft", "--init-config", small_config, "--data", alpaca, "--out", out]
    compare(*words, "--adapters", "bitfit", "lora:1", "--model.max_length", 256, code=1)
    rows = {row["method"]: row for row in table(out / "cells.csv")}
    assert "bitfit needs one" in rows["bitfit"]["status"]
    assert rows["lora"]["status"] == "done" and float(rows["lora"]["last"]) > 0
    text = (out / "table.md").read_text()
    assert "| lora r=1 |" in text and "Without a result:\n\n*  bitfit, seed 0: " in text


def test_settings_of_a_grid_go_over_each_other():
    grid = Grid(
        "sft", seeds=(3,), shared={"optimizer": {"lr": 0.5, "weight_decay": 0.25}},
        method={"lora": {"ranks": [1, 2], "optimizer": {"lr": 0.125}}, "full": {}},
    )  # fmt: skip
    found = cells(grid, {"model": {"name": "x"}})
    assert [str(cell.folder) for cell in found] == ["lora-r1/seed_3", "lora-r2/seed_3", "full/seed_3"]
    assert [cell.config.optimizer.lr for cell in found] == [0.125, 0.125, 0.5]
    assert {cell.config.optimizer.weight_decay for cell in found} == {0.25}
    assert found[0].config.model.max_length == 512  # the stage's own default
    over = cells(grid, {"optimizer": {"lr": 1.0}}, adapters=["lora:8"], seeds=[0])
    assert [(cell.config.optimizer.lr, cell.config.adapter.rank) for cell in over] == [(1.0, 8)]


def test_methods_with_ranks():
    several = [("lora", [8]), ("lorta", [4]), ("lorta", [8]), ("full", None)]
    assert parse_adapters(["lora:8,lorta:4,lorta:8,full"]) == several
    assert parse_adapters(["lora:8", "lorta:4", "lorta:8,full"]) == several
    assert parse_adapters(["lorta:4,8", "full"]) == [("lorta", [4, 8]), ("full", None)]
    for text in ("lora:x", "lora:8:16"):
        with pytest.raises(ConfigError, match="METHOD or METHOD:RANK"):
            parse_adapters([text])


def test_the_old_name_of_adapters_is_understood(capsys):
    p = lm_compare.parser()
    assert p.parse_args(["--methods", "lora:2", "lorta:1,4"]).adapters == ["lora:2", "lorta:1,4"]
    assert "--methods is now called --adapters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (Grid("sft"), {}, "no methods"),
        (Grid("nlu"), {"adapters": ["head"]}, "no tasks"),
        (Grid("nlu", method={"lora": {}}, tasks=("swag",)), {}, "task 'swag' is unknown"),
        (Grid("sft", method={"lora": {}}), {"tasks": ["rte"]}, "tasks rte: they are nlu's, sft has none"),
        (Grid("sft", method={"lorra": {}}), {}, "adapter.method = 'lorra'"),
        (Grid("sft", method={"../x": {}}), {}, "adapter.method = '../x'"),
        (Grid("sft", method={"lora": {"ranks": 8}}), {}, "method.lora.ranks = 8: a list"),
        (Grid("sft", method={"lora": {"ranks": [-1]}}), {}, "adapter.rank = -1"),
        (Grid("sft", method={"lora": {"ranks": []}}), {}, "the grid has no cells"),
        (Grid("sft", seeds=(), method={"lora": {}}), {}, "the grid has no cells"),
        (Grid("sft", seeds=(0, 0), method={"lora": {}}), {}, "the cell lora/seed_0 twice"),
        (Grid("sft"), {"adapters": ["lora:2", "lora:2"]}, "the cell lora-r2/seed_0 twice"),
        (Grid("nlu"), {"adapters": ["lora"], "tasks": ["rte", "RTE"]}, "the cell rte/lora/seed_0 twice"),
    ],
)
def test_wrong_cells(grid, options, message):
    with pytest.raises(ConfigError, match=message):
        cells(grid, {}, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stage"),
        ("[", "not TOML"),
        ('stage = "x"', "stage = 'x': input should be 'nlu', 'sft' or 'dpo'"),
        ('stage = ["sft"]', "stage = "),
        ('stage = "sft"\nmethods = []', "unknown key 'methods'"),
        ('stage = "sft"\nmethod = "lora"', "method = 'lora'"),
        ('stage = "sft"\nmethod = ["lora"]', "method = "),
        ('stage = "sft"\n[method]\nlora = 3', "method.lora = 3"),
        ('stage = "sft"\nshared = 3', "shared = 3"),
        ('stage = "sft"\nseeds = 3', "seeds = 3"),
        ('stage = "sft"\nseeds = ["a"]', "seeds.0 = 'a'"),
        ('stage = "nlu"\ntasks = "stsb"', "tasks = 'stsb'"),
    ],
)
def test_wrong_grid_files(text, message, tmp_path):
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_grid(str(tmp_path / "g.toml"))
    assert "g.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_grid():
    with pytest.raises(ConfigError, match="glue-minilm"):
        read_grid("none")


@pytest.mark.parametrize(("file", "text"), [("results.json", "{"), ("config.toml", "[")])
def test_a_damaged_cell_is_listed_and_the_others_are_done(file, text, finished, tmp_path, capsys):
    out, words = tmp_path / "out", finished[1]
    shutil.copytree(finished[0], out)
    (out / "rte" / "lora-r1" / "seed_0" / file).write_text(text)
    shutil.rmtree(out / "rte" / "lora-r1" / "seed_1")
    compare(*words, "--out", out, "--list")
    assert ("damaged" in capsys.readouterr().out) == (file == "results.json")
    compare(*words, "--out", out, code=1)
    rows = table(out / "cells.csv")
    assert file in rows[0]["status"] and rows[0]["best"] == ""
    assert rows[1]["status"] == "done"
    assert file in (out / "table.md").read_text()


def test_cells_of_other_settings_are_not_passed_off_as_these(finished, tmp_path):
    out, words = tmp_path / "out", finished[1]
    shutil.copytree(finished[0], out)
    compare(*words, "--out", out, "--optimizer.lr", 0.5, code=1)
    rows = table(out / "cells.csv")
    assert all("another configuration (optimizer.lr = 0.001, now 0.5)" in row["status"] for row in rows)
    assert all("best" not in row for row in rows)


def test_ctrl_c_in_a_cell(finished, tmp_path, monkeypatch, capsys):
    def interrupt(*given, **options):
        raise Interrupted("interrupted at step 1")

    monkeypatch.setattr("pipeline.lm.stages.train_stage", interrupt)
    compare(*finished[1], "--out", tmp_path, code=130)
    assert "interrupted at step 1; saved. Go on with the same command." in capsys.readouterr().out


def test_one_of_grid_and_stage(tmp_path, capsys):
    compare("--out", tmp_path / "x", code=2)
    assert "give one of --grid and --stage" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_results_say_what_was_trained(glue, tmp_path):
    words = ["--stage", "nlu", "--tasks", "cola", "--init-config", "tiny-roberta", "--data", glue, "--out", tmp_path]
    compare(*words, "--adapters", "lora:1")
    result = json.loads((tmp_path / "cola" / "lora-r1" / "seed_0" / "results.json").read_text())
    assert (result["metric"], result["greater_is_better"], result["last"]["step"]) == ("matthews", True, 2)
    assert set(result["versions"]) == {"lorta-fold", "torch", "transformers", "peft", "trl"}
    assert f"Written by {program()}." in (tmp_path / "table.md").read_text()
