"""BitFit and the bottlenecks: plain formulae in float64, counts, and the promises of every adapter."""

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import lorta
from lorta.config import OUTPUT_METHODS
from lorta.methods import FACTORS
from lorta.outputs import OUTPUT_ADAPTERS, AdaptedOutput, OutputAdapter
from lorta.sites import is_conv1d

HEADS = ("bias.lm_head/", "bias.contact_head/", "bias.pooler/")


def formula(adapter: OutputAdapter, end: str, y: Tensor) -> Tensor:
    """y + U f(D y + a) + b, from the numbers in the state dict."""
    kind, layer = end.split(" of layer ")
    prefix = f"bottlenecks.layer{layer.split(',')[0]}_{kind}."
    p = {name.removeprefix(prefix): v for name, v in adapter.state_dict().items() if name.startswith(prefix)}
    if adapter.config.method == "loretta-adp":
        trains = [
            torch.einsum("aib,bjc,ckd,dme,enf->ijkmn", *[p[f"{n}.{i}"] for i in range(5)]) for n in ("down", "up")
        ]
        down, up = trains[0].reshape(y.shape[-1], -1).T, trains[1].reshape(y.shape[-1], -1)
    else:
        down, up = p["down"], p["up"]
    inner = torch.einsum("md,...d->...m", down, y) + p["down_bias"]
    if adapter.config.method == "houlsby":
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    else:
        inner = inner.clamp(min=0)
    return y + torch.einsum("dm,...m->...d", up, inner) + p["up_bias"]


def test_output_at_the_start_is_bit_equal(model, insert, tokens, run):
    before = run(model, tokens)
    lorta.attach(model, **insert)
    assert any(isinstance(module, AdaptedOutput) for module in model.modules())
    assert torch.equal(run(model, tokens), before)


def test_drawn_again_it_is_the_base_again(model, insert, tokens, run, perturb):
    before = run(model, tokens)
    adapter = lorta.attach(model, **insert)
    perturb(adapter)
    assert not torch.equal(run(model, tokens), before)
    adapter.reset_parameters()
    assert torch.equal(run(model, tokens), before)
    assert f"{insert['method']}, {len(adapter.places())} places" in repr(adapter)


def test_output_is_the_formula(model, insert, tokens, run, perturb):
    base = copy.deepcopy(model.double())
    adapter = lorta.attach(model, **insert)
    perturb(adapter)
    start = run(base, tokens)
    for path, what in adapter.places().items():
        module = base.get_submodule(path)
        if insert["method"] == "bitfit":  # the method as published: the model's own bias
            module.bias.data += adapter.state_dict()[f"bias.{path.replace('.', '/')}"]
        else:
            module.register_forward_hook(lambda _, __, y, what=what: formula(adapter, what, y))
    expected = run(base, tokens)
    assert not torch.allclose(expected, start, atol=1e-3)
    torch.testing.assert_close(run(model, tokens), expected, rtol=1e-9, atol=1e-11)


def test_only_the_adapter_trains_and_all_of_it_does(model, insert, tokens, run):
    adapter = lorta.attach(model, **insert)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    reached = set()
    for step in range(3):
        optimizer.zero_grad()
        run(model, tokens).pow(3).mean().backward()
        here = {n for n, p in adapter.factors().items() if p.grad is not None and p.grad.abs().max() > 0}
        if step == 0:
            assert here and here <= set(adapter.zero_factors)
        reached |= here
        optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {f"lorta.default.{name}" for name in reached}
    idle = {name for name in adapter.factors() if name not in reached}
    assert all(name.startswith(HEADS) for name in idle)  # parts of which the last hidden states know nothing


