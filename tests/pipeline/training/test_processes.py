"""Two processes (gloo) against one on the same global batch; shards; losses of a worker."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import ConfigError
from pipeline.train import main
from pipeline.training import processes as processes_module
from pipeline.training.processes import Processes
from tests.pipeline.training.small import SMALL, launch, table

pytestmark = pytest.mark.slow

SAME = ("--training.micro_batch", "1", "--optimizer.eps", "1e-2")
"""Dropout is drawn per forward pass: with one sample in each it does not depend on the number of processes. With a
large eps Adam's steps are continuous in the gradient; with a small one they are the signs of rounding errors."""


@pytest.fixture(scope="module")
def runs(small_dataset, tmp_path_factory):
    """The same training with one process, with two under DDP and with two under FSDP2."""
    folder = tmp_path_factory.mktemp("processes")
    options = ("--data", small_dataset, *SMALL, *SAME, "--max-steps", "4")
    assert main([str(word) for word in (*options, "--out", folder / "alone")]) == 0
    commands = [[*options, "--out", folder / name, "--training.parallel", name] for name in ("ddp", "fsdp2")]
    half = ("--data", small_dataset, *SMALL, "--precision", "bf16", "--max-steps", "0")
    assert main([str(word) for word in (*half, "--out", folder / "half")]) == 0
    commands.append([*half, "--out", folder / "half_ddp"])
    text = json.dumps([[str(word) for word in words] for words in commands])
    result = launch("tests.pipeline.training.train_several", text)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 process(es)") == result.stdout.count("Trained to step ") == 3  # one of them prints
    return folder


def assert_same_training(got, expected) -> None:
    """Sums in another order: equal to a few float32 digits, and what is drawn exactly."""
    rows, others = table(expected / "metrics.csv"), table(got / "metrics.csv")
    assert [row["step"] for row in others] == [row["step"] for row in rows] == ["1", "2", "3", "4"]
    for row, other in zip(rows, others, strict=True):
        assert (other["recycles"], other["lr"]) == (row["recycles"], row["lr"])
        for name in ("loss", "backbone_fape", "plddt", "grad_norm"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=2e-4), (row["step"], name)
    for part in ("trained", "ema"):
        file = f"checkpoints/step_00000004/{part}.safetensors"
        tensors, other_tensors = load_file(expected / file), load_file(got / file)
        assert tensors.keys() == other_tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                other_tensors[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
            )
    scores, other_scores = table(expected / "validation.csv"), table(got / "validation.csv")
    assert [(row["step"], row["target"]) for row in other_scores] == [(row["step"], row["target"]) for row in scores]
    for row, other in zip(scores, other_scores, strict=True):
        assert float(other["lddt_ca"]) == pytest.approx(float(row["lddt_ca"]), abs=0.02)


def test_validation_is_float32_under_autocast_with_several_processes_too(runs):
    """Each chain is folded by one of them: the scores are those of a process alone, to the bit."""
    assert (runs / "half_ddp" / "validation.csv").read_bytes() == (runs / "half" / "validation.csv").read_bytes()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(runs, parallel):
    assert_same_training(runs / parallel, runs / "alone")
    factors, expected = (load_file(runs / r / "adapter" / "adapter_model.safetensors") for r in (parallel, "alone"))
    for name, factor in expected.items():
        torch.testing.assert_close(factors[name], factor, rtol=1e-4, atol=1e-6)
        assert factor.abs().max() > 0, name
    assert json.loads((runs / parallel / "run.json").read_text())["processes"] == 2


def test_a_sharded_run_goes_on_with_one_process(runs, small_dataset):
    for name in ("fsdp2", "alone"):
        arguments = ("--data", small_dataset, "--out", runs / name, "--resume", "--max-steps", "5")
        assert main([str(word) for word in arguments]) == 0
    last, expected = (float(table(runs / name / "metrics.csv")[4]["loss"]) for name in ("fsdp2", "alone"))
    assert last == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"batch_size": 4}}, r"data\.batch_size = 4 is not a multiple of the 3 processes"),
        (
            {"data": {"batch_size": 6}, "training": {"parallel": "fsdp2"}, "optimizer": {"clip": "sample"}},
            "use 'global'",
        ),
        (
            {"data": {"batch_size": 6}, "training": {"trackers": ["wandb"]}},
            r"wandb is not installed: pip install 'lorta-fold\[tracking\]'",
        ),
    ],
)
def test_what_processes_cannot_do_is_said_before_they_meet(monkeypatch, changes, message):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(processes_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        Processes(resolve(preset_layer("tiny"), changes))


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("auto", 8, "cuda:3"), ("cuda", 8, "cuda:3"), ("cuda:1", 1, "cuda:1"), ("cpu", 8, "cpu"), ("cuda", 1, "cuda")],
)
def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch, name, count, expected):
    """And makes it the current one before anything is put on the first."""
    current = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr(processes_module, "pick_device", torch.device)
    assert str(processes_module._own_device(name, count)) == expected
    assert current == ([expected] if ":" in expected else [])


def test_threads_and_determinism_are_set_for_the_run(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.get_num_threads()
    try:
        Processes(resolve(preset_layer("tiny"), {"training": {"cpu_threads": 2, "deterministic": True}}))
        assert torch.get_num_threads() == 2 and torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
