"""Bad steps, early stopping, freezing, overfitting, groups of learning rates: what the loop decides."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from data_prep.dataset.store import StructureDataset
from evaluation.baselines import read_baselines, score_baselines
from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import ConfigError, OptimizerConfig
from pipeline.folding.model import build_model
from pipeline.prediction.loading import Source, load
from pipeline.runs.directory import RunError, freeze, load_run
from pipeline.train import main
from pipeline.training import loop
from pipeline.training import step as trainer
from pipeline.training.guard import SpikeGuard
from pipeline.training.step import make_optimizer, set_learning_rate
from pipeline.training.validation import TargetScore
from tests.datasets import write_dataset
from tests.pipeline.training.small import SMALL, table

pytestmark = pytest.mark.slow


def test_a_loss_that_is_no_number_is_saved_and_stops_the_run_or_is_skipped(train_here, tmp_path, monkeypatch, capsys):
    seeds, fold_objective = set(), trainer.fold_objective

    def broken(output, batch, clamp, config, progress):
        """The third step's second sample has no finite pLDDT loss."""
        objective = fold_objective(output, batch, clamp, config, progress)
        if torch.initial_seed() not in seeds:
            return objective
        terms = objective.terms | {"plddt": objective.terms["plddt"] * torch.tensor([1.0, math.nan, 1.0, 1.0])}
        return replace(objective, loss=objective.loss * math.nan, terms=terms)

    original = loop.Trainer.train_step

    def train_step(self, batches, **options):
        if self.step == 2:
            seeds.update(micro.torch_seed for micro in batches.micro_batches)
        return original(self, batches, **options)

    monkeypatch.setattr(trainer, "fold_objective", broken)
    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "4") == 1
    error = capsys.readouterr().err
    assert "step 3: the loss is nan (plddt of " in error
    assert "--resume --training.bad_step skip" in error
    assert len(table(run / "metrics.csv")) == 2
    report = json.loads((run / "bad_steps" / "step_00000003.json").read_text())
    assert [sample["bad"] for sample in report["samples"]] == [[], ["plddt"], [], []]
    with safe_open(run / "bad_steps" / "step_00000003.0.0.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ids"]) == [sample["id"] for sample in report["samples"]]
        assert file.get_tensor("atom37_positions").shape == (4, 20, 37, 3)
    before = load_file(run / "checkpoints" / "step_00000002" / "trained.safetensors")
    assert (
        train_here(run, "--resume", "--training.bad_step", "skip", "--max-steps", "4", "--checkpoint-every", "1") == 0
    )
    rows = table(run / "metrics.csv")
    assert [row["skipped"] for row in rows] == ["0", "0", "1", "0"]
    assert rows[2]["loss"] == ""
    after = load_file(run / "checkpoints" / "step_00000003" / "trained.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_gradient_that_is_no_number_names_its_tensors(train_here, tmp_path, monkeypatch, capsys):
    fold_objective = trainer.fold_objective

    def broken(output, batch, clamp, config, progress):
        """The root of nothing adds nothing to the loss, and its derivative is infinite."""
        objective = fold_objective(output, batch, clamp, config, progress)
        nothing = (output.plddt_logits.sum() * 0).abs().sqrt() if output.plddt_logits.requires_grad else 0
        return replace(objective, loss=objective.loss + nothing)

    monkeypatch.setattr(loop, "check_gradient_path", lambda *a: [])  # which would refuse it
    monkeypatch.setattr(trainer, "fold_objective", broken)
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "2") == 1
    error = capsys.readouterr().err
    assert "step 1: the gradient norm is nan (no finite gradient in " in error
    report = json.loads((run / "bad_steps" / "step_00000001.json").read_text())
    assert any(name.startswith("lddt_head.") for name in report["gradients_not_finite"])
    assert not any(sample["bad"] for sample in report["samples"])


def test_skipping_has_an_end(train_here, tmp_path, monkeypatch, capsys):
    """Where all steps are bad it is not the data: after two that were skipped the third stops the run, and again."""
    original = loop.Trainer.train_step
    monkeypatch.setattr(loop, "MOST_IN_A_ROW", 2)
    monkeypatch.setattr(
        loop.Trainer, "train_step", lambda *a, **options: replace(original(*a, **options), problem="the loss is nan")
    )
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "6", "--training.bad_step", "skip") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: step 3: the loss is nan") and "so were the 2 steps before it" in error
    assert [row["skipped"] for row in table(run / "metrics.csv")] == ["1", "1"]
    assert train_here(run, "--resume") == 1 and "step 3: " in capsys.readouterr().err


