"""The smallest model, and how to train it, for tests that do."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    "--preset", "tiny", "--device", "cpu", "--seed", "3",
    "--trunk.c_s", "32", "--trunk.c_z", "8", "--trunk.pair_head_width", "8", "--trunk.c_outer_product", "8",
    "--trunk.structure_module.c_s", "16", "--trunk.structure_module.c_z", "8", "--trunk.structure_module.heads", "2",
    "--trunk.structure_module.blocks", "1", "--trunk.dropout", "0.1", "--data.max_recycles", "1",
    "--data.crop_size", "20", "--data.initial_crop_size", "0", "--data.batch_size", "4", "--data.substitutions", "0.1",
    "--optimizer.cosine_after", "1.0", "--optimizer.warmup_steps", "2",
    "--training.validate_every", "4", "--checkpoint-every", "2",
)  # fmt: skip


def launch(*words: object, processes: int = 2) -> subprocess.CompletedProcess:
    """Run a module with its arguments under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
        timeout=900,
    )


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
