"""Training that starts from a whole model, in every layout that one comes in; adapters on stem and trunk; resuming."""

import csv
import json
from pathlib import Path

import pytest
import torch

from pipeline import predict, train
from pipeline.config.schema import RunConfig
from pipeline.runs.directory import RunDirectory, RunError, load_run
from tests.pipeline.folding.test_weights import tiny_model
from tests.pipeline.prepare_demo import dataset_of
from tests.pipeline.test_initial import assert_same_prediction, hugging_face, ours
from tests.pipeline.test_weights import fair_esm_file

pytestmark = pytest.mark.slow

QUICK = (
    "--data.crop_size", "24", "--data.batch_size", "1", "--data.max_recycles", "1", "--training.validation_limit", "1",
    "--training.validate_every", "9", "--training.cpu_threads", "1", "--trunk.checkpoint_blocks", "false",
    "--device", "cpu", "--optimizer.warmup_steps", "0", "--optimizer.cosine_after", "1.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("init")


@pytest.fixture(scope="module")
def dataset(folder) -> Path:
    return dataset_of(("2igd_A.pdb.gz", "1cyo_A.pdb.gz"), folder, 0.5)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def sources(folder, model) -> dict[str, tuple[str, ...]]:
    """The same weights in every layout, as options of the command."""
    state = model.state_dict()
    torch.save({f"encoder.{n}": v for n, v in model.stem.esm.state_dict().items()}, folder / "esm2.pt")
    stemless = fair_esm_file(folder / "esmfold_3B_v1.pt", state, model.config, stem=False)
    return {
        "fair-esm": ("--init-from", str(stemless), "--esm-weights", str(folder / "esm2.pt")),
        "hf": ("--init-from", str(hugging_face(model, folder / "esmfold_hf"))),
        "ours": ("--init-from", str(ours(model, folder / "esmfold.safetensors"))),
    }


def run_train(dataset: Path, out: Path, *options: object, code: int = 0) -> Path:
    arguments = ("--data", dataset, "--out", out, *([] if "--resume" in options else QUICK), *options)
    assert train.main([str(a) for a in arguments]) == code
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


ADAPTERS = ("--adapter", "lora", "--rank", "2", "--trunk-adapter", "lorta", "--trunk-rank", "2")


def test_every_layout_starts_the_same_run(folder, dataset, sources, model):
    metrics = []
    for name, options in sources.items():
        run = run_train(dataset, folder / f"run_{name}", *options, *ADAPTERS, "--max-steps", "1")
        metrics.append([{k: v for k, v in row.items() if k != "seconds"} for row in table(run / "metrics.csv")])
        start, step = load_run(run, step=0)
        assert step == 0
        assert_same_prediction(model, start)  # the adapters add nothing yet
    assert len(metrics[0]) == 1 and metrics[0] == metrics[1] == metrics[2]


@pytest.fixture(scope="module")
def trained(folder, dataset, sources) -> Path:
    return run_train(dataset, folder / "trained", *sources["hf"], *ADAPTERS, "--max-steps", "3")


def test_the_run_holds_adapters_and_no_frozen_weights(trained, model):
    run = RunDirectory(trained)
    for folder in (run.adapter, run.trunk_adapter / "sequence", run.trunk_adapter / "triangle"):
        assert json.loads((folder / "adapter_config.json").read_text())["parameters"] > 0
    config = run.config()
    assert config.trunk.blocks == 2 and config.heads.pae and config.stem.name == "esm2_t3_demo"
    counts = run.info()["parameters"]
    assert counts["trunk adapter"]["trainable"] == counts["trunk adapter"]["total"] > 0
    assert counts["trunk"]["trainable"] == counts["stem"]["trainable"] == 0
    assert not run.stem_file.exists()
    moved, _ = load_run(trained)
    before = model.state_dict()
    for part, name, parameter in moved.named_parts():
        name = name.replace(".base_layer", "")
        if part in ("stem", "stem to trunk", "trunk"):
            assert torch.equal(parameter, before[name]), name
    assert any(p.abs().max() > 0 for n, p in moved.named_parameters() if n.endswith("tensors.all.A"))


def test_resumed_equals_uninterrupted_and_predicts(folder, dataset, sources, trained):
    run = run_train(dataset, folder / "resumed", *sources["hf"], *ADAPTERS, "--max-steps", "1")
    run_train(dataset, run, "--resume", "--max-steps", "3")
    rows = [[{**row, "seconds": ""} for row in table(r / "metrics.csv")] for r in (trained, run)]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    assert_same_prediction(load_run(trained)[0], load_run(run)[0])
    arguments = ("--run", run, "--data", dataset, "--out", folder / "preds")
    assert predict.main([str(a) for a in arguments]) == 0
    assert len(table(folder / "preds" / "predictions.csv")) == 1


def test_a_run_is_a_start_too_with_its_adapters_merged(folder, dataset, trained):
    again = run_train(dataset, folder / "again", "--init-from", trained, "--trunk-adapter", "none", "--max-steps", "1")
    merged, _ = load_run(again, step=0)
    source, _ = load_run(trained)
    from tests.pipeline.folding.test_weights import batch

    aatype, mask, index = batch()
    with torch.no_grad():
        one, other = (m(aatype, mask.float(), index, 0).structure.positions for m in (source, merged))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)  # merging rounds
    assert set(merged.adapters()) == {"stem"} and merged.config.trunk_adapter.method == "none"


