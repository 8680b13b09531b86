"""The conversion command on small files in the three layouts, made as their owners make them."""

import argparse
import json
import pickle
import sys
import types
from collections import defaultdict
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.layers import file_layer, resolve
from pipeline.folding.model_files import plain, read, read_content
from pipeline.folding.weights import UNUSED, hugging_face_config, to_hugging_face
from pipeline.weights import main
from tests.pipeline.folding.fair_esm_layout import fair_esm_config, to_fair_esm
from tests.pipeline.folding.test_weights import tiny_config, tiny_model

STEM_HALF = "stem.esm.layers.0.fc1.weight"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def published(model):
    """State dict in our layout with everything that the published files hold."""
    generator = torch.Generator().manual_seed(5)
    heads = {
        "lm_head.weight": torch.randn(23, 32, generator=generator),
        "lm_head.bias": torch.randn(23, generator=generator),
        "esm.contact_head.regression.weight": torch.randn(1, 12, generator=generator),
        "esm.contact_head.regression.bias": torch.randn(1, generator=generator),
    }
    rounded = {n: v.half().float() for n, v in model.state_dict().items() if n.endswith("inv_freq")}  # as published
    return dict(model.state_dict()) | rounded | {UNUSED + name: value for name, value in heads.items()}


@pytest.fixture
def hugging_face(tmp_path, published):
    """As ``save_pretrained`` of transformers writes it (compared with the real one in the test below)."""
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(to_hugging_face(published), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hugging_face_config(tiny_config())))
    return folder


def omegaconf_modules() -> dict[str, types.ModuleType]:
    """Classes that pickle as omegaconf's do: class, then a state with ``_content`` or ``_val`` and metadata.

    The attributes are those of omegaconf 2.x's ``DictConfig.__getstate__`` and ``Node``.
    """
    names = ("omegaconf", *(f"omegaconf.{part}" for part in ("base", "nodes", "dictconfig", "listconfig")))
    modules = {name: types.ModuleType(name) for name in names}

    def define(module: str, name: str):
        kind = type(name, (), {"__module__": module})
        setattr(modules[module], name, kind)
        return kind

    metadata, container = define("omegaconf.base", "Metadata"), define("omegaconf.base", "ContainerMetadata")
    node, mapping = define("omegaconf.nodes", "AnyNode"), define("omegaconf.dictconfig", "DictConfig")
    sequence = define("omegaconf.listconfig", "ListConfig")

    def make(kind, info, **state):
        made = kind()
        made.__dict__ |= {"_metadata": info(), "_parent": None, **state}
        made._metadata.__dict__ |= {"ref_type": Any, "object_type": dict, "optional": True, "flags": defaultdict(dict)}
        return made

    def wrap(value):
        if isinstance(value, dict):
            return make(mapping, container, _content={key: wrap(item) for key, item in value.items()})
        if isinstance(value, list):
            return make(sequence, container, _content=[wrap(item) for item in value])
        return make(node, metadata, _val=value)

    modules["omegaconf.dictconfig"].wrap = wrap
    return modules


def fair_esm_file(path, state, configuration, *, cfg_kind="omegaconf", stem=True):
    """``{"cfg": ..., "model": ...}`` by torch.save, as fair-esm's checkpoints."""
    tensors = {n: v for n, v in to_fair_esm(state).items() if stem or not n.startswith("esm.")}
    cfg = {"model": fair_esm_config(configuration), "other": [1, None]}
    if cfg_kind == "namespace":
        cfg = argparse.Namespace(**cfg)
    elif cfg_kind == "omegaconf":
        modules = omegaconf_modules()
        with pytest.MonkeyPatch.context() as patch:
            for name, module in modules.items():
                patch.setitem(sys.modules, name, module)
            torch.save({"cfg": modules["omegaconf.dictconfig"].wrap(cfg), "model": tensors}, path)
        return path
    torch.save({"cfg": cfg, "model": tensors}, path)
    return path