def test_memory_that_ends_is_a_line(train_here, tmp_path, monkeypatch, capsys):
    def train_step(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nProcess 1 has ...")

    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "1") == 0 and (run / "summary.json").is_file()
    capsys.readouterr()
    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    assert train_here(run, "--resume", "--max-steps", "2") == 1
    assert not (run / "summary.json").exists(), "it is not finished any more"
    error = capsys.readouterr().err
    assert error.startswith(
        "error: the memory of cpu ended (CUDA out of memory. Tried to allocate 2 GiB.): training.mic"
    )
    assert error.count("\n") == 1


def test_what_a_run_that_goes_on_can_change(train_here, small_dataset, tmp_path, capsys):
    """How it runs, not what it computes; what it changed is written down."""
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "1") == 0
    assert train_here(run, "--resume", "--max-steps", "2", "--trunk.checkpoint_blocks", "true") == 0
    assert "max_steps = 2\n" in (run / "config.toml").read_text()
    assert "- Trained to step 2 of 2, " in (run / "README.md").read_text()
    assert train_here(run, "--resume") == 0, "the changed number of steps"
    assert len(table(run / "metrics.csv")) == 2
    written = (run / "config.toml").read_bytes()
    capsys.readouterr()
    (tmp_path / "other.toml").write_text("[data]\nbatch_size = 2\n")
    for words, option, field, value, has in (
        (("--optimizer.lr", "5e-4"), "--optimizer.lr", "optimizer.lr", "0.0005", "0.002"),
        (("--seed", "4"), "--seed", "training.seed", "4", "3"),
        (("--rank", "4"), "--rank", "adapter.rank", "4", "8"),
        (("--training.freeze", '["trunk.*"]'), "--training.freeze", "training.freeze", "('trunk.*',)", "()"),
        (("--preset", "tiny"), "--preset tiny", "trunk.c_s", "128", "32"),
        (("--config", tmp_path / "other.toml"), f"--config {tmp_path}/other.toml", "data.batch_size", "2", "4"),
    ):
        message = f"{option}: {field} = {value}, and {run} has {has}: "
        assert train_here(run, "--resume", *words) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message}") and error.count("\n") == 1
    other = tmp_path / "other"
    write_dataset(other, [StructureDataset(small_dataset).load(name) for name in ("2igd_A_A", "1cyo_A_A")])
    assert main(["--data", str(other), "--out", str(run), "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {other}: is not the dataset that {run} is trained on") and error.count("\n") == 1
    assert (run / "config.toml").read_bytes() == written


def test_spikes_are_measured_against_the_median():
    guard = SpikeGuard(3.0, [])
    for _ in range(19):
        assert guard.limit() == math.inf
        guard.add(2.0)
    guard.add(50.0)
    assert guard.limit() == 6.0
    assert SpikeGuard(0.0, [1.0] * 50).limit() == math.inf


def test_the_same_options_again_go_on(train_here, tmp_path, capsys):
    """All of them, or none; what a run may change it has from an option, and not from the preset it started from."""
    run = tmp_path / "run"
    assert train_here(run, "--resume", *SMALL, "--max-steps", "1") == 0
    assert "no run to go on with: a new one begins" in capsys.readouterr().out
    assert train_here(run, *SMALL, "--max-steps", "1") == 2
    assert "holds a run already: --resume to go on with it" in capsys.readouterr().err
    written = (run / "config.toml").read_bytes()
    assert train_here(run, "--resume", *SMALL) == 0, "without --max-steps: not the preset's 1,800"
    assert (run / "config.toml").read_bytes() == written
    assert train_here(run, "--auto-resume", *SMALL, "--max-steps", "2") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: --auto-resume is now called --resume") and "Resuming" in printed.out
    assert len(table(run / "metrics.csv")) == 2


def test_the_best_round_is_kept_and_has_a_name(train_here, tmp_path, monkeypatch, capsys):
    """Means 0.1, 0.5, 0.4, 0.3 in rounds 0, 1, 2, 3: with one checkpoint to keep, those of steps 1 and 3 are there."""
    scores = iter((0.1, 0.5, 0.4, 0.3))
    monkeypatch.setattr(loop, "validate", lambda *_: [TargetScore("a", 50, next(scores), 50.0)])
    run = tmp_path / "run"
    options = ("--training.validate_every", "1", "--training.keep_checkpoints", "1", "--checkpoint-every", "100")
    assert train_here(run, *SMALL, *options, "--max-steps", "3") == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000001", "step_00000003"]
    said = capsys.readouterr().out
    assert "Best validation lDDT-Calpha: 0.5000 at step 1; --checkpoint best takes it in place of the last." in said
    assert [load_run(run, step=step)[1] for step in ("best", "last", 1)] == [1, 3, 1]
    assert load(Source(str(run), "best")).description == f"{run}, step 1, the best in validation"
    shutil.rmtree(run / "checkpoints" / "step_00000001")
    with pytest.raises(RunError, match=r"best round of validation was at step 1, and .*; there are: 3"):
        load_run(run, step="best")
    (run / "validation.csv").unlink()
    with pytest.raises(RunError, match="has no round of validation with a checkpoint"):
        load_run(run, step="best")


def test_rounds_after_the_last_checkpoint_do_not_count(train_here, tmp_path):
    """Where a run was killed between a round of validation and its checkpoint."""
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "1") == 0
    with (run / "validation.csv").open("a") as stream:
        stream.write("9,a,50,1.0,50.0\n")
    assert load_run(run, step="best")[1] <= 1


