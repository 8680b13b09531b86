"""The tuner inside of PEFT: one changed line for a user of transformers."""

import copy
import importlib
import json
import math
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lorta
from lorta.layer import AdaptedLinear

peft = pytest.importorskip("peft", reason="PEFT is not installed (lm extra)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (lm extra)")
SHAPE = {
    "vocab_size": 33,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "pad_token_id": 1,
}


GPT2_CONFIG = transformers.GPT2Config(
    vocab_size=33, n_embd=24, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)


def causal(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).eval()


def classifier(seed: int = 0) -> nn.Module:
    """Its head is a module of two layers, without a weight of its own."""
    torch.manual_seed(seed)
    config = transformers.RobertaConfig(**SHAPE, num_labels=3, hidden_dropout_prob=0.0)
    return transformers.RobertaForSequenceClassification(config).eval()


def adapt(model: nn.Module, **settings) -> peft.PeftModel:
    return peft.get_peft_model(model, lorta.LortaConfig(**{"r": 3, "alpha": 4.5, "seed": 7} | settings))


@pytest.fixture
def model() -> nn.Module:
    return causal()


@pytest.fixture
def shift(perturb):
    """Move what trains, as training would."""
    return perturb


def test_a_config_is_both(model):
    config = lorta.LortaConfig(r=8, task_type="CAUSAL_LM")
    assert isinstance(config, peft.PeftConfig)
    assert config == lorta.LortaConfig(r=8)
    assert config.settings() == {key: getattr(config, key) for key in config.settings()}
    assert copy.deepcopy(config) == config


def test_start_is_the_base_and_only_factors_train(model, tokens):
    before = model(tokens).logits
    adapted = adapt(model, task_type="CAUSAL_LM")
    assert torch.equal(adapted(tokens).logits, before)
    weights = {name: value.clone() for name, value in adapted.state_dict().items()}
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(tokens, labels=tokens).loss.backward()
        optimizer.step()
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, weights[name])}
    assert moved == {f"base_model.lorta.default.tensors.all.{name}" for name in ("A", "B", "C_H", "C_L", "C_M")}
    assert adapted.get_nb_trainable_parameters()[0] == 3 * (24 + 6 + 4 + 2 + 4)


def test_same_numbers_as_attach(model, tokens, shift):
    twin = copy.deepcopy(model)
    adapted = adapt(model)
    shift(adapted)
    shift(lorta.attach(twin, r=3, alpha=4.5, seed=7))
    assert torch.equal(adapted(tokens).logits, twin(tokens).logits)