def test_save_and_load(model, case, insert, tokens, run, perturb, tmp_path):
    adapter = lorta.attach(model, **insert)
    perturb(adapter)
    lorta.save(model, tmp_path)
    torch.manual_seed(0)
    twin = case.build().eval()
    before = run(twin, tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = lorta.load(twin, tmp_path)
    assert loaded.config == adapter.config
    assert torch.equal(run(twin, tokens), run(model, tokens))
    assert not torch.allclose(run(twin, tokens), before, atol=1e-4)


def test_disabled_switched_deleted_and_detached(model, insert, tokens, run, perturb):
    names, base = list(model.state_dict()), run(model, tokens)
    perturb(lorta.attach(model, **insert))
    first = run(model, tokens)
    assert not torch.allclose(first, base, atol=1e-4)
    with lorta.disabled(model):
        assert torch.equal(run(model, tokens), base)
    other = lorta.attach(model, name="other", **insert | {"seed": 1})
    assert torch.equal(run(model, tokens), base)
    perturb(other)
    lorta.set_active(model, "default")
    assert torch.equal(run(model, tokens), first)
    lorta.set_active(model, "default", "other")
    assert not torch.allclose(run(model, tokens), first, atol=1e-4)
    lorta.delete(model, "other")
    assert torch.equal(run(model, tokens), first)
    lorta.detach(model)
    assert list(model.state_dict()) == names
    assert torch.equal(run(model, tokens), base)


@pytest.fixture
def esm2() -> nn.Module:
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    return ESM2(num_layers=3, embed_dim=40, attention_heads=4, alphabet="ESM-1b").eval()


def test_deepcopy_is_independent(esm2, insert, tokens, run, perturb):
    perturb(lorta.attach(esm2, **insert))
    twin, before = copy.deepcopy(esm2), run(esm2, tokens)
    assert torch.equal(run(twin, tokens), before)
    perturb(lorta.adapter_set(twin)["default"])
    assert torch.equal(run(esm2, tokens), before)
    assert not torch.allclose(run(twin, tokens), before, atol=1e-4)


def test_bfloat16_base_with_float32_numbers(esm2, insert, tokens, run, perturb):
    adapter = lorta.attach(esm2.bfloat16(), **insert)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    perturb(adapter)
    output = run(esm2, tokens)
    assert output.dtype == torch.bfloat16
    output.float().pow(2).mean().backward()
    assert any(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.parameters())


@pytest.mark.parametrize(("method", "kind"), [("bitfit", "GPTNeoX"), ("loretta-adp", "Llama")])
def test_compiles_without_a_graph_break(hf, method, kind, tokens, perturb):
    model = hf(kind).eval()
    perturb(lorta.attach(model, method=method, seed=0))
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # fullgraph: a break is an error
    expected = model(tokens, use_cache=False).last_hidden_state
    torch.testing.assert_close(compiled(tokens, use_cache=False).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


class Layer(nn.Module):
    """The linear modules and norms of a BERT layer, d = 768 and 3,072 inside."""

    def __init__(self, width: int):
        super().__init__()
        self.num_heads = 12
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(width, width, device="meta"))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width, device="meta"), nn.Linear(4 * width, width, device="meta")
        self.norm1, self.norm2 = nn.LayerNorm(width, device="meta"), nn.LayerNorm(width, device="meta")


ONE = 2 * 768 * 64 + 64 + 768  # a bottleneck on RoBERTa-base
TRAIN = 8 * 5 + 5 * 8 * 5 + 5 * 12 * 5 + 5 * 8 * 5 + 5 * 8  # 768 x 64 as 8, 8, 12, 8, 8


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("bitfit", {}, 12 * (4 * 768 + 3072 + 768 + 2 * 768)),  # 101,376: the 0.1M of the literature
        ("houlsby", {}, 2 * 12 * ONE),
        ("houlsby", {"size": 8}, 2 * 12 * (2 * 768 * 8 + 8 + 768)),
        ("pfeiffer", {}, 12 * ONE),
        ("adapterdrop", {}, 7 * ONE),
        ("adapterdrop", {"drop": 11}, ONE),
        ("loretta-adp", {}, 2 * 12 * (2 * TRAIN + 64 + 768)),  # 57,408
    ],
)
def test_counts(method, settings, expected):
    model = nn.ModuleList(Layer(768) for _ in range(12))
    assert lorta.attach(model, method=method, **settings).num_parameters() == expected


