"""Small models whose every part matters: a run as training leaves it, and a file of a whole model."""

import csv
from pathlib import Path

import pytest
import torch

from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import RunConfig
from pipeline.folding.model import FoldingModel
from pipeline.folding.model_files import Converted, write_ours
from pipeline.predict import main
from pipeline.runs.checkpoint import Checkpoint, save_checkpoint
from pipeline.runs.directory import RunDirectory, initial_model, trained_parameters, weight_hashes

SMALL = {
    "trunk": {"c_s": 32, "c_z": 16, "structure_module": {"c_s": 32, "heads": 2, "blocks": 2}},
    "data": {"max_recycles": 1},
}
ESMFOLD_LIKE = {
    "stem": {"name": "esm2_t3_demo", "init": "random"},
    "adapter": {"method": "none"},
    "trunk": {
        "blocks": 2, "c_s": 32, "c_z": 16, "sequence_head_width": 8, "pair_head_width": 4, "position_bins": 5,
        "checkpoint_blocks": False,
        "structure_module": {"c_s": 24, "c_z": 12, "c_resnet": 20, "heads": 3, "blocks": 2, "resnet_blocks": 1},
    },
    "heads": {"plddt_hidden": 18},
    "data": {"max_recycles": 1},
}  # fmt: skip
"""ESMFold's architecture, small: with the head for aligned errors."""


def perturbed(config: RunConfig) -> FoldingModel:
    """Away from the initial weights, where every distance is zero and every confidence the same."""
    model = initial_model(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("stem.esm."):
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
        for parameter in model.adapter_parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def make_run(path: Path, config: RunConfig, step: int) -> Path:
    """A run directory as training leaves it, with one checkpoint."""
    run, model = RunDirectory(path), perturbed(config)
    # What does not train is that of the configuration; perturbed() has changed what trains, and more in a whole model.
    fresh = initial_model(config)
    run.create(config, weight_hashes(fresh), fresh)
    tensors = {name: p.detach().clone() for name, p in trained_parameters(model).items()}
    save_checkpoint(run.checkpoints, Checkpoint(step, tensors, tensors, {"moment": torch.zeros(1)}), keep=1)
    return path


@pytest.fixture(scope="session")
def run_path(tmp_path_factory) -> Path:
    """A run directory with a LoRTA adapter and one checkpoint, of step 7."""
    return make_run(tmp_path_factory.mktemp("prediction") / "run", resolve(preset_layer("tiny"), SMALL), 7)


@pytest.fixture(scope="session")
def esmfold_like() -> FoldingModel:
    """A whole model with the head for aligned errors."""
    return perturbed(resolve(preset_layer("esmfold"), ESMFOLD_LIKE))


@pytest.fixture(scope="session")
def weights_path(tmp_path_factory, esmfold_like) -> Path:
    """``esmfold_like`` as a file."""
    path = tmp_path_factory.mktemp("prediction") / "whole.safetensors"
    write_ours(Converted(esmfold_like.config, esmfold_like.state_dict()), path)
    return path


@pytest.fixture
def fasta(tmp_path):
    """Writes a FASTA file of named sequences."""

    def write(name: str = "seqs.fasta", /, **sequences: str) -> Path:
        path = tmp_path / name
        path.write_text("".join(f">{key}\n{sequence}\n" for key, sequence in sequences.items()))
        return path

    return write


@pytest.fixture
def predict(run_path, tmp_path):
    """Runs the command in this process on the CPU; returns the output directory."""

    def call(fasta: Path, *arguments: object, out: str = "out", code: int = 0, run: Path = run_path) -> Path:
        words = ["--run", run, "--fasta", fasta, "--out", tmp_path / out, "--device", "cpu", *arguments]
        assert main([str(word) for word in words]) == code
        return tmp_path / out

    return call


def rows(folder: Path, table: str = "predictions.csv") -> list[dict[str, str]]:
    """Of predictions.csv."""
    with (folder / table).open(newline="") as stream:
        return list(csv.DictReader(stream))
