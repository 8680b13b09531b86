"""Every method by its name through PEFT: start, training, files, merging, and the two that are PEFT's own."""

import copy
import warnings

import pytest
import torch
from torch import nn

import lorta
from lorta.config import OUTPUT_METHODS

peft = pytest.importorskip("peft", reason="PEFT is not installed (lm extra)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (lm extra)")

SHAPE = {
    "vocab_size": 33,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "pad_token_id": 1,
}
OPTIONS = {
    "adalora": {"r": 2, "init_r": 4, "total_step": 10, "tinit": 2, "tfinal": 3},
    "bitfit": {},
    "houlsby": {"size": 4},
    "pfeiffer": {"size": 4},
    "adapterdrop": {"size": 4, "drop": 1},
    "loretta-adp": {"size": 8, "tt_rank": 2},
    "nola": {"r": 2, "bases": 5},
    "loretta-rep": {"r": 2, "tt_rank": 2},
    "lotr": {"r": 2, "targets": ("q", "v")},
}
OWN = tuple(name for name in lorta.PEFT_METHODS if name not in ("adalora", "dora"))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**SHAPE, num_labels=3, hidden_dropout_prob=0.0)
    return transformers.RobertaForSequenceClassification(config).eval()


def adapt(method: str, model: nn.Module, **extra) -> peft.PeftModel:
    options = OPTIONS.get(method, {"r": 2}) | extra
    return peft.get_peft_model(model, lorta.peft_config(method, model=model, task_type="SEQ_CLS", **options))


def train(adapted: nn.Module, tokens: torch.Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=1e-2)
    for step in range(steps):
        adapted(tokens, labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
        lorta.after_step(adapted, step)
        optimizer.zero_grad()


def test_the_names_are_all_there():
    assert set(lorta.PEFT_METHODS) == {*lorta.METHODS, "adalora", "dora"}


@pytest.mark.parametrize("method", lorta.PEFT_METHODS)
def test_start_training_files_and_merging(method, tokens, tmp_path):
    base = classifier()
    expected = base(tokens).logits
    adapted = adapt(method, copy.deepcopy(base))
    torch.testing.assert_close(adapted(tokens).logits, expected, rtol=0, atol=1e-6 if method == "dora" else 0)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    own = {name for name in names if "modules_to_save" not in name}
    assert own and {name for name in names - own if "classifier.modules_to_save.default" not in name} == set()
    before = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    train(adapted, tokens)
    moved = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert moved == names
    trained = adapted(tokens).logits
    assert not torch.allclose(trained, expected, atol=1e-3)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(tokens).logits, expected)

    adapted.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    if method == "adalora":  # PEFT keeps the ranks that its allocator has reached in the config
        assert again.peft_config["default"].rank_pattern == adapted.peft_config["default"].rank_pattern
    torch.testing.assert_close(again(tokens).logits, trained, rtol=1e-6, atol=1e-6)
    if method in OUTPUT_METHODS:
        with pytest.raises(ValueError, match=f"{method} acts on outputs and cannot be merged"):
            again.merge_and_unload()
        restored = again.unload()
        assert not any("lorta" in name for name, _ in restored.named_modules())
    else:
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, trained, rtol=1e-4, atol=1e-5)
        assert list(merged.state_dict()) == list(base.state_dict())