def test_a_moved_or_changed_source_is_noticed(folder, dataset, sources, trained, model):
    moved = folder / "elsewhere.safetensors"
    ours(model, moved)
    loaded, _ = load_run(trained, init_from=str(moved))
    assert_same_prediction(loaded, load_run(trained)[0])
    other = tiny_model()
    with torch.no_grad():
        other.trunk.blocks[0].mlp_pair.mlp[1].weight.add_(1.0)
    with pytest.raises(RunError, match="not those that the run started from: say where those are with --weights"):
        load_run(trained, init_from=str(ours(other, folder / "other.safetensors")))
    with pytest.raises(RunError, match="did not start from a whole model: do not give --init-from"):
        plain = RunDirectory(folder / "plain")
        plain.create(RunConfig(), {}, model)
        load_run(plain.path, init_from=str(moved))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trunk.blocks", "4"), "trunk.blocks = 4, but the weights of"),
        (("--preset", "tiny"), "but the weights of"),
        (("--esm", "esm2_t6_8M"), "stem.name = 'esm2_t6_8M', but the weights of"),
        (("--esm-init", "random"), "stem.init = 'random', but the weights of"),
        (("--trunk-adapter", "houlsby"), "trunk_adapter.method = 'houlsby'"),
        (("--adapter.settings.axs", "1"), "adapter: 'axs' is no setting of 'lorta'"),
    ],
)
def test_conflicts_are_one_line_that_names_the_field(folder, dataset, sources, capsys, options, message):
    run_train(dataset, folder / "never", *sources["hf"], *options, code=2)
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1
    assert not (folder / "never").exists()


def test_a_source_that_is_not_there_is_one_line(folder, dataset, capsys):
    run_train(dataset, folder / "never", "--init-from", folder / "none", code=2)
    assert "no such file or directory, and not the name of a published model" in capsys.readouterr().err
    run_train(dataset, folder / "never", "--trunk-adapter", "none", code=2)
    assert "give init.weights (--init-from)" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["bitfit", "full"])
def test_methods_of_other_kinds_train_are_resumed_and_predict(folder, dataset, sources, method):
    """Those that update weights are in the tests above; every method is stepped in folding/test_adapters.py."""
    options = (*sources["ours"], "--adapter", method, "--max-steps", "1")
    run = run_train(dataset, folder / f"method_{method}", *options)
    start, _ = load_run(run, step=0)
    run_train(dataset, run, "--resume", "--max-steps", "2")
    model, step = load_run(run)
    assert step == 2 and len(table(run / "metrics.csv")) == 2
    moved = {name for name, p in model.stem.named_parameters() if not torch.equal(p, start.stem.get_parameter(name))}
    assert moved
    if method == "bitfit":
        assert moved <= {f"esm.lorta.default.{name}" for name in model.adapter.factors()}
        assert (run / "adapter" / "adapter_model.safetensors").is_file()
