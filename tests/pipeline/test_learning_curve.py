"""The learning curve: what it says of made-up scores; one small curve, whose cells are runs of the train command."""

import csv
import math

import pytest
import torch

from data_prep.dataset.store import Placement, StructureDataset
from data_prep.structure.io import read_structure
from evaluation.baselines import Baseline
from pipeline import train
from pipeline.comparison.curve import Cell, Curve, curve_lines, curve_table
from pipeline.comparison.curve_command import write_curve
from pipeline.config.schema import DataConfig
from pipeline.learning_curve import main
from pipeline.runs.directory import load_run
from pipeline.training.data import own_ids
from tests.datasets import write_dataset
from tests.pipeline.training.small import ROOT, SMALL, table

pytestmark = pytest.mark.slow

OPTIONS = tuple(option for option in SMALL if option not in ("--device", "cpu", "--seed", "3"))
TARGETS = ("a", "b", "c")


def baselines(copy: float) -> list[Baseline]:
    return [Baseline(target, 50, "t", 0.4, 0.3, copy, copy, 0) for target in TARGETS]


def made_up(gain: float, *, seeds: int = 3, has_base: bool = True, sizes: tuple[int, ...] = (4, 8, 16)) -> Curve:
    """The base has 0.5; with "lorta:8" a doubling adds ``gain`` to 0.5, whatever the target; "none" stays at 0.4."""
    return Curve(
        [
            Cell(
                size,
                adapter,
                seed,
                dict.fromkeys(TARGETS, 0.4 if adapter == "none" else 0.5 + gain * number),
                dict.fromkeys(TARGETS, 0.5),
                {"f": 0.6 if adapter == "none" else 0.7},
                {"f": 0.8},
                baselines(0.45),
            )
            for seed in range(seeds)
            for number, size in enumerate(sizes, 1)
            for adapter in ("none", "lorta:8")
        ],
        has_base=has_base,
    )


def test_verdicts_are_against_the_base_or_the_copy():
    assert made_up(0.02).verdict(8) == (
        "8 structures: training helped: lorta:8 scores 0.540, 0.040 above the base model "
        "(95% interval +0.040 to +0.040)."
    )
    assert "training hurt: lorta:8 scores 0.460, 0.040 below the base model" in made_up(-0.02).verdict(8)
    assert "training made no difference that can be told" in made_up(0.0).verdict(8)
    without = made_up(0.02, has_base=False).verdict(4)
    assert "the best model beats the copy of the nearest training chain: lorta:8 scores 0.520" in without
    assert "fewer than 3 seeds and 2 held-out chains cannot tell" in made_up(0.02, seeds=2).verdict(8)


def test_what_the_next_gain_takes():
    """0.02 for twice as many: 16 more than the 16; 0.01: four times as many, 48 more; flat: it cannot be told."""
    assert "would take about 16 more structures (16 to 16; +0.020 for twice" in made_up(0.02).outlook_in_words(
        "lorta:8"
    )
    assert made_up(0.01).outlook("lorta:8").more == pytest.approx(48, abs=1)
    assert "would take over 160 more" in made_up(0.001).outlook_in_words("lorta:8")
    assert "cannot be told: the curve does not surely rise" in made_up(0.0).outlook_in_words("lorta:8")
    assert "cannot be told from fewer than 3 seeds" in made_up(0.02, seeds=2).outlook_in_words("lorta:8")
    assert "cannot be told from one size" in made_up(0.02, sizes=(4,)).outlook_in_words("lorta:8")
    assert math.isnan(made_up(-0.02).outlook("lorta:8").more)


def test_the_table_has_a_row_for_all_that_is_compared():
    curve = made_up(0.02)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in curve_table(curve).splitlines()]
    assert {len(line) for line in lines} == {7}
    assert [line[:2] for line in lines[2:7]] == [
        ["4", "straight helix"], ["4", "copy of the nearest training chain"], ["4", "base model"], ["4", "none"],
        ["4", "lorta:8"],
    ]  # fmt: skip
    assert lines[6][3].startswith("+0.020 (") and lines[6][5].startswith("+0.120 (")
    assert lines[6][6].startswith("0.800 → 0.700: -0.100")
    assert curve_lines(curve)["lorta:8"][0] == [
        (4, pytest.approx(0.52)),
        (8, pytest.approx(0.54)),
        (16, pytest.approx(0.56)),
    ]
    assert {(d.size, d.adapter, d.reference) for d in curve.differences()} >= {
        (4, "lorta:8", "none"),
        (16, "none", "base model"),
    }


def test_the_page_shows_verdicts_table_and_plot(tmp_path):
    said = write_curve(tmp_path, made_up(0.02), {"full, 4 chains, seed 0": "step 3: the loss is <nan>"})
    page = (tmp_path / "learning_curve.html").read_text()
    assert len(said) == 6 and "<li>8 structures: training helped: lorta:8 scores 0.540" in page
    assert "<svg" in page and "&lt;nan&gt;" in page and page.count("<tr>") == 1 + 3 * 5
    assert "<svg" in (tmp_path / "learning_curve.svg").read_text()
    assert len(table(tmp_path / "outlook.csv")) == 2 and len(table(tmp_path / "curve.csv")) == 15