def test_early_stopping_keeps_the_best(train_here, tmp_path, monkeypatch):
    """Means 0.1, 0.5, 0.4, 0.3 in rounds 0, 2, 4, 6: with patience 2 the run ends after step 6 and keeps step 2."""
    scores = iter((0.1, 0.5, 0.4, 0.3))
    monkeypatch.setattr(loop, "validate", lambda *_: [TargetScore("a", 50, next(scores), 50.0)])
    run = tmp_path / "run"
    options = ("--training.patience", "2", "--training.validate_every", "2", "--training.keep_checkpoints", "1")
    assert train_here(run, *SMALL, *options, "--max-steps", "20") == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000002", "step_00000006"]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["step"], summary["best_step"], summary["stopped_early"]) == (6, 2, True)


def test_validation_is_shown_beside_the_baselines(train_here, small_dataset, tmp_path, capsys):
    """One globin, with which none of the three training chains aligns."""
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "2") == 0
    (row,) = read_baselines(run / "baselines.csv")
    (expected,) = score_baselines(StructureDataset(small_dataset), ["d1ecaa__A"])
    assert (row.target, row.nearest_train) == ("d1ecaa__A", "") and math.isnan(row.copy)
    assert row.helix == pytest.approx(expected.helix, abs=1e-6)
    printed = " ".join(capsys.readouterr().out.split())
    words = "no training chain is similar enough to be copied"
    assert f"Validation on the only validation chain. Without a model: one straight helix 0.340; {words}." in printed
    assert printed.count(f"over 1 chains no better than a straight helix; {words}") == 2
    (run / "baselines.csv").write_text("damaged")  # written again as the run goes on
    assert train_here(run, "--resume", "--max-steps", "3") == 0
    assert repr(read_baselines(run / "baselines.csv")) == repr([row])


def test_patience_needs_chains_to_validate_on(train_here, small_dataset, tmp_path, capsys):
    """Without any, the run says no word of validation and names a split that there is."""
    data = tmp_path / "data"
    write_dataset(data, [StructureDataset(small_dataset).load("2igd_A_A")])
    words = ["--data", str(data), "--out", str(tmp_path / "run"), *SMALL, "--max-steps", "1"]
    assert main([*words, "--training.patience", "2"]) == 2 and not (tmp_path / "run").exists()
    assert "training.patience waits for validation" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Best validation" not in said and "--split train" in said


def test_overfit_frozen_per_sample_with_a_panel(train_here, small_dataset, tmp_path, capsys):
    """Two chains to train and validate on; a frozen part stays as it is; clipping per sample takes one at a time."""
    run = tmp_path / "run"
    panel = ("--training.panel", small_dataset)
    options = ("--overfit", "2", "--training.freeze", '["trunk.structure_module.*"]', "--optimizer.clip", "sample")
    assert train_here(run, *SMALL, *options, *panel, "--max-steps", "2") == 0
    assert len({row["target"] for row in table(run / "validation.csv")}) == 2
    assert "Training on 2 chains, validating on 2, " in capsys.readouterr().out
    assert [row["step"] for row in table(run / "panel.csv")] == ["0"] * 4 + ["2"] * 4  # all of its chains, twice
    assert "Forgetting check on a panel of 4 chains" in (run / "README.md").read_text()
    trained = load_file(run / "checkpoints" / "step_00000002" / "trained.safetensors")
    assert not any(name.startswith("trunk.structure_module.") for name in trained)
    assert json.loads((run / "run.json").read_text())["parameters"]["structure module"]["trainable"] < 1000
    assert load_run(run)[1] == 2


