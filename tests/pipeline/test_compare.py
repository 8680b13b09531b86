"""Comparison of adapters and the rule for alpha: what is decided, and one real comparison of two variants."""

import csv
import json
import math
import os
import shlex
import signal
import sys
import threading
import time

import pytest

from data_prep.dataset.store import Placement
from data_prep.files.command_line import program
from data_prep.structure.io import read_structure
from evaluation.baselines import Baseline
from pipeline.compare import main
from pipeline.comparison import options as options_module
from pipeline.comparison import variants as variants_module
from pipeline.comparison.alpha import Trial, best, search
from pipeline.comparison.directory import open_directory
from pipeline.comparison.results import (
    COPY,
    PairedDifference,
    RunResult,
    copy_differences,
    markdown_table,
    paired_differences,
    plateau_end,
)
from pipeline.comparison.variants import Adapter, ComparisonError, Variant, parse_adapters
from pipeline.config.schema import RunConfig
from tests.datasets import write_dataset
from tests.pipeline.training.small import ROOT, SMALL

pytestmark = pytest.mark.slow


def test_adapters_of_the_command_line():
    parsed = parse_adapters("none, lora:1,lorta:8:256,full")
    assert parsed == [Adapter("none"), Adapter("lora", 1), Adapter("lorta", 8, 256.0), Adapter("full")]
    assert parse_adapters("none,bitfit")[1].options() == ["--adapter", "bitfit"]
    assert [adapter.name for adapter in parsed] == ["none", "lora:1", "lorta:8:256", "full"]
    assert parsed[2].options() == ["--adapter", "lorta", "--rank", "8", "--adapter.alpha", "256.0"]
    for wrong, message in (
        ("lorta", "needs a rank"),
        ("none:1", "or one of none, full, bitfit, "),
        ("bitfit:8", "or one of none, full, bitfit, "),
        ("adalora:8", "'adalora' is not a method: one of "),
        ("lorta:x", "rank and alpha are numbers"),
        ("lora:1,lora:1", "names an adapter twice"),
    ):
        with pytest.raises(ComparisonError, match=message):
            parse_adapters(wrong)


def test_differences_are_paired_by_seed_and_target():
    """Seed 0: +0.1 on a, +0.3 on b; seed 1: +0.3 on a. Means by target 0.2 and 0.3, over both 0.25.

    Seed 2 has no reference, target c none either. Two seeds that both have are too few for an interval.
    """
    scores = {
        "none": {0: {"a": 0.5, "b": 0.2}, 1: {"a": 0.4}},
        "lorta:8": {0: {"a": 0.6, "b": 0.5, "c": 0.9}, 1: {"a": 0.7}, 2: {"a": 1.0}},
    }
    (row,) = paired_differences(scores, "none")
    assert (row.adapter, row.reference, row.targets, row.seeds, row.better) == ("lorta:8", "none", 2, 2, 2)
    assert row.mean == pytest.approx(0.25)
    assert math.isnan(row.low) and math.isnan(row.high)
    assert "No intervals: fewer than 3 seeds" in markdown_table([], [row], [])


def test_intervals_know_how_far_apart_seeds_lie():
    """All targets gain 0 with seed 0, 0.3 with seed 1, 0.6 with seed 2: over targets alone there would be no doubt.

    Of three seeds drawn with replacement all are the lowest in one of 27 draws, more than 2.5%: the interval is that
    of the seeds, 0 to 0.6.
    """
    targets = "abcdef"
    scores = {
        "none": {seed: dict.fromkeys(targets, 0.2) for seed in range(3)},
        "lorta:8": {seed: dict.fromkeys(targets, 0.2 + 0.3 * seed) for seed in range(3)},
    }
    (row,) = paired_differences(scores, "none")
    assert (row.seeds, row.targets, row.better) == (3, 6, 6)
    assert (row.mean, row.low, row.high) == pytest.approx((0.3, 0.0, 0.6))
    (row,) = paired_differences(
        {name: {s: {"a": v["a"]} for s, v in own.items()} for name, own in scores.items()}, "none"
    )
    assert row.mean == pytest.approx(0.3) and math.isnan(row.low)
    assert "a single target" in markdown_table([], [row], [])


def baseline(target: str, copy: float = math.nan) -> Baseline:
    return Baseline(target, 50, "" if math.isnan(copy) else "t", copy, 0.3, copy, copy, 0)


def test_differences_to_the_copy_are_over_the_targets_that_have_one():
    """+0.1 and +0.3 on a, over seeds 0.2; b and c have nothing to copy."""
    scores = {"none": {0: {"a": 0.6, "b": 0.9}, 1: {"a": 0.8}}}
    (row,) = copy_differences(scores, [baseline("a", 0.5), baseline("b"), baseline("c")])
    assert (row.adapter, row.reference) == ("none", "copy of the nearest training chain")
    assert (row.targets, row.seeds, row.better, row.mean) == (1, 2, 1, pytest.approx(0.2))
    assert copy_differences(scores, [baseline("b")]) == copy_differences(scores, []) == []


