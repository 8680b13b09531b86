"""The run directory: tables that are cut back, weights that must fit."""

import csv

import pytest
import torch

from pipeline.config import preset_layer, resolve
from pipeline.folding.model import build_model
from pipeline.run import CsvLog, RunDirectory, RunError, load_parameters, load_run, stem_hash, trained_parameters

SMALL = {"trunk": {"blocks": 1, "c_s": 32, "structure_module": {"c_s": 32, "heads": 2, "blocks": 1}}}


def test_a_table_is_cut_back_to_the_step_of_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, ("step", "loss"), after_step=0)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 3})
    log.close()
    log = CsvLog(path, ("step", "loss"), after_step=2)
    log.append({"step": 3, "loss": float("nan")})
    log.close()
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [["step", "loss"], ["1", "0.333333"], ["2", "0.666667"], ["3", ""]]


def test_a_row_is_on_disk_when_append_returns(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", ("step", "loss"), after_step=0)
    log.append({"step": 1, "loss": 1.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1.5\n"


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
    run.create(config, {"stem_sha256": stem_hash(model)})
    with pytest.raises(RunError, match=r"stem\.safetensors: cannot be read"):
        load_run(run.path, step=0)
    run.save_stem(model)
    loaded, step = load_run(run.path, step=0)
    assert step == 0
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_run(run.path)
    with torch.no_grad():
        next(model.stem.parameters()).add_(1.0)
    run.save_stem(model)
    with pytest.raises(RunError, match="not those that the run was trained with"):
        load_run(run.path, step=0)
    with pytest.raises(RunError, match="do not give --esm-weights"):
        load_run(run.path, step=0, esm_weights="x.pt")
    with pytest.raises(RunError, match="not a run directory"):
        load_run(tmp_path / "none")
