"""The ESM-2 stem: tokens, padding, safe loading of both published layouts, one-line errors."""

import argparse
import json
import pickle
import re
import shutil
from http.client import IncompleteRead

import pytest
import torch
from esm.data import Alphabet
from esm.modules import TransformerLayer
from esm.multihead_attention import MultiheadAttention
from safetensors.torch import load_file, save_file

import lorta
from data_prep.structure.residues import RESTYPES, sequence_to_aatype
from pipeline.config.schema import StemConfig
from pipeline.folding import esm2_weights, hub
from pipeline.folding.esm2_weights import DEMO_STEM, StemError, canonical_name
from pipeline.folding.stem import FusedAttention, FusedLayer, build_stem, parameter_hash

SEQUENCE = "MKTAYIAKQRX"


@pytest.fixture
def random_stem():
    return build_stem(StemConfig(DEMO_STEM, "random"), seed=0).eval()


def inputs(sequence: str = SEQUENCE) -> tuple[torch.Tensor, torch.Tensor]:
    aatype = torch.from_numpy(sequence_to_aatype(sequence))[None]
    return aatype, torch.ones(aatype.shape)


@torch.no_grad()
def test_representations_are_fair_esms(random_stem):
    """fair-esm's own tokenizer and forward pass, start and end tokens cut."""
    converter = Alphabet.from_architecture("ESM-1b").get_batch_converter()
    tokens = converter([("x", SEQUENCE)])[2]
    layers = range(random_stem.num_layers + 1)
    expected = random_stem.esm(tokens, repr_layers=layers)["representations"]
    hidden = random_stem(*inputs())
    assert hidden.shape == (1, len(SEQUENCE), random_stem.num_layers + 1, random_stem.embed_dim)
    for layer in layers:
        assert torch.equal(hidden[:, :, layer], expected[layer][:, 1:-1])


@pytest.mark.parametrize("adapter", [None, "lorta"])
def test_fused_blocks_are_fair_esms(random_stem, adapter):
    """Representations and gradients of a padded batch against fair-esm's own blocks, with an adapter too."""
    stem = random_stem.double()
    if adapter:
        for parameter in lorta.attach(stem.esm, method=adapter, r=2, seed=0).parameters():
            torch.nn.init.normal_(parameter, std=0.02)  # as large as its start: the gain is for that
    aatype, mask = inputs(SEQUENCE + RESTYPES)
    mask = mask.repeat(2, 1)
    mask[1, len(SEQUENCE) :] = 0
    results = []
    for block, attention in ((FusedLayer, FusedAttention), (TransformerLayer, MultiheadAttention)):
        for layer in stem.esm.layers:
            assert isinstance(layer, FusedLayer) and isinstance(layer.self_attn, FusedAttention)
            layer.__class__, layer.self_attn.__class__ = block, attention
        stem.zero_grad()
        hidden = stem(aatype.repeat(2, 1), mask)[mask.bool()]
        (hidden * torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view(hidden.shape)).sum().backward()
        gradients = [parameter.grad for parameter in stem.parameters() if parameter.grad is not None]
        results.append([hidden.detach(), *gradients])
        for layer in stem.esm.layers:
            layer.__class__, layer.self_attn.__class__ = FusedLayer, FusedAttention
    assert len(results[0]) > (1 if adapter else 20)
    for fused, reference in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-5, atol=1e-5)  # its softmax is float32 in any case


@torch.no_grad()
def test_padded_batch_equals_single(random_stem):
    aatype, mask = inputs(SEQUENCE + RESTYPES)
    short = len(SEQUENCE)
    batch = aatype.repeat(2, 1)
    masks = mask.repeat(2, 1)
    masks[1, short:] = 0
    hidden = random_stem(batch, masks)
    torch.testing.assert_close(hidden[0], random_stem(aatype, mask)[0])
    torch.testing.assert_close(hidden[1, :short], random_stem(*inputs())[0], rtol=1e-5, atol=1e-5)