@pytest.mark.parametrize("method", ["lorta", "lora", "vera", "nola"])
def test_save_and_load(model, tokens, shift, tmp_path, method):
    adapted = adapt(model, method=method)
    shift(adapted)
    adapted.save_pretrained(tmp_path)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert keys == {f"base_model.lorta.{key}" for key in lorta.adapter_set(adapted)["default"].state_dict()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = peft.PeftModel.from_pretrained(causal(), tmp_path)
        small = peft.PeftModel.from_pretrained(causal(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(again(tokens).logits, adapted(tokens).logits)
    assert torch.equal(small(tokens).logits, adapted(tokens).logits)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    trainable = peft.PeftModel.from_pretrained(causal(), tmp_path, is_trainable=True)
    assert trainable.get_nb_trainable_parameters()[0] == adapted.get_nb_trainable_parameters()[0]


SCRIPT = """
import importlib.util, sys, torch
import lorta
assert importlib.util.find_spec("peft") is not None  # only looks, as transformers does; the hook must outlast it
assert "peft" not in sys.modules and "transformers" not in sys.modules
assert not hasattr(lorta.LortaConfig(r=2), "peft_type")
from peft import PeftModel
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "lorta"]
from transformers import LlamaForCausalLM
torch.set_num_threads(1)
model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(sys.argv[1]).eval(), sys.argv[2])
torch.save(model(torch.arange(4, 20)[None]).logits, sys.argv[3])
"""


def test_load_in_a_new_process_with_lorta_imported_first(model, shift, tmp_path):
    model.save_pretrained(tmp_path / "base")
    adapted = adapt(model)
    shift(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True, capture_output=True, text=True)
    assert torch.equal(torch.load(tmp_path / "out.pt"), adapted(torch.arange(4, 20)[None]).logits)


def test_peft_imported_first():
    code = (
        "import peft\n"
        "from lorta import LortaConfig\n"
        "assert isinstance(LortaConfig(r=2), peft.PeftConfig)\n"
        "assert 'LORTA' in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_an_old_peft_is_named_and_stays_usable(monkeypatch):
    import lorta.peft

    monkeypatch.setattr(lorta.peft, "version", lambda name: "0.20.0")
    with pytest.raises(ImportError, match=r"needs peft 0.21.0 or newer, found 0.20.0"):
        lorta.peft.register()
    monkeypatch.setattr(importlib, "import_module", lambda name: lorta.peft.register())
    with pytest.warns(UserWarning, match=r"not available in PEFT: .* found 0.20.0"):
        lorta.register_tuner()


def test_another_base_warns_once_and_loads(model, tokens, shift, tmp_path):
    adapted = adapt(model)
    shift(adapted)
    adapted.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["peft_type"] == "LORTA"
    assert "model.layers.0.self_attn.q_proj.weight" in document["base_weights"]["tensors"]
    other = causal()
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.warns(UserWarning, match=r"1 of 21 tensors with other values \(first: model.norm.weight\)"):
        again = peft.PeftModel.from_pretrained(other, tmp_path)
    assert not torch.allclose(again(tokens).logits, causal()(tokens).logits, atol=1e-4)
    again.save_pretrained(tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        peft.PeftModel.from_pretrained(again.unload(), tmp_path / "again")


@pytest.mark.parametrize("damage", ["missing", "renamed", "shape"])
def test_a_file_that_does_not_fit_is_refused(model, tmp_path, damage):
    adapt(model).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    value = tensors.pop("base_model.lorta.tensors.all.B")
    if damage != "missing":
        tensors[f"base_model.lorta.tensors.all.B{'x' * (damage == 'renamed')}"] = value[:2].clone()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"the saved adapter does not fit: .*lorta.default.tensors.all.B") as error:
        peft.PeftModel.from_pretrained(causal(), tmp_path)
    assert "\n" not in str(error.value)


def test_two_adapters_switched_and_deleted(model, tokens, shift, tmp_path):
    base = model(tokens).logits
    adapted = adapt(model)
    shift(adapted)
    first = adapted(tokens).logits
    adapted.add_adapter("other", lorta.LortaConfig(method="lora", r=2, targets=("q", "v")))
    assert torch.equal(adapted(tokens).logits, first)  # PEFT: a new one is not active
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all(".default." in name for name in trainable)
    adapted.set_adapter("other")
    assert torch.equal(adapted(tokens).logits, base)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trainable and all(".other." in name for name in trainable)
    shift(adapted)
    second = adapted(tokens).logits
    adapted.save_pretrained(tmp_path, selected_adapters=["other"])
    assert not any(".all." in key for key in load_file(tmp_path / "other" / "adapter_model.safetensors"))
    adapted.base_model.set_adapter(["default", "other"])
    both = adapted(tokens).logits
    adapted.merge_adapter(["default", "other"])
    torch.testing.assert_close(adapted(tokens).logits, both, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="merged"):
        adapted.delete_adapter("default")
    adapted.unmerge_adapter()
    assert torch.equal(adapted(tokens).logits, both)
    adapted.set_adapter("other")
    adapted.delete_adapter("default")
    assert torch.equal(adapted(tokens).logits, second)
    assert list(lorta.adapter_set(adapted)) == ["other"]
    adapted.load_adapter(tmp_path / "other", "copy")
    adapted.set_adapter("copy")
    assert torch.equal(adapted(tokens).logits, second)
    with pytest.raises(ValueError, match="does not exist"):
        adapted.delete_adapter("default")


def test_one_adapter_merged_after_another_and_nothing_merged_twice(model, tokens, shift):
    base = model(tokens).logits
    adapted = adapt(model, targets=("q", "v"))
    shift(adapted)
    adapted.add_adapter("other", lorta.LortaConfig(method="lora", r=2))
    adapted.set_adapter("other")
    shift(adapted)
    adapted.base_model.set_adapter(["default", "other"])
    both = adapted(tokens).logits
    adapted.merge_adapter(["default"])
    adapted.merge_adapter(["other"])
    merged = adapted(tokens).logits
    assert (
        not adapted.get_submodule("base_model.model.model.layers.0.self_attn.k_proj").get_delta_weight("default").any()
    )
    torch.testing.assert_close(merged, both, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="already merged"):
        adapted.merge_adapter(["default", "other"])
    assert torch.equal(adapted(tokens).logits, merged)
    adapted.unmerge_adapter()
    adapted.unmerge_adapter()  # nothing is merged any more, and nothing happens
    with adapted.disable_adapter():
        assert torch.equal(adapted(tokens).logits, base)


@pytest.mark.parametrize("build", [causal, lambda: transformers.GPT2LMHeadModel(GPT2_CONFIG).eval()])
def test_peft_converts_it_to_lora(build, tokens, shift):
    """By singular values, for whoever has PEFT alone; ``export_lora`` is exact without them."""
    torch.manual_seed(0)
    adapted = adapt(build(), r=2)
    shift(adapted)
    expected = adapted(tokens).logits
    config, state = peft.convert_to_lora(adapted, rank=6, progressbar=False)  # three roles in one module: 3 r
    torch.manual_seed(0)
    twin = peft.get_peft_model(build(), config)
    peft.set_peft_model_state_dict(twin, state)
    torch.testing.assert_close(twin(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_an_injection_that_fails_leaves_no_trace(model, tokens, shift, monkeypatch):
    adapted = adapt(model)
    shift(adapted)
    before = adapted(tokens).logits

    def fail(*given, **options):
        raise ValueError("no")

    monkeypatch.setattr("lorta.peft.BaseTuner.inject_adapter", fail)
    with pytest.raises(ValueError, match="no"):
        adapted.add_adapter("other", lorta.LortaConfig(r=2))
    assert list(lorta.adapter_set(adapted)) == ["default"]
    assert torch.equal(adapted(tokens).logits, before)


def test_deleting_the_active_one_activates_what_is_left(model, tokens):
    adapted = adapt(model)
    adapted.add_adapter("other", lorta.LortaConfig(r=2))
    with pytest.warns(UserWarning, match="other"):
        adapted.delete_adapter("default")
    assert adapted.active_adapters == ["other"]
    assert lorta.adapter_set(adapted).active == ("other",)


def test_disabled_is_the_base_merged_or_not(model, tokens, shift):
    before = model(tokens).logits
    adapted = adapt(model)
    shift(adapted)
    after = adapted(tokens).logits
    with adapted.disable_adapter():
        assert torch.equal(adapted(tokens).logits, before)
    assert torch.equal(adapted(tokens).logits, after)
    adapted.merge_adapter()
    with adapted.disable_adapter():
        assert torch.equal(adapted(tokens).logits, before)


def test_merge_and_unload_with_a_saved_head(tokens, shift, tmp_path):
    adapted = adapt(classifier(), task_type="SEQ_CLS")
    assert adapted.peft_config["default"].modules_to_save == ["classifier", "score"]
    shift(adapted)
    expected = adapted(tokens).logits
    adapted.save_pretrained(tmp_path)
    other_head = classifier()
    torch.nn.init.normal_(other_head.classifier.dense.weight)  # a head is new in every process: no part of the base
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = peft.PeftModel.from_pretrained(other_head, tmp_path)
    assert torch.equal(again(tokens).logits, expected)
    merged = again.merge_and_unload()
    assert type(merged) is transformers.RobertaForSequenceClassification
    assert list(merged.state_dict()) == list(classifier().state_dict())
    torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-5, atol=1e-6)
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPTNeoXForCausalLM", "Qwen3ForCausalLM"])
def test_fused_and_grouped_models(tokens, shift, tmp_path, kind):
    name = kind.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    shape = SHAPE | {"bos_token_id": 2, "eos_token_id": 3}
    shape |= {"num_key_value_heads": 2, "head_dim": 8} if name == "Qwen3" else {}
    torch.manual_seed(0)
    base = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**shape)).eval()
    adapted = adapt(copy.deepcopy(base), task_type="CAUSAL_LM")
    shift(adapted)
    expected = adapted(tokens).logits
    assert not torch.allclose(expected, base(tokens).logits, atol=1e-4)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(tokens).logits, expected)
    merged = adapted.merge_and_unload()
    assert list(merged.state_dict()) == list(base.state_dict())
    torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_unload_gives_the_base_back(model, tokens, shift):
    before = model(tokens).logits
    adapted = adapt(model)
    shift(adapted)
    assert torch.equal(adapted.unload()(tokens).logits, before)


def test_generate_with_cache_is_generate_of_the_merged_model(model, shift):
    adapted = adapt(model, task_type="CAUSAL_LM")
    for _ in range(10):
        shift(adapted)
    prompt = torch.tensor([[5, 6, 7], [9, 8, 4]])
    settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 8, "do_sample": False}
    ours = adapted.generate(input_ids=prompt, **settings)
    no_cache = adapted.generate(input_ids=prompt, use_cache=False, **settings)
    with adapted.disable_adapter():
        base = adapted.generate(input_ids=prompt, **settings)
    merged = adapted.merge_and_unload().generate(input_ids=prompt, **settings)
    assert torch.equal(ours, merged)
    assert torch.equal(ours, no_cache)
    assert not torch.equal(ours, base)


def test_batches_of_several_adapters_are_refused(model, tokens):
    adapted = adapt(model)
    with pytest.raises(ValueError, match="a batch of several adapters is not supported"):
        adapted(tokens, adapter_names=["default", "__base__"])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(model, tokens, shift, reentrant):
    adapted = adapt(model.train(), task_type="CAUSAL_LM")
    shift(adapted)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            adapted.enable_input_require_grads()
            adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        adapted.zero_grad()
        adapted(tokens, labels=tokens).loss.backward()
        gradients.append([p.grad.clone() for p in adapted.parameters() if p.requires_grad])
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-7)