def assert_equal_states(one, other, without=()):
    kept = [{n: v for n, v in state.items() if n not in without} for state in (one, other)]
    assert set(kept[0]) == set(kept[1])
    for name in kept[0]:
        assert torch.equal(kept[0][name], kept[1][name]), name


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def fails(capsys, *arguments) -> str:
    """The one line of an error, exit code 2."""
    assert run(*arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_hugging_face_to_ours_and_back(tmp_path, hugging_face, published, capsys):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "deep" / "back"
    assert run("--from", hugging_face, "--to", "ours", "--out", ours) == 0
    assert f"Wrote {ours} (ours): 2 blocks over esm2_t3_demo, " in capsys.readouterr().out
    assert_equal_states(load_file(ours), published)
    config = resolve(file_layer(tmp_path / "ours.toml"))
    assert config.trunk.c_s == 32 and config.heads.pae and config.data.max_recycles == 2
    assert run("--from", ours, "--to", "hf", "--out", back) == 0
    assert "missing" not in capsys.readouterr().out
    assert_equal_states(load_file(back / "model.safetensors"), load_file(hugging_face / "model.safetensors"))
    assert json.loads((back / "config.json").read_text()) == json.loads((hugging_face / "config.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "hf", "ours.safetensors", "ours.toml"]
    assert [p.name for p in back.parent.iterdir()] == ["back"]


@pytest.mark.parametrize("shard_size", ["10GB", "200KB"])
def test_what_transformers_saves_is_read(tmp_path, hugging_face, published, shard_size):
    transformers = pytest.importorskip("transformers", reason="transformers' own files are read here")
    port = transformers.EsmForProteinFolding.from_pretrained(hugging_face)
    port.save_pretrained(tmp_path / "saved", max_shard_size=shard_size)
    shards = list((tmp_path / "saved").glob("*.safetensors"))
    assert len(shards) == 1 if shard_size == "10GB" else len(shards) > 1
    again = read(tmp_path / "saved")
    assert_equal_states(again.state, published)
    assert again.config == read(hugging_face).config


def test_pytorch_model_bin_is_read(hugging_face, published):
    """What the hub has for facebook/esmfold_v1, older names included."""
    state = load_file(hugging_face / "model.safetensors")
    (hugging_face / "model.safetensors").unlink()
    layer = "esm.encoder.layer.0.LayerNorm."
    state |= {layer + "gamma": state.pop(layer + "weight"), layer + "beta": state.pop(layer + "bias")}
    state["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    state["esm.embeddings.position_embeddings.weight"] = torch.zeros(1026, 64)
    torch.save(state, hugging_face / "pytorch_model.bin")
    assert_equal_states(read(hugging_face).state, published)


def test_the_masked_lm_head_of_the_stem_is_kept_for_fair_esm(tmp_path, published, hugging_face):
    """Not part of our model, and of no Hugging Face directory; an earlier version had it under ``stem.``."""
    heads = {f"esm.lm_head.{name}": torch.randn(64) for name in ("dense.bias", "layer_norm.weight", "bias")}
    file = fair_esm_file(tmp_path / "model.pt", published | {UNUSED + n: v for n, v in heads.items()}, tiny_config())
    ours, old = tmp_path / "ours.safetensors", tmp_path / "old.safetensors"
    assert run("--from", file, "--to", "ours", "--out", ours) == 0
    state = load_file(ours)
    assert {n for n in to_fair_esm(state) if "esm.lm_head" in n} == set(heads)
    save_file({n.replace(f"{UNUSED}esm.lm_head.", "stem.esm.lm_head."): v for n, v in state.items()}, old)
    old.with_suffix(".toml").write_text(ours.with_suffix(".toml").read_text())
    for source, out in ((ours, "one"), (old, "two")):
        assert run("--from", source, "--to", "hf", "--out", tmp_path / out) == 0
        assert_equal_states(load_file(tmp_path / out / "model.safetensors"), to_hugging_face(published))
    assert_equal_states(read(old).state, state)


@pytest.mark.parametrize("cfg_kind", ["omegaconf", "namespace", "dict"])
def test_fair_esm_to_ours(tmp_path, published, cfg_kind):
    file = fair_esm_file(tmp_path / "model.pt", published, tiny_config(), cfg_kind=cfg_kind)
    assert run("--from", file, "--to", "ours", "--out", tmp_path / "ours.safetensors") == 0
    assert_equal_states(load_file(tmp_path / "ours.safetensors"), published)
    config = resolve(file_layer(tmp_path / "ours.toml"))
    assert config.trunk.structure_module == tiny_config().trunk.structure_module
    assert config.heads == tiny_config().heads


def test_published_file_is_without_stem(tmp_path, published, capsys):
    """ESMFold's own file has the trunk; ESM-2's weights are in ESM-2's file."""
    file = fair_esm_file(tmp_path / "esmfold.pt", published, tiny_config(), stem=False)
    out = ("--to", "ours", "--out", tmp_path / "ours.safetensors")
    assert "has no stem: add --esm-weights esm2_t3_demo_UR50D.pt" in fails(capsys, "--from", file, *out)
    names = [n for n in published if n.startswith("stem.esm.")]
    esm2 = {n.replace("stem.esm.", "encoder.sentence_encoder."): published[n] for n in names}
    torch.save({"args": argparse.Namespace(arch="esm2"), "model": esm2}, tmp_path / "esm2.pt")
    assert run("--from", file, "--esm-weights", tmp_path / "esm2.pt", *out) == 0
    heads = tuple(n for n in published if n.startswith("unused.esm."))
    assert_equal_states(load_file(tmp_path / "ours.safetensors"), published, heads)
    whole = fair_esm_file(tmp_path / "whole.pt", published, tiny_config())
    other = ("--to", "ours", "--out", tmp_path / "other.safetensors")
    assert "has its own stem" in fails(capsys, "--from", whole, "--esm-weights", tmp_path / "esm2.pt", *other)


def test_files_with_real_omegaconf_are_read(tmp_path, hugging_face):
    omegaconf = pytest.importorskip("omegaconf", reason="fair-esm's format holds omegaconf's objects")
    out, source = tmp_path / "esmfold.pt", read(hugging_face)
    cfg = omegaconf.OmegaConf.create({"model": fair_esm_config(source.config)})
    torch.save({"cfg": cfg, "model": to_fair_esm(source.state)}, out)
    assert run("--from", out, "--to", "hf", "--out", tmp_path / "back") == 0
    states = [load_file(folder / "model.safetensors") for folder in (tmp_path / "back", hugging_face)]
    assert_equal_states(*states)
    assert (tmp_path / "back" / "config.json").read_text() == json.dumps(
        json.loads((hugging_face / "config.json").read_text()), indent=2
    ) + "\n"


def test_half_precision_stem_is_kept(tmp_path, published, capsys):
    halved = {n: v.half() if n.startswith("stem.") else v for n, v in published.items()}
    file = fair_esm_file(tmp_path / "model.pt", halved, tiny_config())
    assert run("--from", file, "--to", "hf", "--out", tmp_path / "hf") == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["esmfold_config"]["fp16_esm"] is True
    kept = read(tmp_path / "hf").state
    assert kept[STEM_HALF].dtype == torch.float16 and kept["trunk.trunk2sm_s.weight"].dtype == torch.float32


class Exploit:
    """Would run when unpickled without restriction."""

    def __reduce__(self):
        return (sys.exit, ("unpickled",))


@pytest.mark.parametrize("where", ["cfg", "model"])
def test_nothing_in_a_file_is_run(tmp_path, published, capsys, where):
    path = tmp_path / "model.pt"
    torch.save({"cfg": {}, "model": {}, where: Exploit()}, path)
    line = fails(capsys, "--from", path, "--to", "ours", "--out", tmp_path / "o.safetensors")
    assert f"{path}: cannot be read safely: " in line and "exit" in line
    assert not (tmp_path / "o.safetensors").exists() and not (tmp_path / "o.toml").exists()


def test_stand_ins_do_nothing_with_their_state(tmp_path):
    modules = omegaconf_modules()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        wrapped = modules["omegaconf.dictconfig"].wrap({"a": {"b": [1, "two", None]}})
        assert b"omegaconf.dictconfig" in pickle.dumps(wrapped, protocol=2)
        torch.save(wrapped, tmp_path / "cfg.pt")
    assert plain(read_content(tmp_path / "cfg.pt")) == {"a": {"b": [1, "two", None]}}


def test_errors_are_one_line(tmp_path, hugging_face, published, capsys):
    to_ours = ("--to", "ours", "--out", tmp_path / "o.safetensors")
    odd = tmp_path / "odd.txt"
    odd.write_text("text")
    assert "neither a Hugging Face directory nor a .pt" in fails(capsys, "--from", odd, *to_ours)
    assert "neither a Hugging Face directory" in fails(capsys, "--from", tmp_path / "none", *to_ours)
    assert "none.pt" in fails(capsys, "--from", tmp_path / "none.pt", *to_ours)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    assert "broken.pt: cannot be read safely" in fails(capsys, "--from", broken, *to_ours)
    torch.save({"model": {}}, broken)
    assert "has no 'cfg' and 'model'" in fails(capsys, "--from", broken, *to_ours)
    torch.save({"cfg": {"model": {}}, "model": {}}, broken)
    assert "the tensor esm_s_combine is missing" in fails(capsys, "--from", broken, *to_ours)
    torch.save({"cfg": {"trunk": {}}, "model": {}}, broken)
    assert "its 'cfg' has no 'model'" in fails(capsys, "--from", broken, *to_ours)

    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes(b"nonsense")
    to_hf = ("--to", "hf", "--out", tmp_path / "new")
    assert "lonely.toml: cannot be read" in fails(capsys, "--from", lonely, *to_hf)
    lonely.with_suffix(".toml").write_text("")
    assert "lonely.safetensors: not a safetensors file" in fails(capsys, "--from", lonely, *to_hf)

    assert "must end in .safetensors" in fails(capsys, "--from", hugging_face, "--to", "ours", "--out", tmp_path / "o")
    (tmp_path / "o.toml").write_text("mine")
    assert "is there already" in fails(capsys, "--from", hugging_face, *to_ours)
    assert (tmp_path / "o.toml").read_text() == "mine"
    (tmp_path / "o.toml").unlink()
    assert "is there already" in fails(capsys, "--from", hugging_face, "--to", "hf", "--out", hugging_face)
    assert "has its own stem" in fails(capsys, "--from", hugging_face, "--esm-weights", broken, *to_ours)

    state = load_file(hugging_face / "model.safetensors")
    state["trunk.recycle_disto.weight"] = torch.zeros(3, 3)
    save_file(state, hugging_face / "model.safetensors")
    assert "recycle_disto.weight has shape [3, 3]" in fails(capsys, "--from", hugging_face, *to_ours)
    (hugging_face / "model.safetensors").unlink()
    assert "holds neither model.safetensors nor pytorch_model.bin" in fails(capsys, "--from", hugging_face, *to_ours)
    index = hugging_face / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    assert "names a shard outside its directory" in fails(capsys, "--from", hugging_face, *to_ours)
    index.write_text("[]")
    assert "not an index of shards" in fails(capsys, "--from", hugging_face, *to_ours)
    (hugging_face / "config.json").write_text("{")
    assert "config.json: not JSON" in fails(capsys, "--from", hugging_face, *to_ours)
    (hugging_face / "config.json").unlink()
    assert "config.json" in fails(capsys, "--from", hugging_face, *to_ours)
    assert not (tmp_path / "new").exists() and not (tmp_path / "o.safetensors").exists()


def test_a_failed_write_leaves_nothing(tmp_path, hugging_face, small_files, capsys):
    for target, out in (("ours", "o.safetensors"), ("hf", "o")):
        with small_files(4096):
            assert run("--from", hugging_face, "--to", target, "--out", tmp_path / out) == 2  # a limit the user set
        assert "File too large" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_a_model_that_is_not_esmfold_stays_ours(tmp_path, capsys):
    """The layout of the LoRTA paper's experiment has no place in ESMFold's files, and says why."""
    from pipeline.config.layers import to_toml

    config = tiny_config(trunk={"pair_update": "outer_product_mean"})
    paper = tiny_model(config)
    file = tmp_path / "paper.safetensors"
    save_file(paper.state_dict(), file)
    file.with_suffix(".toml").write_text(to_toml(config))
    line = fails(capsys, "--from", file, "--to", "hf", "--out", tmp_path / "hf")
    assert "trunk.pair_update = 'outer_product_mean' has no place in ESMFold's files" in line
    assert run("--from", file, "--to", "ours", "--out", tmp_path / "copy.safetensors") == 0
    assert_equal_states(load_file(tmp_path / "copy.safetensors"), paper.state_dict())
