"""Whole models to predict with or to start from: found by name or path, read, and held against a configuration."""

import json
import urllib.error
import urllib.request

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.layers import preset_layer, resolve, to_toml
from pipeline.config.schema import ConfigError
from pipeline.folding import hub
from pipeline.folding.weights import WeightsError, hugging_face_config, to_hugging_face
from pipeline.runs.initial import check_agreement, load_published, locate, shape_layer, source_config
from tests.pipeline.folding.test_weights import batch, tiny_config, tiny_model
from tests.pipeline.test_weights import fair_esm_file


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))

    def offline(url, **_):
        raise urllib.error.URLError(f"no network for {url}")

    monkeypatch.setattr(hub, "urlopen", offline)
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    return tmp_path


def hugging_face(model, folder):
    folder.mkdir(parents=True)
    save_file(to_hugging_face(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model.config)))
    return folder


def ours(model, file):
    save_file(model.state_dict(), file)
    file.with_suffix(".toml").write_text(to_toml(model.config))
    return file


def assert_same_prediction(model, other):
    aatype, mask, index = batch()
    with torch.no_grad():
        first, second = (m(aatype, mask.float(), index, 1) for m in (model, other))
    torch.testing.assert_close(first.structure.positions, second.structure.positions, rtol=0, atol=0)
    torch.testing.assert_close(first.pae_logits, second.pae_logits, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["fair-esm", "hf", "ours"])
def test_each_layout_predicts_as_the_model_it_was_written_from(tmp_path, model, layout, caches):
    path = {
        "fair-esm": lambda: fair_esm_file(tmp_path / "esmfold.pt", model.state_dict(), model.config),
        "hf": lambda: hugging_face(model, tmp_path / "directory"),
        "ours": lambda: ours(model, tmp_path / "ours.safetensors"),
    }[layout]()
    loaded, line = load_published(str(path))
    assert_same_prediction(model, loaded)
    assert not loaded.training and loaded.adapter is None
    assert line.startswith("2 blocks over esm2_t3_demo") and line.endswith(f"from {path}")
    assert ("never pretrained" in line) == (layout == "ours")  # the only one that says so
    assert source_config(str(path)).trunk == loaded.config.trunk
    assert source_config(str(path)).stem.init == ("random" if layout == "ours" else "pretrained")


def test_a_published_name_is_found_where_its_owners_keep_it(caches, model, monkeypatch):
    with pytest.raises(WeightsError, match=r"esmfold_v1 cannot be had: no file .*esmfold_3B_v1\.pt, .*Two ways out"):
        locate("esmfold_v1")
    snapshot = hugging_face(model, caches / "hf" / "models--facebook--esmfold_v1" / "snapshots" / "abc")
    assert locate("esmfold_v1") == snapshot
    assert_same_prediction(model, load_published("esmfold_v1")[0])
    with pytest.raises(WeightsError, match="esmfold_v0 cannot be had"):
        locate("esmfold_v0")
    published = caches / "torch" / "checkpoints" / "esmfold_3B_v1.pt"
    fair_esm_file(published, model.state_dict(), model.config, stem=False)
    assert locate("esmfold_v1") == published
    esm2 = model.stem.esm.state_dict()
    torch.save(esm2, caches / "torch" / "esm2.pt")
    assert_same_prediction(model, load_published("esmfold_v1", str(caches / "torch" / "esm2.pt"))[0])
    with pytest.raises(WeightsError, match=r"has no stem: add --esm-weights esm2_t3_demo_UR50D\.pt"):
        load_published(str(published))
    torch.save(esm2, caches / "torch" / "checkpoints" / "esm2_t3_demo_UR50D.pt")
    assert_same_prediction(model, load_published(str(published))[0])
    with pytest.raises(WeightsError, match=r"esmfold_v9: no such file or directory, and not .* \(esmfold_v1"):
        locate("esmfold_v9")


def test_a_download_is_kept_where_it_is_looked_for(caches, model, monkeypatch):
    (caches / "served").mkdir()
    served = fair_esm_file(caches / "served" / "esmfold_3B_v1.pt", model.state_dict(), model.config)
    asked = []

    def answer(url, **options):
        asked.append(url)
        return urllib.request.urlopen(url, **options)

    monkeypatch.setattr(hub, "DOWNLOAD_URL", f"{served.parent.as_uri()}/{{file}}")
    monkeypatch.setattr(hub, "urlopen", answer)
    for _ in range(2):
        assert_same_prediction(model, load_published("esmfold_v1")[0])
    assert asked == [served.as_uri()]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"trunk": {"blocks": 4}}, r"trunk\.blocks = 4, but the weights of FILE have 2: leave trunk\.blocks out"),
        ({"trunk": {"structure_module": {"heads": 12}}}, r"trunk\.structure_module\.heads = 12, .* have 3"),
        ({"stem": {"name": "esm2_t6_8M"}}, r"stem\.name = 'esm2_t6_8M', .* 'esm2_t3_demo'"),
        ({"heads": {"plddt_atoms": 1}}, r"heads\.plddt_atoms = 1, .* 37"),
        (preset_layer("tiny"), r"trunk\.blocks = 1"),
    ],
)
def test_another_shape_than_the_weights_have_is_refused(layer, message):
    with pytest.raises(ConfigError, match=message):
        check_agreement(layer, shape_layer(tiny_config(), only_shape=True), "FILE")


def test_what_the_weights_leave_open_may_be_set():
    free = {
        "stem": {"name": "esm2_t3_demo", "weights": "x.pt"},
        "trunk": {"checkpoint_blocks": True, "dropout": 0.1, "blocks": 2, "structure_module": {"dropout": 0.2}},
        "data": {"max_recycles": 0},
        "optimizer": {"lr": 1e-5},
    }
    check_agreement(free, shape_layer(tiny_config(), only_shape=True), "FILE")
    assert resolve(shape_layer(tiny_config())).trunk == tiny_config().trunk
    assert resolve(shape_layer(tiny_config())).data.max_recycles == 2
