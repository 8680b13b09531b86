"""Base models and tokenizers that cannot be used are one line that names the file."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError
from pipeline.lm.models import load_causal_lm, load_classifier, load_tokenizer, prepare_base, train_tokenizer
from pipeline.lm.settings import ModelSettings

TEXTS = ["The cat waits by the river ."] * 5
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write(folder: Path, kind, config, encoder: bool, **shape) -> Path:
    tokenizer = train_tokenizer(TEXTS, 300, encoder=encoder)
    kind(config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "llama"
    return write(folder, LlamaForCausalLM, LlamaConfig, False, max_position_embeddings=64, **SMALL)


def load(folder: Path, **settings):
    """As a stage does."""
    chosen = ModelSettings(name=str(folder), **settings)
    place, tokenizer = prepare_base(chosen, folder / "base", lambda: TEXTS, classifier=False, reuse=False)
    return load_causal_lm(chosen, place, tokenizer)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def changed(**values: object):
    return lambda data: json.dumps({**json.loads(data), **values}).encode()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", half, "the model in it cannot be read: Error while deserializing header"),
        ("model.safetensors", lambda data: b"", "the model in it cannot be read"),
        ("model.safetensors", None, "the model in it cannot be read: Error no file named model.safetensors"),
        ("config.json", half, "cannot be read: It looks like the config file"),
        ("config.json", lambda data: b"[]", "cannot be read"),
        ("config.json", None, "cannot be read: Unrecognized model"),
        ("config.json", changed(model_type="zork"), "model type `zork`"),
        ("config.json", changed(num_attention_heads=0), "cannot be read"),
        ("config.json", changed(hidden_size=32), "the model in it cannot be read"),
        ("config.json", changed(vocab_size=100), "cannot be read"),
        ("tokenizer.json", half, "the tokenizer in it cannot be read"),
        ("tokenizer.json", lambda data: b"[]", "the tokenizer in it cannot be read"),
        ("tokenizer.json", None, "the tokenizer in it cannot be read: Couldn't instantiate the backend tokenizer from"),
        ("tokenizer_config.json", half, "the tokenizer in it cannot be read"),
        ("tokenizer_config.json", lambda data: b"{}", "its tokenizer has no pad, eos or unk token"),
    ],
)
def test_a_damaged_model_is_named(file, change, message, llama, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["evil.T", None]}}),
    ],
)
def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(file, values, llama, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    (folder / file).write_bytes(changed(**values)((folder / file).read_bytes()))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    with pytest.raises(InputError, match="custom code"):
        load(folder)
    assert asked == [] and not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model(llama, tmp_path):
    train_tokenizer([" ".join(f"w{n} x{n * 7}" for n in range(300))], 600, encoder=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"the tokenizer has \d+ tokens and the model \d+: it is another model's"):
        load(llama, tokenizer=str(tmp_path))


def test_a_tokenizer_pads_with_what_it_has(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300, encoder=False)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "</s>"


@pytest.mark.parametrize(
    ("kind", "config", "shape", "longest"),
    [
        (BertForMaskedLM, BertConfig, {**SMALL, "max_position_embeddings": 20}, 20),
        (RobertaForMaskedLM, RobertaConfig, {**SMALL, "max_position_embeddings": 20}, 19),  # pad is token 0
        (GPT2LMHeadModel, GPT2Config, {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}, 20),
    ],
)
def test_texts_beyond_the_positions_of_a_model(kind, config, shape, longest, tmp_path):
    folder = write(tmp_path / "model", kind, config, True, **shape)
    tokenizer = load_tokenizer(str(folder))
    settings = ModelSettings(name=str(folder), max_length=longest)
    model = load_classifier(settings, str(folder), tokenizer, 2)
    ids = tokenizer(["a " * 40], truncation=True, max_length=longest, return_tensors="pt")
    assert ids["input_ids"].shape == (1, longest) and model(**ids).logits.shape == (1, 2)
    with pytest.raises(InputError, match=f"max_length {longest + 1}: this model reads {longest} tokens at most"):
        load_classifier(ModelSettings(name=str(folder), max_length=longest + 1), str(folder), tokenizer, 2)
    if kind is not GPT2LMHeadModel:
        with pytest.raises(InputError, match="encoder reads both ways: it cannot continue a text"):
            load_causal_lm(settings, str(folder), tokenizer)


LLAMA = {"model_type": "llama", **SMALL}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        (b'{"model_type": "\xff"}', "not JSON"),
        ("[]", "it has no model_type"),
        ("{}", "it has no model_type"),
        ({"model_type": "zork"}, "no model of it: Unrecognized model identifier"),
        ({"model_type": "vit"}, "no model of it: Unrecognized configuration class"),
        ({**LLAMA, "num_attention_heads": 0}, "no model of it"),
        ({**LLAMA, "num_attention_heads": 5}, "is not a multiple of the number of attention heads (5)"),
        ({**LLAMA, "hidden_size": "x"}, "expected int, got str"),
        ({**LLAMA, "hidden_size": -4}, "negative dimension"),
        ({**LLAMA, "hidden_size": 10**10}, "can't allocate memory"),
        ({**LLAMA, "hidden_act": "zork"}, "no model of it: unknown or missing key 'zork'"),
    ],
)
def test_configurations_that_give_no_model(config, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(
        config if isinstance(config, bytes) else (config if isinstance(config, str) else json.dumps(config)).encode()
    )
    with pytest.raises(InputError) as caught:
        prepare_base(
            ModelSettings(init_config=str(file)), tmp_path / "base", lambda: TEXTS, classifier=False, reuse=False
        )
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "base").exists()


def test_an_untrained_model_takes_the_tokenizer_that_is_given(llama, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    settings = ModelSettings(init_config=str(tmp_path), tokenizer=str(llama))  # the directory of a config.json
    place, tokenizer = prepare_base(settings, tmp_path / "base", list, classifier=False, reuse=False)
    assert tokenizer.get_vocab() == load_tokenizer(str(llama)).get_vocab()
    assert load_causal_lm(settings, place, tokenizer).config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of --model"),
        ({"name": "a", "init_config": "tiny-llama"}, "give one of --model"),
        ({"name": "a", "four_bit": True}, "needs bitsandbytes, which is not installed"),
    ],
)
def test_settings_that_name_no_model(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.lm.models.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        prepare_base(ModelSettings(**settings), tmp_path, list, classifier=False, reuse=False)


def test_an_unknown_configuration(tmp_path):
    with pytest.raises(InputError, match="'tiny-lama': no such file, and not one of tiny-llama, tiny-roberta"):
        prepare_base(ModelSettings(init_config="tiny-lama"), tmp_path, list, classifier=False, reuse=False)
