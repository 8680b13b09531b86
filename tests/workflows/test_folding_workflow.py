"""The folding workflow: what it would do, a small real run, a restart, and configurations that cannot be used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.files.command_line import program

pytestmark = pytest.mark.slow

pytest.importorskip("snakemake", reason="needs the extra: pip install 'lorta-fold[workflows]'")
yaml = pytest.importorskip("yaml", reason="comes with snakemake")

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
STRUCTURES = ROOT / "pipeline" / "demo_structures"
FILES = ("1cyo_A.pdb.gz", "2igd_A.pdb.gz", "d3lb2a_.pdb.gz", "d1ecaa_.pdb.gz")
SMALL = [
    "--preset", "tiny", "--max-steps", "2", "--checkpoint-every", "1", "--trunk.structure_module.blocks", "2",
    "--data.crop_size", "24", "--data.initial_crop_size", "0", "--data.batch_size", "1",
    "--optimizer.cosine_after", "1.0", "--device", "cpu",
]  # fmt: skip


def snakemake(*arguments: object, code: int = 0, cwd: Path = ROOT) -> str:
    words = [sys.executable, "-m", "snakemake", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A configuration of two arms on four real files."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "structures").mkdir()
    for name in FILES:
        shutil.copy(STRUCTURES / name, folder / "structures")
    values = {
        "structures": "structures",
        "out": "results",
        "note": "Two steps on four files: a test of the wiring.",
        "baseline": "frozen",
        "arms": {"frozen": ["--adapter", "none"], "lorta_r1": ["--adapter", "lorta", "--rank", "1"]},
        "prepare": {"shards": 2, "options": ["--val-fraction", "0.25"]},
        "train": {"options": SMALL},
        "predict": {"shards": 2},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(config) -> Path:
    """The directory of a finished run."""
    snakemake("-s", WORKFLOWS / "fold.smk", "--configfile", config, "--cores", "2", cwd=config.parent)
    return config.parent


def test_run_ends_in_a_table_of_both_arms(finished):
    table = (finished / "results" / "folding.md").read_text()
    assert table.startswith("Two steps on four files")
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["arm", "frozen", "lorta_r1"]
    summary = json.loads((finished / "results" / "scores" / "lorta_r1" / "seed0" / "summary.json").read_text())
    assert summary["counts"]["missing"] == 0 and f"Scored by {program()}." in table
    mean = summary["missing_as_0"]["lddt_ca"]["mean"]
    assert f"| {mean:.4f} |" in table


def test_finished_run_has_nothing_left_to_do(finished, config):
    said = snakemake("-s", WORKFLOWS / "fold.smk", "--configfile", config, "--cores", "2", "--dry-run", cwd=finished)
    assert "Nothing to be done" in said


def test_killed_training_goes_on_where_it_was(finished, config):
    # What a job that was killed after its first checkpoint leaves behind: its run directory and no marker.
    results = finished / "results"
    shutil.rmtree(results / "runs" / "lorta_r1" / "seed0" / "checkpoints" / "step_00000002")
    for later in (".done/train", ".done/predict", "preds", "scores", "comparison"):
        shutil.rmtree(results / later / "lorta_r1")
    (results / "folding.md").unlink()
    snakemake("-s", WORKFLOWS / "fold.smk", "--configfile", config, "--cores", "2", cwd=finished)
    assert "Resuming" in (results / "logs" / "train" / "lorta_r1" / "0.log").read_text()
    assert (results / "folding.md").is_file()


def changed(config: Path, name: str, **values: object) -> Path:
    path = config.with_name(name)
    path.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | values))
    return path


def test_other_options_are_refused_and_old_results_are_not_shown_as_new(finished, config):
    results, words = finished / "results", ("-s", WORKFLOWS / "fold.smk", "--cores", "2")
    table = (results / "folding.md").read_bytes()
    other = changed(config, "other.yaml", train={"options": [*SMALL, "--optimizer.lr", "5e-4"]})
    snakemake(*words, "--configfile", other, code=1, cwd=finished)
    for arm in ("frozen", "lorta_r1"):
        log = (results / "logs" / "train" / arm / "0.log").read_text().splitlines()[-1]
        assert "--optimizer.lr: optimizer.lr = 0.0005, and results/runs/" in log and "has 0.002" in log
        assert (results / "preds" / arm / "seed0" / "predictions.json").is_file(), "what was done is kept"
    assert (results / "folding.md").read_bytes() == table
    snakemake(*words, "--configfile", config, cwd=finished)
    assert (results / "folding.md").read_bytes() == table


def test_more_steps_are_taken_and_all_that_follows_is_made_again(finished, config):
    """A change that a run can take: scores and table are those of the new models."""
    results = finished / "results"
    more = changed(config, "more.yaml", train={"options": [*SMALL, "--max-steps", "3"]})
    snakemake("-s", WORKFLOWS / "fold.smk", "--configfile", more, "--cores", "2", cwd=finished)
    for arm in ("frozen", "lorta_r1"):
        assert (results / "runs" / arm / "seed0" / "checkpoints" / "step_00000003").is_dir()
        assert json.loads((results / "preds" / arm / "seed0" / "predictions.json").read_text())["step"] == 3


def test_a_learning_curve_in_jobs(finished):
    """One size, two adapters: a job for each, and one that writes what they say."""
    options = [*SMALL, "--train-chains", "1"]
    values = {"data": "results/dataset", "out": "curves", "sizes": [2], "adapters": ["none", "lorta:1"], "seeds": [0]}
    (finished / "curve.yaml").write_text(yaml.safe_dump(values | {"options": options}))
    words = ("-s", WORKFLOWS / "curve.smk", "--configfile", finished / "curve.yaml", "--cores", "2")
    snakemake(*words, cwd=finished)
    text = (finished / "curves" / "curve" / "learning_curve.md").read_text()
    assert "| 2 | none |" in text and "| 2 | lorta:1 |" in text
    assert (finished / "curves" / "logs" / "curve.log").read_text().count("done before\n") == 2
    assert "Nothing to be done" in snakemake(*words, "--dry-run", cwd=finished)


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_profiles_are_accepted(profile, config):
    if profile == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs snakemake-executor-plugin-slurm")
    said = snakemake(
        "-s", WORKFLOWS / "fold.smk", "--configfile", WORKFLOWS / "config" / "fold.yaml",
        "--profile", WORKFLOWS / "profiles" / profile, "--dry-run", cwd=config.parent,
    )  # fmt: skip
    assert "prepare_shard" in said
    assert "folding_table" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [1]}, "'seed' was unexpected"),
        ({"baseline": "lora"}, "baseline 'lora' is no arm; arms: frozen, lorta_r1"),
        ({"arms": {"a/b": []}}, "'a/b' does not match"),
        ({"arms": {"..": []}}, "'..' does not match"),
        ({"predict": {"shards": 0}}, "0 is less than the minimum of 1"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path, config, change, message):
    values = yaml.safe_load(config.read_text()) | change
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    said = snakemake(
        "-s", WORKFLOWS / "fold.smk", "--configfile", tmp_path / "bad.yaml", "--cores", "1", "--dry-run", code=1
    )
    assert message in said