def test_deepcopy_is_independent(model, tokens, shift):
    adapted = adapt(model)
    shift(adapted)
    before = adapted(tokens).logits
    twin = copy.deepcopy(adapted)
    shift(twin)
    assert torch.equal(adapted(tokens).logits, before)
    assert not torch.allclose(twin(tokens).logits, before, atol=1e-4)
    assert lorta.adapter_set(twin) is not lorta.adapter_set(adapted)


def test_bfloat16_base_keeps_float32_factors(model, tokens):
    adapted = adapt(model.bfloat16())
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert adapted(tokens).logits.dtype == torch.bfloat16


def test_export_as_plain_lora(model, tokens, shift, tmp_path):
    adapted = adapt(model)
    shift(adapted)
    expected = adapted(tokens).logits
    lorta.export_lora(adapted, tmp_path)
    plain = peft.PeftModel.from_pretrained(causal(), tmp_path)
    torch.testing.assert_close(plain(tokens).logits, expected, rtol=1e-5, atol=1e-6)


def test_any_module_can_be_adapted(plain, tokens, shift, tmp_path):
    adapted = adapt(copy.deepcopy(plain))
    shift(adapted)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(plain, tmp_path)
    assert torch.equal(again(tokens), adapted(tokens))


def test_target_modules_are_refused():
    with pytest.raises(ValueError, match="target_modules is not a setting here; lorta finds its places"):
        lorta.LortaConfig(r=2, target_modules=["q_proj"])