def test_a_panel_that_is_not_there_is_said_before_the_run_begins(train_here, tmp_path, capsys):
    assert train_here(tmp_path / "run", *SMALL, "--training.panel", str(tmp_path / "none")) == 2
    assert "none: no such directory" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def model():
    return build_model(resolve(preset_layer("tiny")))


def test_what_matches_nothing_is_named(model):
    with pytest.raises(ConfigError, match=r"no parameter matches 'trunk\.block\.\*'"):
        freeze(model, ["trunk.block.*"])


def test_something_must_be_left_to_train():
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(build_model(resolve(preset_layer("tiny"))), ["*"])


def test_a_run_goes_on_only_from_the_weights_that_it_froze(train_here, tmp_path, capsys):
    """The stem of an untrained run is in its directory, where it can be exchanged."""
    run = tmp_path / "run"
    assert train_here(run, *SMALL, "--max-steps", "1") == 0
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"frozen_sha256": "0" * 64}))
    assert train_here(run, "--resume", "--max-steps", "2") == 2
    assert "the weights that do not train differ from those that the run started with" in capsys.readouterr().err
    assert len(table(run / "metrics.csv")) == 1


def test_parameters_that_must_not_change_stop_the_run(train_here, tmp_path, monkeypatch, capsys):
    run, original = tmp_path / "run", loop.Trainer.train_step

    def train_step(self, batches, **options):
        result = original(self, batches, **options)
        if self.step == 3:
            frozen = next(p for p in self.model.parameters() if not p.requires_grad)
            frozen.data[0] += 1e-3
        return result

    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    assert train_here(run, *SMALL, "--max-steps", "4") == 1
    assert "step 4: frozen parameters have changed; this checkpoint is not written" in capsys.readouterr().err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000002"]


def test_compiled_blocks_train_as_others(train_here, tmp_path, monkeypatch):
    """Traced and run by Dynamo without Inductor, which needs a C++ compiler and minutes."""
    compiled, original = [], torch.nn.Module.compile

    def compile_block(self, **options):
        compiled.append(type(self).__name__)
        original(self, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_block)
    options = (*SMALL, "--trunk.dropout", "0", "--data.max_recycles", "0", "--max-steps", "1")
    for name, choice in (("plain", "false"), ("compiled", "true")):
        assert train_here(tmp_path / name, *options, "--training.compile", choice) == 0
    assert len(compiled) == 1
    rows, others = (table(tmp_path / name / "metrics.csv") for name in ("plain", "compiled"))
    for row, other in zip(rows, others, strict=True):
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-5)
        assert float(other["grad_norm"]) == pytest.approx(float(row["grad_norm"]), rel=1e-3)


def test_groups_of_the_optimizer(model):
    config = OptimizerConfig(lr=1e-3, stem_lr=2e-3, heads_lr=4e-3, stem_weight_decay=0.5, warmup_steps=10)
    optimizer = make_optimizer(model, config)
    rate = set_learning_rate(optimizer, config, 5, 100)
    assert rate == pytest.approx(5e-4)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
        {"trunk": 5e-4, "stem": 1e-3, "heads": 2e-3}
    )
    assert [groups[name]["weight_decay"] for name in ("trunk", "stem", "heads")] == [0.0, 0.5, 0.0]
    assert sum(p.numel() for p in groups["stem"]["params"]) == 728  # the adapter
    assert {id(p) for p in groups["heads"]["params"]} == {
        id(p)
        for name, p in model.named_parameters()
        if name.startswith(("distogram_head", "lddt_head")) and p.requires_grad
    }


def test_without_weight_decay_the_steps_are_those_of_adam():
    start, gradient = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 1e-4, -2.0])
    results = []
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.1, **({"weight_decay": 0.0} if kind is torch.optim.AdamW else {}))
        for _ in range(3):
            parameter.grad = gradient.clone()
            optimizer.step()
        results.append(parameter.detach())
    assert torch.equal(*results)