def test_the_plateau_ends_when_the_mean_leaves_the_helix_behind():
    """The helix has 0.3: the first round above 0.4, whatever comes after."""
    baselines = [baseline("a", 0.5), baseline("b")]
    assert plateau_end({0: 0.01, 100: 0.39, 200: 0.41, 300: 0.35}, baselines) == 200
    assert math.isnan(plateau_end({0: 0.01, 100: 0.4}, baselines))
    assert math.isnan(plateau_end({0: 0.9}, []))


def test_the_table_has_the_baselines_and_the_ends_of_the_plateaus():
    def variant(adapter, seed, score, end):
        return RunResult(adapter, seed, 8.0, 10, 5, 100, 400, 0.5, 300, score, 0.9, end)

    results = [variant("none", 0, 0.4, math.nan), variant("none", 1, 0.6, 1500.0), variant("lorta:8", 0, 0.7, 500.0)]
    differences = [
        PairedDifference("lorta:8", "none", 6, 3, 0.2, 0.1, 0.3, 6),
        PairedDifference("none", COPY, 6, 3, -0.25, -0.4, -0.1, 0),
    ]
    lines = markdown_table(results, differences, [baseline("a", 0.75)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:6]]
    assert len({len(row) for row in cells}) == 1
    named = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    assert named["none"]["plateau ended at step (by seed)"] == "never, 1,500"
    assert (named["none"]["less reference"], named["none"]["less copy"]) == ("reference", "-0.250 (-0.400 to -0.100)")
    assert named["lorta:8"]["less reference"] == "+0.200 (+0.100 to +0.300)" and named["lorta:8"]["less copy"] == "-"
    score = "val lDDT-Cα (sd over seeds)"
    assert named["straight helix"][score] == "0.300" and named["copy of the nearest training chain"][score] == "0.750"
    assert "over seeds and targets, both resampled" in lines[7]
    assert "straight helix" not in markdown_table(results, differences, [])  # variants of an earlier version


def test_alpha_is_halved_in_pairs_until_one_converges():
    tried = []

    def trial(alpha: float) -> Trial:
        tried.append(alpha)
        return Trial("lorta:2", alpha, alpha <= 100, "" if alpha <= 100 else "loss is nan", math.nan)

    found = search(trial, rank=2, pairs=5)
    assert tried == [512, 256, 128, 64]
    assert [t.converged for t in found] == [False, False, False, True]
    assert best(found) is found[-1] and best(found[:3]) is None
    assert len(search(lambda alpha: Trial("lorta:1", alpha, False, "no", math.nan), rank=1, pairs=2)) == 4


