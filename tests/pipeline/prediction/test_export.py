"""What is exported loads back, here and in transformers and PEFT, and predicts the same."""

import numpy as np
import pytest
import torch

import lorta
from pipeline import load_run
from pipeline.config.layers import preset_layer, resolve
from pipeline.export import main
from pipeline.runs.initial import shape_layer, source_config
from tests.pipeline.prediction.conftest import make_run

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module")
def run_with(tmp_path_factory, weights_path):
    """``run_with(stem, trunk)``: a run that started from a whole model, with adapters of these methods."""

    def make(stem, trunk="full"):
        layers = {
            "init": {"weights": str(weights_path)},
            "adapter": {"method": stem, "rank": 2},
            "trunk_adapter": {"method": trunk},
        }
        shape = shape_layer(source_config(str(weights_path)))
        return make_run(tmp_path_factory.mktemp("export") / "run", resolve(preset_layer("esmfold"), shape, layers), 5)

    return make


@pytest.fixture(scope="module")
def adapted(run_with):
    """LoRTA on the stem and LoRA on the trunk."""
    return run_with("lorta", "lora")


def export(run, to, out, code=0, *arguments):
    assert main(["--run", str(run), "--to", to, "--out", str(out), *arguments]) == code


def same(a, b):
    np.testing.assert_allclose(a.prediction.atom14, b.prediction.atom14, atol=1e-3)
    np.testing.assert_allclose(a.plddt, b.plddt, atol=1e-2)
    assert np.abs(a.ca_positions).max() > 3, "the comparison is of something"


@pytest.mark.parametrize("name", ["run_path", "adapted"])
def test_merged_weights(name, request, tmp_path):
    run = request.getfixturevalue(name)
    export(run, "merged", tmp_path / "out")
    merged = load_run(tmp_path / "out" / "model.safetensors", device="cpu")
    assert not merged.loaded.model.adapted()
    expected = load_run(run, device="cpu").fold(SEQUENCE)
    same(merged.fold(SEQUENCE), expected)
    untrained = load_run(run, step=0, device="cpu").fold(SEQUENCE)
    assert np.abs(untrained.ca_positions - expected.ca_positions).max() > 1, "the adapter and the rest matter"


def test_hugging_face_directory(adapted, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the directory is for transformers")
    export(adapted, "hf", tmp_path / "hf")
    model = load_run(adapted, device="cpu")
    ours = model.fold(SEQUENCE)
    same(load_run(tmp_path / "hf", device="cpu").fold(SEQUENCE), ours)
    port = transformers.EsmForProteinFolding.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokens = tokenizer([SEQUENCE, "AX"], return_tensors="pt", padding=True, add_special_tokens=False)
    assert tokens["input_ids"][0].tolist() == ours.prediction.aatype.tolist()
    assert (
        tokens["input_ids"][1].tolist() == [0, 20] + [0] * (len(SEQUENCE) - 2) and tokens["attention_mask"].sum() == 24
    )
    with torch.no_grad():
        theirs = port(**tokens, num_recycles=model.loaded.model.config.data.max_recycles)
    np.testing.assert_allclose(theirs["positions"][-1, 0].numpy()[:, :4], ours.prediction.atom14[:, :4], atol=1e-3)
    np.testing.assert_allclose(100 * theirs["plddt"][0, :, 1].numpy(), ours.plddt, atol=1e-2)


def test_adapters_as_plain_lora(adapted, tmp_path):
    """PEFT puts the files on the untouched modules, next to everything else that was trained."""
    peft = pytest.importorskip("peft", reason="the files are PEFT's")
    export(adapted, "lora", tmp_path / "lora")
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [
        *("sequence", "stem", "stem_transformers", "triangle"),
    ]
    expected = load_run(adapted, device="cpu").fold(SEQUENCE)
    model = load_run(adapted, device="cpu")
    for root in model.loaded.model.adapted().values():
        lorta.detach(root)
    base = model.fold(SEQUENCE)
    assert np.abs(base.ca_positions - expected.ca_positions).max() > 0.1, "the adapters matter"
    stem = model.loaded.model.stem
    stem.esm = peft.PeftModel.from_pretrained(stem.esm, tmp_path / "lora" / "stem").get_base_model()
    for name in ("sequence", "triangle"):  # the trunk's functions read the weights, so the update goes into them
        view = model.loaded.model.adapted()[name]
        peft.PeftModel.from_pretrained(view, tmp_path / "lora" / name).merge_and_unload()
    same(model.fold(SEQUENCE), expected)


def test_biases_are_merged_and_bottlenecks_are_refused(run_with, tmp_path, capsys):
    bitfit, houlsby = run_with("bitfit"), run_with("houlsby")
    export(bitfit, "hf", tmp_path / "hf")
    same(load_run(tmp_path / "hf", device="cpu").fold(SEQUENCE), load_run(bitfit, device="cpu").fold(SEQUENCE))
    for run, to, reason in (
        (bitfit, "lora", "'bitfit', which is no update of weights; no LoRA holds it"),
        (houlsby, "hf", "'houlsby', which acts on outputs; cannot merge"),
    ):
        capsys.readouterr()
        export(run, to, tmp_path / "refused", 2)
        assert capsys.readouterr().err == f"error: the adapter on stem: adapter 'default' is {reason}\n"
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("to", ["hf", "lora", "merged"])
def test_what_cannot_be_written_leaves_nothing(adapted, tmp_path, capsys, small_files, to):
    with small_files(500):
        assert main(["--run", str(adapted), "--to", to, "--out", str(tmp_path / "out")]) != 0
    assert "File too large" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_refusals_are_one_line(run_path, tmp_path, capsys, weights_path):
    def error(*arguments):
        export(*arguments, 2)
        text = capsys.readouterr().err.strip()
        assert len(text.splitlines()) == 1
        return text

    text = error(run_path, "hf", tmp_path / "x")
    assert "trunk.pair_update = 'outer_product_mean' has no place in ESMFold's files" in text
    assert text.startswith(f"error: {run_path}: ") and text.endswith("; --to merged writes any run")
    assert not (tmp_path / "x").exists()
    assert "is there already" in error(run_path, "merged", tmp_path)
    assert "not a run directory" in error(tmp_path, "merged", tmp_path / "x")
    assert "the run has no adapter" in error(weights_path, "lora", tmp_path / "x")