@pytest.fixture(scope="module")
def records():
    names = ("2igd_A", "1cyo_A", "1paz_A", "1aki_A", "d1ecaa_")
    return [read_structure(ROOT / "pipeline" / "demo_structures" / f"{name}.pdb.gz")[0] for name in names]


@pytest.fixture(scope="module")
def dataset(records, tmp_path_factory):
    """Three chains of two clusters to train on, two to validate on."""
    places = [("train", 0), ("train", 0), ("train", 1), ("val", 2), ("val", 3)]
    placements = {r.id: Placement(split, cluster) for r, (split, cluster) in zip(records, places, strict=True)}
    path = tmp_path_factory.mktemp("curve") / "data"
    write_dataset(path, records, placements=placements)
    return path


def test_draws_are_nested_and_spread_over_clusters(dataset, records):
    data = StructureDataset(dataset)
    draws = [[set(own_ids(data, DataConfig(train_size=n, train_draw=draw))) for n in (1, 2, 3)] for draw in range(8)]
    for one, two, three in draws:
        assert one < two < three == {r.id for r in records[:3]}
        assert records[2].id in two, "one of each cluster before a second one of any"
    assert len({frozenset(one) for one, *_ in draws}) > 1


def test_a_small_curve_is_what_training_by_hand_gives(dataset, records, tmp_path, capsys):
    out, forgetting = tmp_path / "curve", tmp_path / "forgetting"
    write_dataset(forgetting, records[4:])
    words = [
        "--data",
        str(dataset),
        "--out",
        str(out),
        "--sizes",
        "2",
        "1",
        "--adapters",
        "none,lorta:2",
        "--seeds",
        "1",
    ]
    words += ["--device", "cpu", "--train-chains", "1", "--forgetting", str(forgetting), *OPTIONS, "--max-steps", "2"]
    assert main([*words, "--dry-run"]) == 0
    assert "4 runs, 0 done before.\nA step takes: none " in capsys.readouterr().out and not out.exists()
    assert main(words) == 0
    rows = {(row["size"], row["name"]): row for row in table(out / "curve.csv")}
    assert {name for size, name in rows if size == "1"} == {"straight helix", "none", "lorta:2"}
    assert 0 < float(rows["2", "lorta:2"]["forgetting_after"]) < 1
    subsets = {(row["size"], row["chain"]) for row in table(out / "subsets.csv")}
    assert len(subsets) == 3
    text = (out / "learning_curve.md").read_text()
    assert "- 1 structure: " in text and "cannot be told from fewer than 3 seeds" in text
    assert "<svg" in (out / "learning_curve.html").read_text()
    capsys.readouterr()
    assert main(words) == 0 and capsys.readouterr().out.count("done before\n") == 4

    hand = tmp_path / "hand"
    by_hand = ["--data", str(dataset), "--out", str(hand), "--seed", "1", "--adapter", "lorta", "--rank", "2"]
    by_hand += ["--data.train_size", "2", "--data.train_draw", "1", "--device", "cpu", *OPTIONS, "--max-steps", "2"]
    assert train.main(by_hand) == 0
    cell = out / "runs" / "lorta_2_2chains_seed1"
    assert (hand / "validation.csv").read_bytes() == (cell / "validation.csv").read_bytes()
    one, other = (load_run(path)[0].state_dict() for path in (hand, cell))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with (cell / "train_scores.csv").open(newline="") as stream:
        (scored,) = csv.DictReader(stream)
    assert ("2", scored["target"]) in subsets


def test_what_cannot_be_drawn_is_a_line(dataset, records, tmp_path, capsys):
    def refused(*words: object, data=dataset) -> str:
        assert main(["--data", str(data), "--out", str(tmp_path / "out"), *map(str, words)]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert f"--sizes 4: the training split of {dataset} has 3 chains" in refused("--sizes", 1, 4)
    assert "--sizes 2 2: expected different numbers" in refused("--sizes", 2, 2)
    assert "--seeds 1 1: expected different numbers" in refused("--sizes", 2, "--seeds", 1, 1)
    assert "--data.train_size: set for each run" in refused("--sizes", 2, "--data.train_size", 3)
    for name, places, message in (
        ("one", [("train", 0), ("train", 0)], "its 2 chains are all of one cluster"),
        ("none", [("train", 0), ("train", 1)], "no validation chains"),
    ):
        path = tmp_path / name
        write_dataset(
            path, records[:2], placements={r.id: Placement(*p) for r, p in zip(records, places, strict=False)}
        )
        assert message in refused("--sizes", 1, data=path)
    line = refused("--sizes", 1, "--forgetting", tmp_path / "one")
    assert "2 of its 2 chains are training chains" in line and "must not be trained on" in line
