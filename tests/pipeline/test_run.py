"""The run directory: weights that must fit."""

import pytest
import torch

from pipeline.config.layers import preset_layer, resolve
from pipeline.folding.model import build_model
from pipeline.folding.tensor_files import write_tensors
from pipeline.runs.directory import (
    RunDirectory,
    RunError,
    base_stem_parameters,
    load_parameters,
    load_run,
    trained_parameters,
    weight_hashes,
)

SMALL = {"trunk": {"blocks": 1, "c_s": 32, "structure_module": {"c_s": 32, "heads": 2, "blocks": 1}}}


def test_load_parameters_refuses_what_does_not_fit():
    model = build_model(resolve(preset_layer("tiny"), SMALL))
    tensors = {name: torch.zeros_like(p) for name, p in trained_parameters(model).items()}
    load_parameters(model, tensors, "here")
    assert all(p.abs().max() == 0 for p in trained_parameters(model).values())
    name = next(iter(tensors))
    with pytest.raises(RunError, match="here: its tensors are not those of this model"):
        load_parameters(model, {k: v for k, v in tensors.items() if k != name}, "here")
    with pytest.raises(RunError, match=f"here: {name} has shape"):
        load_parameters(model, tensors | {name: torch.zeros(2, 2, 2)}, "here")


def test_another_stem_is_refused(tmp_path):
    config = resolve(preset_layer("tiny"), SMALL)
    run = RunDirectory(tmp_path / "run")
    model = build_model(config)
    run.create(config, weight_hashes(model), model)
    loaded, step = load_run(run.path, step=0)
    assert step == 0
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_run(run.path)
    with torch.no_grad():
        next(model.stem.parameters()).add_(1.0)
    write_tensors(run.stem_file, base_stem_parameters(model))
    with pytest.raises(RunError, match="not those that the run was trained with"):
        load_run(run.path, step=0)
    with pytest.raises(RunError, match="do not give --esm-weights"):
        load_run(run.path, step=0, esm_weights="x.pt")
    with pytest.raises(RunError, match="do not give --init-from"):
        load_run(run.path, step=0, init_from="x.pt")
    write_tensors(run.stem_file, {"another": torch.zeros(2)})
    with pytest.raises(RunError, match="its tensors are not those of this stem"):
        load_run(run.path, step=0)
    run.stem_file.write_bytes(b"cut")
    with pytest.raises(RunError, match=r"stem\.safetensors: cannot be read"):
        load_run(run.path, step=0)
    with pytest.raises(RunError, match="not a run directory"):
        load_run(tmp_path / "none")


def test_a_run_of_an_earlier_version_is_read_with_a_warning(tmp_path):
    """Its hashes and its random stem counted a masked-LM head, which the stem no longer has."""
    config = resolve(preset_layer("tiny"), SMALL)
    run, model = RunDirectory(tmp_path / "run"), build_model(config)
    run.create(config, {"stem_sha256": "0", "frozen_sha256": "0"}, model)
    write_tensors(run.stem_file, base_stem_parameters(model) | {"esm.lm_head.bias": torch.zeros(33)})
    with pytest.warns(UserWarning, match="earlier version: whether its frozen weights .* is not checked"):
        loaded, _ = load_run(run.path, step=0)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "message"), [(b"{}", "is damaged"), (b"[]", "is damaged"), (b"{", "cannot be"), (b"\xff", "cannot be")]
)
def test_a_run_without_its_hashes_is_refused(tmp_path, content, message):
    run = RunDirectory(tmp_path / "run")
    config = resolve(preset_layer("tiny"), SMALL)
    run.create(config, {}, build_model(config))
    run.info_file.write_bytes(content)
    with pytest.raises(RunError, match=rf"run\.json: {message}"):
        load_run(run.path, step=0)
    run.summary_file.write_bytes(content)
    with pytest.raises(RunError, match=rf"summary\.json: {message}"):
        run.summary()