@pytest.mark.parametrize("method", ["houlsby", "loretta-adp"])
def test_bottlenecks_switch_delete_and_generate_on_a_causal_model(method, tokens):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).eval()
    before = model(tokens).logits
    options = OPTIONS[method]
    adapted = peft.get_peft_model(model, lorta.peft_config(method, task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    first = adapted(tokens).logits
    adapted.add_adapter("other", lorta.peft_config("pfeiffer", size=3))
    adapted.set_adapter("other")
    assert torch.equal(adapted(tokens).logits, before)
    adapted.set_adapter("default")
    assert torch.equal(adapted(tokens).logits, first)
    adapted.delete_adapter("other")
    prompt = tokens[:, :4]
    settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 4, "do_sample": False}
    cached = adapted.generate(input_ids=prompt, **settings)
    assert torch.equal(cached, adapted.generate(input_ids=prompt, use_cache=False, **settings))
    with pytest.raises(ValueError, match=r"[Cc]annot combine adapters with different peft types"):
        adapted.add_adapter("tensor", lorta.peft_config("lorta", r=2))


def test_granularities_reach_the_tuner():
    config = lorta.peft_config("lorta", r=2, modes=("heads",), task_type="SEQ_CLS")
    assert config.modes == ("heads",) and config.task_type == "SEQ_CLS"
    assert sum(p.numel() for p in peft.get_peft_model(classifier(), config).base_model.lorta.parameters()) == (
        4 * 3 * 2 * (24 + 6 + 4)
    )


def test_adalora_prunes_to_its_target(tokens):
    adapted = adapt("adalora", classifier(), targets=("q", "v"))
    assert adapted.peft_config["default"].target_r == 2
    train(adapted, tokens, steps=10)
    values = [p for name, p in adapted.named_parameters() if "lora_E" in name]
    assert len(values) == 6
    assert sum(int((value != 0).sum()) for value in values) == 6 * 2


def test_after_step_is_nothing_for_the_others(tokens):
    adapted = adapt("lorta", classifier())
    before = [parameter.clone() for parameter in adapted.parameters()]
    lorta.after_step(adapted, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, adapted.parameters(), strict=True))


@pytest.mark.parametrize("method", ["dora", "adalora"])
def test_peft_s_own_on_fair_esm(method, tokens):
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    model = ESM2(num_layers=2, embed_dim=40, attention_heads=4, alphabet="ESM-1b").eval()
    expected = model(tokens)["logits"]
    adapted = peft.get_peft_model(model, lorta.peft_config(method, model=model, **OPTIONS.get(method, {"r": 2})))
    torch.testing.assert_close(adapted(tokens)["logits"], expected, rtol=0, atol=1e-5)
    adapted(tokens)["logits"].square().mean().backward()
    touched = [name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert {name.split("self_attn.")[1].split(".")[0] for name in touched} == {"q_proj", "k_proj", "v_proj", "out_proj"}


def test_targets_of_dora_are_the_attention_s_alone():
    """BERT calls two modules output.dense, of which one is no attention."""
    model = classifier()
    adapted = adapt("dora", model, targets=("q", "o"))
    wrapped = {path for path, module in adapted.named_modules() if hasattr(module, "lora_A")}
    layers = "base_model.model.roberta.encoder.layer"
    assert wrapped == {f"{layers}.{i}.attention.{tail}" for i in range(3) for tail in ("self.query", "output.dense")}


def test_part_of_a_fused_module_is_refused_for_peft_s_own():
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE, bos_token_id=2, eos_token_id=3))
    with pytest.raises(ValueError, match=r"h.0.attn.c_attn holds k too, and PEFT adapts whole modules"):
        lorta.peft_config("dora", model=model, targets=("q", "v"))
    config = lorta.peft_config("dora", model=model)
    assert len(config.target_modules) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lore"}, "method must be one of lorta, .*adalora, dora, got 'lore'"),
        ({"method": "dora"}, "'dora' comes from PEFT, which names modules: give the model too"),
        ({"method": "houlsby", "r": 8}, "'r' is no setting of 'houlsby'"),
        ({"method": "lorta", "size": 8}, "'size' is no setting of 'lorta'"),
        ({"method": "dora", "total_step": 9}, "'total_step' is no setting of 'dora'; there are r, alpha"),
        ({"method": "adalora"}, "adalora needs total_step"),
        ({"method": "adalora", "r": 0, "total_step": 9}, "r must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message):
    if "model" not in message and arguments["method"] in ("dora", "adalora"):
        arguments = arguments | {"model": classifier()}
    with pytest.raises(ValueError, match=message) as error:
        lorta.peft_config(**arguments)
    assert "\n" not in str(error.value)