def test_bitfit_takes_every_bias_of_roberta(hf):
    with torch.device("meta"):
        model = hf("Roberta", hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    biases = {name.removesuffix(".bias"): p.numel() for name, p in model.named_parameters() if name.endswith(".bias")}
    adapter = lorta.attach(model, method="bitfit")
    assert set(adapter.places()) == set(biases)
    assert adapter.num_parameters() == sum(biases.values()) == 101_376 + 768 + 768  # and embeddings, pooler


def test_places_of_each_method(esm2):
    attention = [f"layers.{layer}.self_attn.out_proj" for layer in range(3)]
    feed_forward = [f"layers.{layer}.fc2" for layer in range(3)]
    expected = {
        "houlsby": {*attention, *feed_forward},
        "loretta-adp": {*attention, *feed_forward},
        "pfeiffer": set(feed_forward),
        "adapterdrop": set(feed_forward[1:]),
    }
    for method, paths in expected.items():
        drop = {"drop": 1} if method == "adapterdrop" else {}
        assert set(lorta.attach(esm2, method=method, **drop).places()) == paths
        lorta.detach(esm2)


@pytest.mark.parametrize("settings", [{"method": "houlsby"}, {"method": "adapterdrop", "drop": 1}])
def test_drop_lower(esm2, settings, tokens, run, perturb):
    base = run(esm2, tokens)
    adapter = lorta.attach(esm2, **settings)
    perturb(adapter)
    whole = run(esm2, tokens)
    lorta.drop_lower(adapter, 2)
    dropped = run(esm2, tokens)
    assert not torch.allclose(dropped, whole, atol=1e-4)
    assert not torch.allclose(dropped, base, atol=1e-4)
    twin = copy.deepcopy(esm2)
    lorta.drop_lower(lorta.adapter_set(twin)["default"], 0)
    with torch.no_grad():
        for key, bottleneck in lorta.adapter_set(twin)["default"].bottlenecks.items():
            if key.startswith(("layer0", "layer1")):
                bottleneck.up.zero_(), bottleneck.up_bias.zero_()
    assert torch.equal(run(twin, tokens), dropped)
    lorta.drop_lower(adapter, 3)
    assert torch.equal(run(esm2, tokens), base)
    lorta.drop_lower(adapter, 0)
    assert torch.equal(run(esm2, tokens), whole)


def test_dropped_layers_have_no_backward(esm2, tokens, run):
    """The lower layers need no gradient at all: what AdapterDrop saves in training."""
    adapter = lorta.attach(esm2, method="adapterdrop", drop=2)
    reached = []
    for index, layer in enumerate(esm2.layers):
        layer.register_forward_hook(lambda _, __, output, index=index: reached.append((index, output[0].requires_grad)))
    run(esm2, tokens)
    assert reached == [(0, False), (1, False), (2, True)]
    assert list(adapter.bottlenecks) == ["layer2_feedforward"]


class TestNames:
    def test_one_list_of_all(self):
        assert set(OUTPUT_ADAPTERS) == set(OUTPUT_METHODS)
        assert set(lorta.METHODS) == set(FACTORS) | set(OUTPUT_ADAPTERS)
        assert len(lorta.METHODS) == len(set(lorta.METHODS))

    @pytest.mark.parametrize("method", lorta.METHODS)
    def test_every_name_makes_a_config_and_an_adapter(self, esm2, method):
        config = lorta.config_for(method=method, **{"adapterdrop": {"drop": 2}}.get(method, {}))
        adapter = lorta.attach(esm2, config)
        assert adapter.config.method == method
        assert lorta.config_for(**config.settings()) == config
        assert adapter.num_parameters() == sum(p.numel() for p in esm2.parameters() if p.requires_grad) > 0

    def test_default(self):
        assert lorta.config_for(r=2) == lorta.LortaConfig(r=2)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "adapter"}, "method must be one of lorta, .*, loretta-adp, got 'adapter'"),
            ({"method": "bitfit", "size": 8}, "size is a setting of houlsby, .*, not of 'bitfit'"),
            ({"method": "houlsby", "tt_rank": 2}, "tt_rank is a setting of loretta-adp, not of 'houlsby'"),
            ({"method": "pfeiffer", "drop": 2}, "drop is a setting of adapterdrop, not of 'pfeiffer'"),
            ({"method": "houlsby", "size": 0}, "size must be a whole number of at least 1, got 0"),
            ({"method": "houlsby", "size": True}, "size must be a whole number of at least 1, got True"),
            ({"method": "adapterdrop", "drop": -1}, "drop must be a whole number of at least 0, got -1"),
            ({"method": "houlsby", "seed": 1.5}, "seed must be a whole number of 64 bits or None, got 1.5"),
            ({"method": "houlsby", "r": 8}, "'r' is no setting of 'houlsby'; there are"),
            ({"rank": 8}, "'rank' is no setting of 'lorta'"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            lorta.config_for(**settings)

    def test_method_of_the_engine_in_the_wrong_config(self):
        with pytest.raises(ValueError, match=r"method must be one of bitfit, .*, got 'lora'"):
            lorta.OutputAdapterConfig(method="lora")

    @pytest.mark.parametrize("method", ["houlsby", "pfeiffer", "adapterdrop", "loretta-adp"])
    def test_no_feed_forward(self, plain, method):
        names = list(plain.state_dict())
        with pytest.raises(ValueError, match=r"no feed-forward found beside blocks.0.o_proj; known names are fc2"):
            lorta.attach(plain, method=method)
        assert list(plain.state_dict()) == names
        assert all(parameter.requires_grad for parameter in plain.parameters())

    def test_no_bias(self):
        with pytest.raises(ValueError, match="Embedding has no Linear, Conv1D or LayerNorm with a bias"):
            lorta.attach(nn.Embedding(3, 2), method="bitfit")

    def test_no_bias_in_a_whole_model(self, hf):
        model = hf("Llama")
        with pytest.raises(ValueError, match="LlamaModel has no Linear"):
            lorta.attach(model, method="bitfit")
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_no_parameters(self):
        with pytest.raises(ValueError, match="Identity has no parameters"):
            lorta.attach(nn.Identity(), method="bitfit")

    def test_all_layers_dropped(self, esm2):
        with pytest.raises(ValueError, match="drop=3 leaves no layer of this ESM2 a bottleneck"):
            lorta.attach(esm2, method="adapterdrop", drop=3)

    def test_drop_of_what_has_no_bottlenecks(self, esm2):
        with pytest.raises(ValueError, match="'bitfit' has no bottlenecks to drop"):
            lorta.drop_lower(lorta.attach(esm2, method="bitfit"), 1)

    def test_drop_of_no_number(self, esm2):
        with pytest.raises(ValueError, match="layers must be a whole number of at least 0, got -1"):
            lorta.drop_lower(lorta.attach(esm2, method="houlsby"), -1)

    def test_merge_and_export(self, esm2, insert, tmp_path):
        lorta.attach(esm2, **insert)
        refused = f"adapter 'default' is '{insert['method']}', which"
        if insert["method"] != "bitfit":
            with pytest.raises(ValueError, match=f"{refused} acts on outputs; cannot merge"):
                lorta.merge(esm2)
        with pytest.raises(ValueError, match=f"{refused} is no update of weights; no LoRA holds it"):
            lorta.export_lora(esm2, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_bitfit_merges_into_biases(self, esm2, tokens, run, perturb):
        biases = {name: p.detach().clone() for name, p in esm2.named_parameters() if name.endswith("bias")}
        base = run(esm2, tokens)
        adapter = lorta.attach(esm2, method="bitfit")
        perturb(adapter)
        adapted = run(esm2, tokens)
        lorta.merge(esm2)
        torch.testing.assert_close(run(esm2, tokens), adapted, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="is merged already; unmerge first"):
            lorta.merge(esm2)
        with lorta.disabled(esm2):
            assert torch.equal(run(esm2, tokens), base)
        lorta.unmerge(esm2)
        assert torch.equal(run(esm2, tokens), adapted)
        lorta.merge(esm2)
        lorta.detach(esm2)
        changed = {name for name, p in esm2.named_parameters() if name in biases and not torch.equal(p, biases[name])}
        assert {f"{path}.bias" for path in adapter.modules_adapted} == changed
        torch.testing.assert_close(run(esm2, tokens), adapted, rtol=1e-5, atol=1e-5)

    def test_a_merge_that_fails_changes_nothing(self, esm2):
        adapter = lorta.attach(esm2, method="bitfit")
        before = {name: p.detach().clone() for name, p in esm2.named_parameters()}
        with torch.no_grad():
            list(adapter.parameters())[-1].fill_(torch.inf)
        with pytest.raises(ValueError, match="the update is not finite"):
            lorta.merge(esm2)
        for name, parameter in esm2.named_parameters():
            assert torch.equal(parameter, before[name]) or not parameter.isfinite().all()

    def test_beside_the_other_kind(self, esm2):
        lorta.attach(esm2, method="pfeiffer")
        with pytest.raises(ValueError, match="'lorta' cannot stand beside 'pfeiffer' on one model"):
            lorta.attach(esm2, r=2, name="second")
        lorta.detach(esm2)
        lorta.attach(esm2, r=2)
        with pytest.raises(ValueError, match="'bitfit' cannot stand beside 'lorta' on one model"):
            lorta.attach(esm2, method="bitfit", name="second")

    def test_file_of_another_size(self, esm2, tmp_path):
        lorta.attach(esm2, method="houlsby")
        lorta.save(esm2, tmp_path)
        lorta.detach(esm2)
        esm2.layers = esm2.layers[:2]
        with pytest.raises(ValueError, match=r"only the file has the site layers.2.fc2"):
            lorta.load(esm2, tmp_path)


def test_conv1d_is_adapted_too(hf):
    """GPT-2's projections are no Linear."""
    model = hf("GPT2")
    adapter = lorta.attach(model, method="bitfit")
    assert is_conv1d(model.h[0].attn.c_attn.base_layer)
    assert adapter.places()["h.0.attn.c_attn"] == "bias of 72"
