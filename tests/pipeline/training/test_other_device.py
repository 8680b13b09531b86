"""Training on a device that is not the CPU: one that only pretends to be (``tests/pretended_device.py``), and a GPU."""

import subprocess
import sys

import pytest
import torch
from torch.utils import backend_registration

from pipeline.train import main
from tests.pipeline.training.small import ROOT, SMALL, table

pytestmark = pytest.mark.slow

EVERYTHING = (
    *("--trunk.triangle_attention", "true", "--trunk.checkpoint_blocks", "true", "--data.max_recycles", "2"),
    *("--heads.pae", "true", "--loss.pae", "0.1", "--loss.violation", "1.0", "--heads.masked_lm", "true"),
    *("--trunk.dropout", "0", "--trunk.structure_module.dropout", "0"),  # drawn on the device
    *("--optimizer.clip", "sample", "--data.batch_size", "2", "--training.validate_every", "2", "--max-steps", "2"),
)  # fmt: skip

MIXED = """
import torch
from tests.pretended_device import pretended_device
with pretended_device():
    x = torch.ones(3, device="pretended")
    print((x + torch.tensor(1.0)).sum().item())
    print(x[torch.tensor([0, 2])].device)
    for mixed in (lambda: x + torch.ones(3), lambda: torch.where(x > 0, x, torch.zeros(3)), lambda: torch.ones(3) @ x):
        try:
            mixed()
        except RuntimeError as error:
            print(str(error).split(": ")[1])
"""


def python(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def need_pretended_device() -> None:
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} has no hooks for a backend written in Python")


def run_on(device: str, module: str, *words: object) -> None:
    """A command on ``device``, which must end well; skips where there is no such device."""
    if device == "pretended":
        need_pretended_device()
        module = ("tests.pretended_device", module)
    else:
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        module = (module,)
    result = python("-m", *module, *words)
    assert result.returncode == 0, result.stderr[-2000:]


def test_tensors_of_two_devices_are_an_error():
    need_pretended_device()
    result = python("-c", MIXED)
    assert result.returncode == 0, result.stderr
    error = "expected all tensors on one device, found on the CPU too"
    assert result.stdout.splitlines() == ["6.0", "pretended:0", error, error, error]


@pytest.mark.parametrize("device", ["pretended", "cuda"])
def test_everything_trains_and_resumes_there_as_on_a_cpu(device, small_dataset, tmp_path):
    """Every loss and head, recycles, recomputed blocks, clipping per sample, averages, validation, checkpoints."""
    data, run, here = ("--data", small_dataset), ("--out", tmp_path / device), tmp_path / "cpu"
    run_on(device, "pipeline.train", *data, *SMALL, *EVERYTHING, *run, "--device", device)
    assert main([*map(str, (*data, *SMALL, *EVERYTHING, "--out", here))]) == 0
    for name in ("metrics.csv", "validation.csv"):
        rows, there = table(here / name), table(tmp_path / device / name)
        assert len(rows) == len(there) >= 2
        for row, other in zip(rows, there, strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                if value and value.lstrip("-")[0].isdigit() and key != "step":
                    assert float(other[key]) == pytest.approx(float(value), rel=2e-3, abs=2e-3), (name, key)
                else:
                    assert other[key] == value
    run_on(device, "pipeline.train", *data, *run, "--resume", "--max-steps", "3")
    assert [row["step"] for row in table(tmp_path / device / "metrics.csv")] == ["1", "2", "3"]
