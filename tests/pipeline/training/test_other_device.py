"""Training on a device that is not the CPU, as far as that can be tried without one (``tests/pretended_device.py``)."""

import subprocess
import sys

import pytest
import torch
from torch.utils import backend_registration

from pipeline.train import main
from tests.pipeline.training.small import ROOT, SMALL, table

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


def pretended(*words: object) -> subprocess.CompletedProcess:
    """Python with these arguments."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} has no hooks for a backend written in Python")
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def test_tensors_of_two_devices_are_an_error_there():
    result = pretended("-c", MIXED)
    assert result.returncode == 0, result.stderr
    error = "expected all tensors on one device, found on the CPU too"
    assert result.stdout.splitlines() == ["6.0", "pretended:0", error, error, error]


def test_everything_trains_and_resumes_there_as_on_a_cpu(small_dataset, tmp_path):
    """Every loss and head, recycles, recomputed blocks, clipping per sample, averages, validation, checkpoints."""
    common = ("--data", small_dataset, *SMALL, *EVERYTHING)
    for device in ("cpu", "pretended"):
        arguments = [*map(str, common), "--out", str(tmp_path / device), "--device", device]
        if device == "cpu":
            assert main(arguments) == 0
        else:
            result = pretended("-m", "tests.pretended_device", "pipeline.train", *arguments)
            assert result.returncode == 0, result.stderr[-2000:]
    for name in ("metrics.csv", "validation.csv"):
        rows, there = table(tmp_path / "cpu" / name), table(tmp_path / "pretended" / name)
        assert len(rows) == len(there) >= 2
        for row, other in zip(rows, there, strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                if value and value.lstrip("-")[0].isdigit() and key != "step":
                    assert float(other[key]) == pytest.approx(float(value), rel=2e-3, abs=2e-3), (name, key)
                else:
                    assert other[key] == value
    words = ("--data", small_dataset, "--out", tmp_path / "pretended", "--resume", "--max-steps", "3")
    result = pretended("-m", "tests.pretended_device", "pipeline.train", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [row["step"] for row in table(tmp_path / "pretended/metrics.csv")] == ["1", "2", "3"]