def test_a_model_without_sites_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no attention projections found"):
        adapt(model)
    assert type(model[0]) is nn.Linear


def test_a_second_adapter_that_does_not_fit_leaves_the_first(model, tokens, shift, monkeypatch):
    adapted = adapt(model)
    shift(adapted)
    before = adapted(tokens).logits
    monkeypatch.setattr(model.model.layers[1].self_attn, "num_heads", 2, raising=False)
    with pytest.raises(ValueError, match="same heads"):
        adapted.add_adapter("other", lorta.LortaConfig(r=2))
    assert list(lorta.adapter_set(adapted)) == list(adapted.peft_config) == ["default"]
    assert torch.equal(adapted(tokens).logits, before)


@pytest.mark.parametrize("trained", [False, True])
def test_first_loss_of_dpo_is_ln_2(model, shift, tmp_path, trained):
    """Policy and reference agree at step 0. A trained adapter is its own reference: trl copies ``.default.`` keys."""
    trl = pytest.importorskip("trl", reason="trl is not installed (lm extra)")
    datasets = pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")

    words = {f"w{i}": i for i in range(30)} | {"<pad>": 30, "<eos>": 31, "<unk>": 32}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    row = {"prompt": "w4 w5 w6", "chosen": " w7 w8", "rejected": " w9 w10 w11"}
    config = lorta.LortaConfig(r=2, task_type="CAUSAL_LM", method="lorta")
    if trained:
        model = peft.get_peft_model(model, config)
        shift(model)
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            max_steps=2,
            logging_steps=1,
            report_to="none",
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list([row] * 4),
        processing_class=tokenizer,
        peft_config=None if trained else config,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] != pytest.approx(math.log(2), abs=1e-4)


HEADS = [
    ("SEQ_CLS", "RobertaForSequenceClassification", {"num_labels": 3}),
    ("TOKEN_CLS", "BertForTokenClassification", {"num_labels": 3}),
    ("QUESTION_ANS", "BertForQuestionAnswering", {}),
    ("CAUSAL_LM", "LlamaForCausalLM", {}),
    ("FEATURE_EXTRACTION", "BertModel", {}),
    ("SEQ_2_SEQ_LM", "BartForConditionalGeneration", {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1}),
]


