"""Every command over real weights of ESM-2 8M, a few steps each: what is written is read, here and elsewhere."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.data import Alphabet

from pipeline import compare, export, load_run, predict, train
from pipeline.prediction.export import FOR_TRANSFORMERS
from pipeline.runs.directory import load_run as read_run
from tests.pipeline.prepare_demo import dataset_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"
FILES = ("2igd_A.pdb.gz", "1cyo_A.pdb.gz", "d3lb2a_.pdb.gz")
QUICK = (
    "--data.crop_size", "16", "--data.batch_size", "1", "--data.max_recycles", "0", "--training.validation_limit", "1",
    "--training.validate_every", "99", "--training.cpu_threads", "1", "--device", "cpu",
)  # fmt: skip
TINY = (
    "--preset", "tiny", *QUICK, "--data.initial_crop_size", "0", "--trunk.c_s", "32",
    "--trunk.structure_module.c_s", "32", "--trunk.structure_module.heads", "2", "--trunk.structure_module.blocks", "1",
)  # fmt: skip
ESMFOLD = (
    "--preset", "esmfold", *QUICK, "--trunk.blocks", "1", "--trunk.c_s", "32", "--trunk.c_z", "16",
    "--trunk.sequence_head_width", "8", "--trunk.pair_head_width", "4", "--trunk.structure_module.c_s", "24",
    "--trunk.structure_module.c_z", "12", "--trunk.structure_module.c_resnet", "20",
    "--trunk.structure_module.heads", "2", "--trunk.structure_module.blocks", "2", "--heads.plddt_hidden", "16",
)  # fmt: skip


def call(command, *words, code: int = 0) -> None:
    assert command.main([str(word) for word in words]) == code


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def dataset(folder) -> Path:
    return dataset_of(FILES, folder, 0.3)


@pytest.fixture(scope="module")
def esm(weights) -> tuple[str, ...]:
    return "--esm", "esm2_t6_8M", "--esm-weights", str(weights)


@pytest.fixture(scope="module")
def killed(folder, dataset, esm) -> Path:
    """A run of the tiny preset that was killed behind a checkpoint, and went on."""
    run = folder / "killed"
    words = ("--data", dataset, "--out", run, *TINY, *esm, "--max-steps", 5000, "--checkpoint-every", 1)
    command = [sys.executable, "-m", "pipeline.train", *map(str, words)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        limit = time.monotonic() + 120
        while not list(run.glob("checkpoints/step_*2")) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    last = max(int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*"))
    call(train, "--data", dataset, "--out", run, "--resume", "--max-steps", last + 2)
    assert [int(row["step"]) for row in rows(run / "metrics.csv")] == list(range(1, last + 3))
    assert read_run(run)[1] == last + 2
    return run


def test_a_killed_run_goes_on_and_predicts(killed, dataset, folder):
    assert not (killed / "stem.safetensors").exists()
    call(predict, "--run", killed, "--data", dataset, "--out", folder / "preds")
    assert [row["status"] for row in rows(folder / "preds" / "predictions.csv")] == ["done"]
    assert np.isfinite(load_run(killed, device="cpu").fold(SEQUENCE).ca_positions).all()


def test_another_run_starts_from_it_and_adapts_its_trunk(killed, dataset, folder):
    words = ("--data", dataset, "--out", folder / "next", "--init-from", killed, "--trunk-adapter", "lorta", *QUICK)
    call(train, *words, "--max-steps", 1)
    assert read_run(folder / "next")[0].config.stem.init == "pretrained"


def test_merged_weights_predict_the_same(killed, folder, tmp_path):
    call(export, "--run", killed, "--to", "merged", "--out", folder / "merged")
    expected = load_run(killed, device="cpu").fold(SEQUENCE).prediction
    merged = load_run(folder / "merged", device="cpu").fold(SEQUENCE).prediction
    np.testing.assert_allclose(merged.atom14, expected.atom14, atol=1e-3)
    (tmp_path / "seqs.fasta").write_text(f">a\n{SEQUENCE}\n")
    call(predict, "--run", folder / "merged", "--fasta", tmp_path / "seqs.fasta", "--out", tmp_path / "preds")


@pytest.fixture(scope="module")
def esmfold(folder, dataset, esm) -> Path:
    """A run of ESMFold's architecture."""
    run = folder / "esmfold"
    words = ("--adapter", "lorta", "--rank", 2, "--optimizer.warmup_steps", 0, "--optimizer.stem_lr", 0.1)
    call(train, "--data", dataset, "--out", run, *ESMFOLD, *esm, *words, "--max-steps", 3)
    return run


def test_transformers_folds_what_is_exported_for_it(esmfold, folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    call(export, "--run", esmfold, "--to", "hf", "--out", folder / "hf")
    port = transformers.EsmForProteinFolding.from_pretrained(folder / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    tokens = tokenizer([SEQUENCE], return_tensors="pt", add_special_tokens=False)
    ours = load_run(esmfold, device="cpu").fold(SEQUENCE)
    with torch.no_grad():
        theirs = port(**tokens, num_recycles=0)
    np.testing.assert_allclose(theirs["positions"][-1, 0].numpy()[:, :4], ours.prediction.atom14[:, :4], atol=1e-3)


def test_peft_puts_the_adapter_on_transformers_esm(esmfold, weights, folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    peft = pytest.importorskip("peft", reason="needs the extra lm")
    if not weights.is_dir():
        pytest.skip("transformers reads Hugging Face directories alone")
    call(export, "--run", esmfold, "--to", "lora", "--out", folder / "lora")
    base = transformers.EsmModel.from_pretrained(weights).eval()
    tokens = Alphabet.from_architecture("ESM-1b").get_batch_converter()([("x", SEQUENCE)])[2]
    options = {"attention_mask": torch.ones_like(tokens)}
    stem = read_run(esmfold)[0].stem
    with torch.no_grad():
        plain = base(tokens, **options).last_hidden_state
        adapted = peft.PeftModel.from_pretrained(base, folder / "lora" / FOR_TRANSFORMERS).eval()
        theirs = adapted(tokens, **options).last_hidden_state
        ours = stem.esm(tokens, repr_layers=[stem.num_layers])["representations"][stem.num_layers]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (theirs - plain).abs().max() > 0.01, "the adapter does something"


def test_adapters_are_compared(dataset, folder, esm):
    words = ("--adapters", "none,lorta:2", "--seeds", 0, *TINY, *esm, "--max-steps", 1)
    call(compare, "--data", dataset, "--out", folder / "compared", *words)
    assert (folder / "compared" / "comparison.md").is_file()


def test_the_workflow_runs(folder, esm):
    pytest.importorskip("snakemake", reason="needs the extra workflows")
    yaml = pytest.importorskip("yaml", reason="comes with snakemake")
    values = {
        "structures": "files",
        "out": "results",
        "seeds": [0],
        "baseline": "frozen",
        "arms": {"frozen": ["--adapter", "none"]},
        "prepare": {"shards": 1, "options": ["--val-fraction", "0.3"]},
        "train": {"options": [*TINY, *esm, "--max-steps", "1"]},
        "predict": {"shards": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    words = ("-s", ROOT / "workflows" / "fold.smk", "--configfile", folder / "config.yaml", "--cores", "1")
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", *map(str, words)], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert (folder / "results" / "folding.md").is_file()
