"""The four commands of the main job on a few real files, as a user runs them; resuming; mistakes."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.files.command_line import release
from tests.offline import run_offline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STRUCTURES = ROOT / "pipeline" / "demo_structures"
FILES = ("1cyo_A.pdb.gz", "2igd_A.pdb.gz", "d3lb2a_.pdb.gz", "d1ecaa_.pdb.gz")

SMALL = (
    "--preset", "tiny", "--trunk.blocks", "1", "--trunk.structure_module.blocks", "2", "--data.crop_size", "40",
    "--data.batch_size", "2", "--data.initial_crop_size", "0", "--optimizer.cosine_after", "1.0",
    "--training.validate_every", "3", "--checkpoint-every", "2", "--device", "cpu",
)  # fmt: skip


def command(module: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess:
    """Run a stage command, which must open no connection: none was asked for."""
    result = run_offline(module, *arguments, cwd=ROOT)
    assert result.returncode == code, f"{module} {arguments}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr
    return result


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("main_job")
    (folder / "files").mkdir()
    for name in FILES:
        shutil.copy(STRUCTURES / name, folder / "files")
    (folder / "files" / "broken.pdb").write_bytes(b"\x00\x01 not a structure")
    return folder


@pytest.fixture(scope="module")
def dataset(folder) -> Path:
    command("pipeline.prepare", "--pdb-dir", folder / "files", "--out", folder / "dataset", "--val-fraction", "0.25")
    return folder / "dataset"


@pytest.fixture(scope="module")
def trained(folder, dataset) -> Path:
    command("pipeline.train", "--data", dataset, "--out", folder / "run", *SMALL, "--max-steps", "5")
    return folder / "run"


def test_prepare_lists_every_file(dataset):
    ledger = rows(dataset / "ledger.csv")
    assert list(ledger[0])[:4] == ["file", "chain", "status", "reason"]
    assert sorted(Path(row["file"]).name for row in ledger) == sorted([*FILES, "broken.pdb"])
    by_status = {row["status"] for row in ledger}
    assert by_status == {"accepted", "unreadable"}
    broken = next(row for row in ledger if row["status"] == "unreadable")
    assert (broken["chain"], broken["file"]) == ("", "broken.pdb")
    assert broken["reason"]


def test_train_writes_what_later_stages_rely_on(trained):
    metrics = rows(trained / "metrics.csv")
    assert list(metrics[0])[:2] == ["step", "loss"]
    assert [int(row["step"]) for row in metrics] == [1, 2, 3, 4, 5]
    assert all(0 < float(row["loss"]) < 1e3 for row in metrics)
    validation = rows(trained / "validation.csv")
    assert sorted({int(row["step"]) for row in validation}) == [0, 3, 5]
    assert all(0 <= float(row["lddt_ca"]) <= 1 for row in validation)
    assert (trained / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((trained / "run.json").read_text())["parameters"]["adapter"]["trainable"] > 0
    assert "[adapter]" in (trained / "config.toml").read_text()


def test_predict_and_evaluate(folder, dataset, trained):
    predictions = folder / "preds"
    command("pipeline.predict", "--run", trained, "--data", dataset, "--split", "val", "--out", predictions)
    table = rows(predictions / "predictions.csv")
    assert all(0 <= float(row["mean_plddt"]) <= 100 for row in table)
    assert all((predictions / row["file"]).is_file() for row in table)
    last = {row["target"]: float(row["lddt_ca"]) for row in rows(trained / "validation.csv") if int(row["step"]) == 5}
    for truth in (dataset, folder / "files"):  # the dataset, and the files that the user has
        scores = folder / f"scores_{truth.name}"
        command("evaluation.lddt", predictions, truth, "--out", scores)
        scored = {row["target"]: row for row in rows(scores / "scores.csv") if row["status"] == "scored"}
        assert set(scored) == set(last)
        for name, value in last.items():
            # the file has coordinates to 0.001 angstrom
            assert float(scored[name]["lddt_ca"]) == pytest.approx(value, abs=2e-3)
        assert json.loads((scores / "summary.json").read_text())


def test_predict_fasta(folder, trained):
    fasta = folder / "seqs.fasta"
    fasta.write_text(">one|x description\nMKTAYIAKQR\n>../two\nmktayiakqrqisf*\n>one|x\nGGGGBGGG\n")
    command("pipeline.predict", "--run", trained, "--fasta", fasta, "--out", folder / "fasta", "--format", "mmcif")
    table = rows(folder / "fasta" / "predictions.csv")
    assert [(row["name"], int(row["length"]), int(row["unknown_residues"])) for row in table] == [
        ("one_x", 10, 0),
        ("_two", 14, 0),
        ("one_x_2", 8, 1),
    ]
    assert sorted(p.name for p in (folder / "fasta").iterdir()) == [
        "_two.cif", "one_x.cif", "one_x_2.cif", "predictions.csv", "predictions.json", "report.html",
    ]  # fmt: skip


def test_resumed_run_equals_uninterrupted_run(folder, dataset, trained):
    run = folder / "resumed"
    command("pipeline.train", "--data", dataset, "--out", run, *SMALL, "--max-steps", "2")
    command("pipeline.train", "--data", dataset, "--out", run, "--resume", "--max-steps", "5")
    columns = ("step", "loss", "grad_norm", "recycles")
    expected, got = ([{c: row[c] for c in columns} for row in rows(r / "metrics.csv")] for r in (trained, run))
    assert got == expected
    final = [rows(r / "validation.csv")[-1] for r in (trained, run)]
    assert final[0] == final[1]


def test_same_seed_same_numbers(folder, dataset, trained):
    run = folder / "again"
    command("pipeline.train", "--data", dataset, "--out", run, *SMALL, "--max-steps", "2")
    first, again = rows(trained / "metrics.csv")[:2], rows(run / "metrics.csv")
    assert [row["loss"] for row in first] == [row["loss"] for row in again]


@pytest.mark.parametrize("adapter", ["lora", "none", "full"])
def test_other_adapters_run(folder, dataset, adapter):
    run = folder / f"run_{adapter}"
    command("pipeline.train", "--data", dataset, "--out", run, *SMALL, "--adapter", adapter, "--max-steps", "2")
    command("pipeline.predict", "--run", run, "--data", dataset, "--out", folder / f"preds_{adapter}")


def test_mistakes_are_one_line_and_exit_2(folder, dataset, trained, tmp_path):
    def error(module: str, *arguments: object) -> str:
        text = command(module, *arguments, code=2).stderr.strip()
        assert len(text.splitlines()) == 1, text
        return text

    out = tmp_path / "x"
    base = ("--data", dataset, "--out", out)
    assert "holds a run already" in error("pipeline.train", "--data", dataset, "--out", trained, *SMALL)
    assert "did you mean 'blocks'" in error("pipeline.train", *base, "--preset", "tiny", "--trunk.block", "2")
    assert "preset 'big' is unknown" in error("pipeline.train", *base, "--preset", "big")
    assert "not a run directory" in error("pipeline.predict", "--run", tmp_path, *base)
    which = command("pipeline.predict", "--run", trained, *base, "--checkpoint", "first", code=2).stderr
    assert "'first': best, last or the number of a step expected" in which
    assert "no checkpoint of step 77" in error("pipeline.predict", "--run", trained, *base, "--checkpoint", "77")
    changed = ("--data", dataset, "--out", trained, "--resume", "--optimizer.lr", "1e-5")
    assert "anything else is another run" in error("pipeline.train", *changed)
    (tmp_path / "bad.fasta").write_text("MKT\n")
    assert "not FASTA" in error("pipeline.predict", "--run", trained, "--fasta", tmp_path / "bad.fasta", "--out", out)
    assert not out.exists()


def test_the_guard_against_connections_sees_one(tmp_path):
    (tmp_path / "opens.py").write_text("import urllib.request as r; r.urlopen('http://127.0.0.1:9')")
    result = run_offline("opens", cwd=tmp_path)
    assert result.returncode == 99
    assert "NETWORK" in result.stderr


WITHOUT_VERSION = {"SHA256SUMS", "state.json"}
"""Of ``sha256sum``, and of a checkpoint, whose tensors say it. Tables are rows alone, JSON beside them says it."""


def test_every_output_states_the_version(folder, dataset, trained):
    predictions, scores, lora, merged = (folder / name for name in ("stated", "stated_scores", "stated_lora", "merged"))
    command("pipeline.predict", "--run", trained, "--data", dataset, "--out", predictions, "--format", "both")
    command("evaluation.lddt", predictions, dataset, "--out", scores, "--report")
    command("evaluation.compare", scores, scores, "--out", scores / "comparison.json")
    command("pipeline.export", "--run", trained, "--to", "lora", "--out", lora)
    command("pipeline.export", "--run", trained, "--to", "merged", "--out", merged)
    said, silent = set(), []
    for path in (p for place in (dataset, trained, predictions, scores, lora, merged) for p in place.rglob("*")):
        if path.is_dir() or path.suffix == ".csv" or path.name in WITHOUT_VERSION:
            continue
        if path.is_relative_to(lora) and path.name == "adapter_config.json":  # PEFT's form; the tensors say it
            continue
        (said.add(path.suffix) if states_version(path.read_bytes()) else silent.append(path))
    assert not silent
    assert said == {".json", ".jsonl", ".html", ".md", ".toml", ".pdb", ".cif", ".safetensors", ".parquet"}


def states_version(content: bytes) -> bool:
    """As a field, or beside the name of the program."""
    number = re.escape(release().encode())
    return bool(re.search(rb'"version": ?"%b"|lorta-fold[^\n]{0,100}\b%b\b' % (number, number), content))