OPTIONS = tuple(option for option in SMALL if option not in ("--device", "cpu", "--seed", "3"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One chain to train on and one to validate on."""
    structures = ROOT / "pipeline" / "demo_structures"
    records = [read_structure(structures / name)[0] for name in ("2igd_A.pdb.gz", "1cyo_A.pdb.gz")]
    placements = {r.id: Placement(split, i) for i, (r, split) in enumerate(zip(records, ("train", "val"), strict=True))}
    path = tmp_path_factory.mktemp("comparison") / "data"
    write_dataset(path, records, placements=placements)
    return path


def test_a_comparison_end_to_end(dataset, tmp_path, capsys):
    """Two variants of two steps; repeated, nothing is trained again."""
    words = ["--data", str(dataset), "--out", str(tmp_path / "out"), "--adapters", "none,lorta:2"]
    words += ["--seeds", "0", "--device", "cpu", "--train-chains", "1", *OPTIONS, "--max-steps", "2"]
    assert main(words) == 0
    with (tmp_path / "out" / "runs.csv").open(newline="") as stream:
        variants = {row["adapter"]: row for row in csv.DictReader(stream)}
    assert variants["none"]["stem_parameters"] == variants["none"]["adapter_bytes"] == "0"
    assert variants["lorta:2"]["stem_parameters"] == "182"
    assert all(0 < float(row[name]) < 1 for row in variants.values() for name in ("val_lddt_ca", "train_lddt_ca"))
    with (tmp_path / "out" / "differences.csv").open(newline="") as stream:
        (difference,) = csv.DictReader(stream)
    assert difference["low"] == difference["high"] == ""  # of one seed
    expected = float(variants["lorta:2"]["val_lddt_ca"]) - float(variants["none"]["val_lddt_ca"])
    assert float(difference["mean"]) == pytest.approx(expected, abs=2e-6)
    comparison = (tmp_path / "out" / "comparison.md").read_text()
    helix = float((tmp_path / "out" / "baselines.csv").read_text().splitlines()[1].split(",")[4])
    assert f"| straight helix | - | 0 | 0 | - | - | - | - | {helix:.3f} |" in comparison
    assert "no training chain is similar enough to be copied" in comparison and "No intervals" in comparison
    assert all(row["plateau_end"] == "" for row in variants.values())
    assert "<svg" in (tmp_path / "out" / "curves.svg").read_text()
    assert (tmp_path / "out" / "comparison.md").read_text().endswith(f"\nWritten by {program()}.\n")
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert main([*words, "--resume"]) == 0, "the same options again"
    assert main([*words, "--optimizer.lr", "1e-4", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "other settings: --optimizer.lr = 0.0001, and they have 0.002; " in error and "--max-steps 2" in error


def test_a_directory_belongs_to_one_dataset_and_one_set_of_options(tmp_path):
    data, config, out = tmp_path / "data", tmp_path / "a.toml", tmp_path / "out"
    data.mkdir()
    (data / "index.parquet").write_bytes(b"one")
    config.write_text("[data]\nbatch_size = 2\n")

    def open_with(*options: str, rank: int = 8) -> None:
        words = ["--config", str(config), *options]
        variant = Variant(Adapter("lora", rank), seed=rank, path=out)
        open_directory(out, data, words, variant.configuration(words), {"--rank": rank})

    open_with("--max-steps", "9")
    open_with("--training.max_steps=9")  # the same in other words
    before = config.read_text()
    for change, what in (
        (lambda: open_with("--max-steps", "9", rank=4), "--rank = 4, and they have 8"),
        (lambda: open_with(), "--training.max_steps = 5000, and they have 9"),
        (lambda: open_with("--max-steps", "9", "--adapter.alpha", "2.0"), "--adapter.alpha = 2.0, and they have 'def"),
        (
            lambda: (config.write_text("[data]\nbatch_size = 4\n"), open_with("--max-steps", "9")),
            "--data.batch_size = 4",
        ),
        (lambda: (config.write_text(""), open_with("--max-steps", "9")), "--data.batch_size = 1, and they"),
        (lambda: (config.write_text(f"{before}\n"), open_with("--max-steps", "9")), "the content of .* has changed"),
        (lambda: ((data / "index.parquet").write_bytes(b"two"), open_with("--max-steps", "9")), "--data: another"),
    ):
        with pytest.raises(ComparisonError, match=f"other settings: {what}"):
            change()


WRONG = [
    (["--trunk.blok", "8"], "trunk.blok"),
    (["--max-steps", "0.5"], "invalid int value"),
    (["--training.seed", "5"], "leave it out"),
    (["--adapter.rank=4"], "leave it out"),
    (["--adapter.alpha", "3"], "leave it out"),
    (["--max-minutes", "5"], "--max-minutes: set for each run"),
    (["--dry-run"], "--dry-run: set for each run"),
    (["--config", "nowhere.toml"], "nowhere.toml"),
    (["--seed", "5"], "leave it out"),
    (["--adapter", "lora"], "leave it out"),
]


@pytest.mark.parametrize(
    ("own", "words", "message"),
    [(["--adapters", "lorta:2:4", "--seeds", "0", "1"], *case) for case in WRONG]
    + [(["--adapters", "lorta:2", "--sweep-alpha"], *case) for case in WRONG],
)
def test_wrong_options_are_refused_before_the_first_run(dataset, tmp_path, capsys, own, words, message):
    out = tmp_path / "out"
    try:
        code = main(["--data", str(dataset), "--out", str(out), *own, *words])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err
    assert not out.exists(), "the right options would be refused as those of another comparison"


def test_runs_that_fail_are_listed_with_the_last_line_of_their_log(dataset, tmp_path, capsys, monkeypatch):
    def fail(command, log):
        log.write_text("Training\nerror: step 3: the loss is nan\n")
        return 1

    monkeypatch.setattr(variants_module, "_run", fail)
    words = ["--data", str(dataset), "--out", str(tmp_path / "c"), "--adapters", "none,lorta:2", "--seeds", "0"]
    assert main([*words, "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert "run 2/2: lorta:2, seed 0: failed: step 3: the loss is nan" in printed.out
    assert "no run was trained to its end" in printed.err
    words = ["--data", str(dataset), "--out", str(tmp_path / "s"), "--adapters", "lorta:2", "--seeds", "0"]
    assert main([*words, "--sweep-alpha", "2"]) == 1
    assert "error: lorta:2: no alpha converged" in capsys.readouterr().err
    with (tmp_path / "s" / "sweep.csv").open(newline="") as stream:
        found = [(row["adapter"], float(row["alpha"]), row["reason"], row["lddt_ca"]) for row in csv.DictReader(stream)]
    assert found == [("lorta:2", alpha, "step 3: the loss is nan", "") for alpha in (512, 256, 128, 64)]


@pytest.mark.parametrize("own", [[], ["--adapters", "lorta:8", "--sweep-alpha"]])
def test_a_comparison_needs_chains_to_validate_on(tmp_path, capsys, own):
    record = read_structure(ROOT / "pipeline" / "demo_structures" / "2igd_A.pdb.gz")[0]
    write_dataset(tmp_path / "d", [record], placements={record.id: Placement("train", 0)})
    assert main(["--data", str(tmp_path / "d"), "--out", str(tmp_path / "out"), *own]) == 2
    assert "no validation chains: see pipeline.prepare --val-fraction" in capsys.readouterr().err


def test_seeds_and_pairs_that_cannot_be(dataset, tmp_path, capsys):
    words = ["--data", str(dataset), "--out", str(tmp_path / "out")]
    for seeds in (["-1"], ["1", "1"]):
        assert main([*words, "--seeds", *seeds]) == 2
        assert f"--seeds {' '.join(seeds)}: expected different numbers" in capsys.readouterr().err
    assert main([*words, "--adapters", "lorta:2", "--sweep-alpha", "0"]) == 2
    assert "--sweep-alpha 0: at least 1 pair" in capsys.readouterr().err
    assert main([*words, "--sweep-alpha"]) == 2
    assert "--sweep-alpha: --adapters none: expected METHOD:RANK" in capsys.readouterr().err


def test_one_number_of_seeds_is_how_many():
    """As in earlier versions; 0 alone never was."""
    said = []
    assert options_module.listed_seeds([3], said.append) == [0, 1, 2]
    assert said == ["warning: --seeds 3 is --seeds 0 1 2 now; the next version will take it for seed 3 alone"]
    assert options_module.listed_seeds([0], said.append) == [0]
    assert options_module.listed_seeds([2, 5], said.append) == [2, 5] and len(said) == 1


def test_a_sweep_end_to_end(dataset, tmp_path, capsys):
    """Both alphas of the first pair train (for two steps, so that their losses may fall or not); then it is read."""
    words = ["--data", str(dataset), "--out", str(tmp_path), "--adapters", "lorta:2", "--seeds", "0", *OPTIONS]
    code = main([*words, "--sweep-alpha", "1", "--device", "cpu", "--max-steps", "2"])
    with (tmp_path / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["alpha"]) for row in rows] == [512, 256]
    for row in rows:
        folder = tmp_path / "runs" / f"lorta_2_{float(row['alpha']):g}_seed0"
        run = json.loads((folder / "summary.json").read_text())
        with (folder / "metrics.csv").open(newline="") as stream:
            first, last = (float(step["loss"]) for step in csv.DictReader(stream))
        assert row["converged"] == str(last < first)
        assert row["lddt_ca"] == "" if last >= first else float(row["lddt_ca"]) == run["validation"]["2"]
        assert row["words"] == "" if last >= first else row["words"].startswith("no better than a straight helix;")
    converged = [row for row in rows if row["converged"] == "True"]
    assert code == (0 if converged else 1)
    output = capsys.readouterr()
    if converged:
        best = max(converged, key=lambda row: float(row["lddt_ca"]))
        shared = shlex.join([*OPTIONS, "--max-steps", "2"])
        assert f"--adapter.alpha {float(best['alpha'])!r} {shared}\n" in output.out
    else:
        assert "no alpha converged" in output.err


def test_a_stopped_comparison_waits_until_its_run_has_saved(tmp_path):
    """The variant takes its time to save, as the train command does with a large model."""
    saves = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_): time.sleep(1); pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        log, saved = tmp_path / f"{number}.log", tmp_path / f"{number}.saved"
        thread = threading.Thread(target=_kill_when_ready, args=(log, number))
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            variants_module._run([sys.executable, "-c", saves, str(saved)], log)
        thread.join()
        assert saved.read_text() == "saved"
        assert signal.getsignal(number) is before


def _kill_when_ready(log, number: int) -> None:
    for _ in range(600):
        if log.is_file() and "ready" in log.read_text():
            os.kill(os.getpid(), number)
            return
        time.sleep(0.05)


def test_damaged_settings_are_a_line(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "index.parquet").write_bytes(b"one")
    for content in ("{", "3", "\xff"):
        (tmp_path / "settings.json").write_bytes(content.encode("latin1"))
        with pytest.raises(ComparisonError, match=r"settings\.json: no readable settings"):
            open_directory(tmp_path, data, [], RunConfig())
