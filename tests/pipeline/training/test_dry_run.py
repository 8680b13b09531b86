"""Estimates from shapes alone, against what a real forward pass keeps and what is written down of the real models."""

import re
from dataclasses import replace

import pytest
import torch

from pipeline import train
from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import RunConfig
from pipeline.folding.model import build_model
from pipeline.training.data import Batch
from pipeline.training.dry_run import estimate, night, why_not
from pipeline.training.objective import fold_objective

pytestmark = pytest.mark.slow

MEDIUM = {
    "trunk": {"blocks": 2, "c_s": 64, "c_z": 32, "triangle_attention": True, "structure_module": {"c_z": 32}},
    "data": {"crop_size": 64, "initial_crop_size": 0, "batch_size": 2},
}


def kept_by_a_step(config) -> int:
    """Bytes that autograd keeps of a real forward pass and its loss, weights left out."""
    model = build_model(config).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    n, b = config.data.crop_size, config.data.batch_size
    aatype = torch.randint(0, 20, (b, n), generator=torch.Generator().manual_seed(0))
    mask, index = torch.ones(b, n), torch.arange(n).repeat(b, 1)
    positions = 10 * torch.randn(b, n, 37, 3, generator=torch.Generator().manual_seed(1))
    from data_prep.structure.residues import RESTYPE_ATOM37_MASK

    atoms = torch.from_numpy(RESTYPE_ATOM37_MASK)[aatype].float()
    batch = Batch(("a",) * b, aatype, mask, index, positions * atoms[..., None], atoms, torch.ones(b))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fold_objective(model(aatype, mask, index, 0), batch, (True,) * b, config.loss)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_activations_are_those_of_a_real_step(adapter):
    config = resolve(preset_layer("tiny"), MEDIUM, {"adapter": {"method": adapter}})
    assert estimate(config).activations == pytest.approx(kept_by_a_step(config), rel=0.25)


def test_parts_and_bytes():
    config = resolve(preset_layer("tiny"), {"optimizer": {"clip": "sample"}, "data": {"batch_size": 4}})
    e = estimate(config)
    model = build_model(config)
    assert e.weights == 4 * sum(p.numel() for p in model.parameters())
    trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (e.gradients, e.optimizer, e.averages) == (2 * trained, 2 * trained, trained), "a sample's and the step's"
    assert e.adapter_bytes == 4 * sum(p.numel() for p in model.adapter.parameters()) == 4 * 728
    assert (e.micro_batch, e.samples, e.crop) == (1, 4, 176)
    assert e.memory == e.weights + e.gradients + e.optimizer + e.averages + e.activations
    frozen = estimate(resolve(preset_layer("tiny"), {"training": {"freeze": ["trunk.*"]}}))
    assert frozen.gradients < trained / 2


def test_a_night_is_eight_hours():
    assert night(12.0, 500) == "a night (8 h) is about 2,400 steps, max_steps = 500 takes 1 h 40 min"


def test_the_default_model_is_tried_on_a_cpu():
    assert why_not(replace(estimate(RunConfig()), weights=0, activations=0), torch.device("cpu")) == ""


def test_dry_run_needs_no_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--dry-run", "--preset", "tiny", "--adapter", "lora", "--rank", "1"]) == 0
    text = capsys.readouterr().out
    assert "structure module" in text and "TFLOP/s sustained" in text and "Adapters alone: 0.006 MB" in text
    measured = re.search(r"Measured on cpu, 1 process\(es\), fp32: ([\d.]+) s a step .*", text)
    assert measured and "a night (8 h) is about " in measured[0] and "max_steps = 1,800 takes" in measured[0]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as stop:
        train.main(["--preset", "tiny"])
    assert stop.value.code == 2 and "--data and --out are needed" in capsys.readouterr().err


def test_fine_tuning_esmfold_is_estimated_without_its_weights(capsys, tmp_path, monkeypatch):
    """What a GPU of 24 GB is bought for: both adapters, real shapes, no file of them on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    options = ["--dry-run", "--init-from", "esmfold_v1", "--trunk-adapter", "lorta", "--data.crop_size", "128"]
    assert train.main([*options]) == 0
    text = capsys.readouterr().out
    assert "48 blocks over esm2_t36_3B" in text and "686,119,296" in text
    assert "Not measured here: " in text
    assert "Fits a GPU of 24 GB" in text
    assert train.main([*options, "--trunk.checkpoint_blocks", "false", "--data.batch_size", "64"]) == 0
    assert "No GPU has as much: training.micro_batch = 1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