def with_head(kind: str, settings: dict) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(transformers, kind)
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4} if "d_model" in settings else {}
    return model(model.config_class(**SHAPE | settings | heads)).eval()


@pytest.mark.parametrize(("task", "kind", "settings"), HEADS)
def test_export_keeps_the_trained_head_and_the_task(tokens, shift, tmp_path, task, kind, settings):
    model = with_head(kind, settings)
    more = {"modules_to_save": ["lm_head"]} if task == "CAUSAL_LM" else {}
    adapted = peft.get_peft_model(model, lorta.LortaConfig(r=3, seed=0, task_type=task, targets="all-linear", **more))
    shift(adapted)
    expected = adapted(input_ids=tokens)[0]
    lorta.export_lora(adapted, tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["task_type"] == task
    plain = peft.PeftModel.from_pretrained(with_head(kind, settings), tmp_path)
    assert type(plain) is type(adapted)
    torch.testing.assert_close(plain(input_ids=tokens)[0], expected, rtol=1e-4, atol=1e-5)
    assert bool(document["modules_to_save"]) == (task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM"))


def test_export_keeps_what_trains_beside_an_adapter_without_peft(tokens, tmp_path):
    model = classifier()
    lorta.attach(model, r=2, seed=0)
    model.classifier.requires_grad_(True)
    with torch.no_grad():
        model.classifier.dense.weight.add_(0.1)
    lorta.export_lora(model, tmp_path, task_type="SEQ_CLS", base_model="somewhere/base")
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["modules_to_save"] == ["classifier.dense", "classifier.out_proj"]
    assert (document["task_type"], document["base_model_name_or_path"]) == ("SEQ_CLS", "somewhere/base")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.classifier.dense.weight"], model.classifier.dense.weight)
    model.roberta.encoder.layer[0].attention.self.query.base_layer.bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"query.base_layer.bias trains beside the adapter"):
        lorta.export_lora(model, tmp_path)


def test_the_card_of_a_saved_adapter_says_what_to_import(model, tmp_path):
    adapted = adapt(model)
    adapted.add_adapter("second", lorta.LortaConfig(r=2))
    for _ in range(2):  # once, however often it is saved
        adapted.save_pretrained(tmp_path)
    for directory in (tmp_path, tmp_path / "second"):
        assert (directory / "README.md").read_text().count("import lorta\n") == 1
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("method", ["lorta", "lora"])
def test_weighted_sum_of_adapters(model, tokens, shift, tmp_path, method):
    adapted = adapt(model, method=method)
    adapted.add_adapter("second", lorta.LortaConfig(r=2, seed=1, method=method))
    shift(lorta.adapter_set(adapted)["default"])
    shift(lorta.adapter_set(adapted)["second"])
    adapted.base_model.add_weighted_adapter(["default", "second"], [0.5, -1.0], "sum")
    layer = adapted.base_model.model.model.layers[1].self_attn.o_proj
    expected = 0.5 * layer.get_delta_weight("default") - layer.get_delta_weight("second")
    torch.testing.assert_close(layer.get_delta_weight("sum"), expected, rtol=1e-4, atol=1e-5)
    adapted.set_adapter("sum")
    adapted.save_pretrained(tmp_path, selected_adapters=["sum"])
    again = peft.PeftModel.from_pretrained(causal(), tmp_path / "sum")
    torch.testing.assert_close(again(tokens).logits, adapted(tokens).logits)
    for arguments, message in (
        ((["default", "none"], [1.0, 1.0], "other"), "no adapter 'none'"),
        ((["default"], [1.0], "sum"), "there is an adapter 'sum' already"),
        ((["default"], [1.0], "other", "svd"), "only the exact sum is there"),
    ):
        with pytest.raises(ValueError, match=message):
            adapted.base_model.add_weighted_adapter(*arguments)


def test_rates_of_lora_plus(tokens):
    """The factor that starts at zero has the higher rate, the head the lower; PEFT's helper does not know which."""
    adapted = peft.get_peft_model(classifier(), lorta.LortaConfig(r=2, seed=0, task_type="SEQ_CLS"))
    slow, fast = lorta.param_groups(adapted, 1e-3, ratio=4.0)
    assert (slow["lr"], fast["lr"]) == (1e-3, 4e-3)
    assert fast["params"] == [lorta.adapter_set(adapted)["default"].tensors["all"].A]
    trains = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert {id(p) for p in slow["params"] + fast["params"]} == {id(p) for p in trains}
    assert len(slow["params"]) + 1 == len(trains) > 5
    torch.optim.AdamW([slow, fast]).step()