def test_a_stem_that_has_folded_can_train(random_stem):
    """fair-esm keeps its rotary tables, of the length before; those of inference mode have no place in a graph."""
    aatype, mask = inputs()
    with torch.inference_mode():
        folded = random_stem(aatype, mask)
    trained = random_stem(aatype, mask)
    trained.sum().backward()
    torch.testing.assert_close(trained, folded)
    random_stem.zero_grad()


def test_random_weights_depend_on_the_seed_alone():
    def hash_of(seed: int) -> str:
        return parameter_hash(build_stem(StemConfig(DEMO_STEM, "random"), seed).named_parameters())

    torch.manual_seed(123)
    first = hash_of(0)
    assert first == hash_of(0)
    assert first != hash_of(1)


def fair_esm_file(path, state):
    """The upstream layout: a pickle with a Namespace beside the tensors, names under encoder.sentence_encoder."""
    namespace = argparse.Namespace(encoder_layers=6, encoder_embed_dim=320, encoder_attention_heads=20)
    prefixed = {f"encoder.sentence_encoder.{name}": value for name, value in state.items()}
    prefixed["encoder.lm_head.bias"] = torch.randn(33)
    torch.save({"cfg": {"model": namespace}, "model": prefixed}, path)


def hugging_face_names(state, prefix):
    pairs = (
        ("embed_tokens.", "embeddings.word_embeddings."),
        ("emb_layer_norm_after.", "encoder.emb_layer_norm_after."),
        ("layers.", "encoder.layer."),
        ("self_attn.rot_emb.", "attention.self.rotary_embeddings."),
        ("self_attn.q_proj.", "attention.self.query."),
        ("self_attn.k_proj.", "attention.self.key."),
        ("self_attn.v_proj.", "attention.self.value."),
        ("self_attn.out_proj.", "attention.output.dense."),
        ("self_attn_layer_norm.", "attention.LayerNorm."),
        ("fc1.", "intermediate.dense."),
        ("fc2.", "output.dense."),
        ("final_layer_norm.", "LayerNorm."),
    )
    renamed = {}
    for name, value in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        renamed[prefix + name] = value.clone()
    return renamed


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A random ESM-2 8M in the two published layouts, and its state."""
    folder = tmp_path_factory.mktemp("esm2")
    stem = build_stem(StemConfig("esm2_t6_8M", "random"), seed=3)
    state = {name: tensor.detach() for name, tensor in stem.esm.state_dict().items()}
    fair_esm_file(folder / "esm2_t6_8M_UR50D.pt", state)
    for kind, prefix in (("masked_lm", "esm."), ("model", "")):
        (folder / kind).mkdir()
        save_file(hugging_face_names(state, prefix), folder / kind / "model.safetensors")
    return folder, stem


@pytest.mark.parametrize("source", ["esm2_t6_8M_UR50D.pt", "masked_lm", "model"])
def test_both_published_layouts_load(published, source):
    folder, stem = published
    loaded = build_stem(StemConfig("esm2_t6_8M_UR50D", "pretrained", str(folder / source)), seed=0).eval()
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()), stem.eval()(*inputs()))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_of_hugging_face_load(published, tmp_path, kind):
    """facebook/esm2_t36_3B_UR50D and larger come in shards."""
    folder, stem = published
    tensors = load_file(folder / "masked_lm/model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"part-{i % 2 + 1}-of-2.{kind}" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == shard}
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / shard)
    whole = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = tmp_path / f"{whole}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = StemConfig("esm2_t6_8M", "pretrained", str(tmp_path))
    loaded = build_stem(config, seed=0).eval()
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()), stem.eval()(*inputs()))
    (tmp_path / f"part-2-of-2.{kind}").unlink()
    with pytest.raises(StemError, match=rf"part-2-of-2\.{kind}: no such file"):
        build_stem(config, seed=0)
    index.write_text(json.dumps({"weight_map": {"embed_tokens.weight": f"../{whole}"}}))
    with pytest.raises(StemError, match="names a shard outside its directory"):
        build_stem(config, seed=0)
    index.write_text("{")
    with pytest.raises(StemError, match="not an index of shards"):
        build_stem(config, seed=0)


def test_older_names_of_layer_norms_load(published, tmp_path):
    folder, stem = published
    older = load_file(folder / "model/model.safetensors")
    for name in [name for name in older if "LayerNorm." in name]:
        older[re.sub("weight$", "gamma", re.sub("bias$", "beta", name))] = older.pop(name)
    assert sum(name.endswith(("gamma", "beta")) for name in older) == 6 * 4
    save_file(older, tmp_path / "model.safetensors")
    loaded = build_stem(StemConfig("esm2_t6_8M", "pretrained", str(tmp_path)), seed=0).eval()
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()), stem.eval()(*inputs()))


def test_names_there_and_back(random_stem):
    learned = [name for name, _ in random_stem.esm.named_parameters()]
    theirs = [esm2_weights.name_to_hugging_face(name) for name in learned]
    assert len(set(theirs)) == len(learned) and None not in theirs
    assert [esm2_weights.name_from_hugging_face(name) for name in theirs] == learned
    for name in ("contact_head.regression.weight", "encoder.layer.0.output.dense.base.weight", "layers.0.fc1.weight"):
        assert esm2_weights.name_from_hugging_face(name) is None
    assert esm2_weights.name_to_hugging_face("layers.0.self_attn.q_proj.lorta.A") is None


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_whatever_head_transformers_saves_with_it_the_stem_is_the_same(tmp_path, kind):
    """Masked-LM head, contact head, classifiers, pooler, position embeddings: in no representation and no hash."""
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        position_embedding_type="rotary", token_dropout=True, pad_token_id=1, mask_token_id=32,
        layer_norm_eps=1e-5,  # as in the published configurations
    )  # fmt: skip
    base = transformers.EsmModel(config).eval()
    base.rotary_embeddings.inv_freq.copy_(base.rotary_embeddings.inv_freq.half())  # as those of the published weights
    tokens = Alphabet.from_architecture("ESM-1b").get_batch_converter()([("x", SEQUENCE)])[2]
    with torch.no_grad():
        expected = base(tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True).hidden_states
    hashes = set()
    for head in ("", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"):
        model = getattr(transformers, f"Esm{head or 'Model'}")(config)
        (model.esm if head else model).load_state_dict(base.state_dict(), strict=False)
        model.save_pretrained(tmp_path / head)
        if kind == "bin":
            (tmp_path / head / "model.safetensors").unlink()
            state, prefix = model.state_dict(), "esm." if head else ""
            state[f"{prefix}embeddings.position_ids"] = torch.arange(1026)[None]  # as older versions
            frequencies = state.pop(f"{prefix}rotary_embeddings.inv_freq")
            for layer in range(3):
                state[f"{prefix}encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies
            torch.save(state, tmp_path / head / "pytorch_model.bin")
        torch.manual_seed(len(hashes))  # nothing may be left at a random value
        stem = build_stem(StemConfig(DEMO_STEM, "pretrained", str(tmp_path / head)), seed=0).eval()
        hashes.add(parameter_hash(stem.state_dict().items()))
        with torch.no_grad():
            hidden = stem(*inputs())
        for layer, theirs in enumerate(expected):
            torch.testing.assert_close(hidden[:, :, layer], theirs[:, 1:-1], rtol=1e-5, atol=1e-5)
    assert len(hashes) == 1


def test_names():
    assert canonical_name("esm2_t12_35M_UR50D") == canonical_name("facebook/esm2_t12_35M_UR50D") == "esm2_t12_35M"
    with pytest.raises(StemError, match="unknown ESM-2 model 'esm3'"):
        canonical_name("esm3")


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_cannot_be_used_are_one_line(tmp_path, published, capsys):
    folder, _ = published

    def error_of(name: str, weights: object) -> str:
        with pytest.raises(StemError) as error:
            build_stem(StemConfig(name, "pretrained", str(weights)), seed=0)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such file" in error_of("esm2_t6_8M", tmp_path / "none.pt")
    assert "is this another model?" in error_of("esm2_t12_35M", folder / "esm2_t6_8M_UR50D.pt")
    assert "holds neither model.safetensors nor pytorch_model.bin" in error_of("esm2_t6_8M", tmp_path)
    (tmp_path / "text.pt").write_text("not weights")
    assert "text.pt: cannot be read safely: " in error_of("esm2_t6_8M", tmp_path / "text.pt")
    (tmp_path / "text.safetensors").write_text("not weights")
    assert "text.safetensors: cannot be read: " in error_of("esm2_t6_8M", tmp_path / "text.safetensors")
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"model": Harmful()}))
    assert "bad.pt: cannot be read safely: " in error_of("esm2_t6_8M", tmp_path / "bad.pt")
    torch.save({"model": Harmful()}, tmp_path / "bad2.pt")
    assert "bad2.pt: cannot be read safely: " in error_of("esm2_t6_8M", tmp_path / "bad2.pt")
    older = hugging_face_names(build_stem(StemConfig("esm2_t6_8M", "random"), 0).esm.state_dict(), "esm.")
    torch.save(older | {"esm.embeddings.layer_norm.weight": torch.ones(320)}, tmp_path / "esm1b.bin")
    assert "weights of an ESM-1, which has learned positions" in error_of("esm2_t6_8M", tmp_path / "esm1b.bin")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("failure", [OSError("no route to host"), IncompleteRead(b"", 5)])
def test_missing_pretrained_weights_name_the_three_ways_out(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(url, **_):
        raise failure

    monkeypatch.setattr(hub, "urlopen", no_network)
    with pytest.raises(StemError) as error:
        build_stem(StemConfig("esm2_t12_35M"), seed=0)
    message = str(error.value)
    assert "\n" not in message
    for way_out in (f"copy esm2_t12_35M_UR50D.pt to {tmp_path}", "--esm-weights FILE", "--esm-init random"):
        assert way_out in message
    with pytest.raises(StemError, match="has no pretrained weights"):
        build_stem(StemConfig(DEMO_STEM), seed=0)
    with pytest.raises(ValueError, match=r"file\.pt' \(--esm-weights\) .* \(--esm-init random\) .*: leave one"):
        StemConfig(DEMO_STEM, "random", "file.pt")


def test_weights_are_found_in_the_caches_and_by_their_name_on_the_hub(published, tmp_path, monkeypatch):
    folder, stem = published
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(hub, "urlopen", None)
    hub_cache = tmp_path / "hf" / "hub"
    for repository, kind in (("facebook--esm2_t6_8M_UR50D", "masked_lm"), ("me--mine", "model")):
        snapshot = hub_cache / f"models--{repository}" / "snapshots" / "abc"
        shutil.copytree(folder / kind, snapshot)
        (snapshot / "config.json").write_text("{}")
    for weights in ("", "facebook/esm2_t6_8M_UR50D", "me/mine"):
        loaded = build_stem(StemConfig("esm2_t6_8M", "pretrained", weights), seed=0).eval()
        with torch.no_grad():
            assert torch.equal(loaded(*inputs()), stem.eval()(*inputs()))
    with pytest.raises(StemError, match=r"me/other: no such file .* in Hugging Face's cache .*: hf download me/other"):
        build_stem(StemConfig("esm2_t6_8M", "pretrained", "me/other"), seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_file_and_tensor(published, tmp_path, value):
    folder, _ = published
    state = load_file(folder / "model" / "model.safetensors")
    state["encoder.layer.3.intermediate.dense.weight"][5, 7] = value
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(StemError, match=rf"{tmp_path}/model\.safetensors: layers\.3\.fc1\.weight has values that"):
        build_stem(StemConfig("esm2_t6_8M", "pretrained", str(tmp_path)), seed=0)
    state["contact_head.regression.weight"] = state.pop("encoder.layer.3.intermediate.dense.weight")
    state["encoder.layer.3.intermediate.dense.weight"] = torch.zeros(1280, 320)
    save_file(state, tmp_path / "model.safetensors")
    build_stem(StemConfig("esm2_t6_8M", "pretrained", str(tmp_path)), seed=0)  # what is not read may be anything
