"""Counts, dense reconstructions and initial scales of the decompositions."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lorta
from lorta.attaching import build
from lorta.cp import CP
from lorta.layer import WeightAdapter

ROBERTA_BASE, ROBERTA_LARGE = (768, 12, 12), (1024, 16, 24)
ESM2_35M, LLAMA2_7B = (480, 20, 12), (4096, 32, 32)


def attention_model(width: int, heads: int, layers: int) -> nn.Module:
    """Modules of the real shape on the meta device: the count comes from the adapter, not from a formula."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = heads
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self.add_module(name, nn.Linear(width, width, device="meta"))

    return nn.ModuleList(Block() for _ in range(layers))


def count(shape: tuple[int, int, int], **settings) -> int:
    adapter = lorta.attach(attention_model(*shape), **settings)
    assert all(parameter.is_meta for parameter in adapter.parameters())
    return adapter.num_parameters()


@pytest.mark.parametrize("r", [1, 8, 64])
def test_count_esm2_35m(r):
    assert count(ESM2_35M, r=r) == 540 * r
    assert count(ESM2_35M, r=r, targets=("q", "k", "v")) == 539 * r
    assert count(ESM2_35M, r=r, method="lora") == 8 * 480 * 12 * r


def test_counts_of_the_papers_tables():
    assert count(ROBERTA_BASE, r=4) == 3440  # Table 1
    assert count(ROBERTA_LARGE, r=8) == 9056
    assert count(ROBERTA_BASE, r=1, modes=("heads",)) == 40512  # Table 2, from one row to the next
    assert count(ROBERTA_BASE, r=1, modes=("heads", "matrices")) == 10176
    assert count(ROBERTA_BASE, r=1) == 860
    assert count(ROBERTA_BASE, r=8, method="lora", targets=("q", "v")) == 294912  # Hu et al. 2021
    assert count(ROBERTA_LARGE, r=8, method="lora", targets=("q", "v")) == 786432


def layers_of(width: int, heads: int, layers: int, names: dict[str, tuple[int, int]]) -> nn.Module:
    """Attention and a feed-forward of the given names and shapes (in, out), on the meta device."""

    class Layer(nn.Module):
        def __init__(self, attention: nn.Module):
            super().__init__()
            self.self_attn = attention
            for path, shape in names.items():
                parent = self
                *outer, last = path.split(".")
                for part in outer:
                    if not hasattr(parent, part):
                        parent.add_module(part, nn.Module())
                    parent = getattr(parent, part)
                parent.add_module(last, nn.Linear(*shape, device="meta"))

    return nn.ModuleList(Layer(block) for block in attention_model(width, heads, layers))


@pytest.mark.parametrize("r", [1, 4])
def test_counts_of_all_linear(r):
    """M is 4 for the attention and one for every slice of d of each feed-forward matrix."""
    up_down = {"fc1": (768, 3072), "fc2": (3072, 768)}
    roberta = layers_of(768, 12, 12, up_down)
    assert lorta.attach(roberta, r=r, targets="all-linear").num_parameters() == r * (768 + 64 + 12 + 12 + 12)
    assert count_of_lora(roberta) == 165888
    esm2_35m = layers_of(480, 20, 12, {"fc1": (480, 1920), "fc2": (1920, 480)})
    assert lorta.attach(esm2_35m, r=r, targets="all-linear").num_parameters() == r * (480 + 24 + 20 + 12 + 12)
    assert count_of_lora(esm2_35m) == 103680
    gated = {"mlp.up_proj": (4096, 11008), "mlp.gate_proj": (4096, 11008), "mlp.down_proj": (11008, 4096)}
    llama = layers_of(4096, 32, 32, gated)
    assert lorta.attach(llama, r=r, targets="all-linear").num_parameters() == r * (4096 + 128 + 32 + 32 + 4 + 9)
    assert count_of_lora(llama) == 2498560


def count_of_lora(model: nn.Module) -> int:
    return lorta.attach(model, name="lora", method="lora", r=1, targets="all-linear").num_parameters()


@pytest.mark.parametrize("r", [1, 4, 48, 192, 768])
def test_count_llama2_7b(r):
    assert count(LLAMA2_7B, r=r) == 4292 * r


@pytest.mark.parametrize("r", [1, 64])
def test_count_llama2_7b_lora(r):
    assert count(LLAMA2_7B, r=r, method="lora") == 1048576 * r


def dense_by_definition(adapter: WeightAdapter, site: lorta.Site) -> Tensor:
    """dW [out, in] summed component by component and head by head from the definition, in float64."""
    config = adapter.config
    (key,) = [key for key in adapter.tensors if key in _keys_of(config, site)]
    factors = {name: value.detach().double() for name, value in adapter.tensors[key].named_parameters()}
    if config.method == "lora":
        return config.alpha / config.r * factors["B"] @ factors["A"]
    if site.role not in "qkvo":
        return dense_of_slices(config, site, factors, row_of(adapter, site) if "matrices" in config.modes else 0)
    head_dim = site.head_width // site.own_heads
    all_heads = site.own_heads
    if "heads" in config.modes:  # grouped queries: head h stands for the query heads h * ratio and on
        all_heads = factors["C_H"].shape[0]
    ratio = all_heads // site.own_heads
    blocks = []
    for head in range(site.own_heads):
        block = torch.zeros(head_dim, site.residual_width, dtype=torch.float64)
        for component in range(config.r):
            weight = config.alpha / config.r
            if config.init == "balanced":  # undoes the size 0.02 of B and of each C, and gives LoRA's first step
                weight = weight / 0.02 ** (1 + len(config.modes)) / (3 * site.residual_width) ** 0.5
            if "heads" in config.modes:
                members = [factors["C_H"][head * ratio + member, component] for member in range(ratio)]
                weight = weight * sum(members) / ratio**0.5
                rows = factors["B"][:, component]
            else:
                rows = factors["B"][head * head_dim : (head + 1) * head_dim, component]
            if "layers" in config.modes:
                weight = weight * factors["C_L"][site.layer, component]
            if "matrices" in config.modes:
                weight = weight * factors["C_M"][row_of(adapter, site), component]
            block += weight * torch.outer(rows, factors["A"][:, component])
        blocks.append(block)
    stacked = torch.cat(blocks)  # [H * d/H, d]: heads on the rows
    return stacked.T if site.role == "o" else stacked


def row_of(adapter: WeightAdapter, site: lorta.Site) -> int:
    """The first row of C_M for the role of ``site``, counted from the widths of the model's first layer."""
    rows = 0
    for other in adapter.sites.values():
        if other.layer == site.layer and other is not site:
            slices = 1 if other.role in "qkvo" else math.ceil(other.far_width / (other.heads * other.head_dim))
            earlier = adapter.config.targets.index(other.role) < adapter.config.targets.index(site.role)
            rows += slices if earlier else 0
    return rows


def dense_of_slices(config: lorta.LortaConfig, site: lorta.Site, factors: dict[str, Tensor], first: int) -> Tensor:
    """dW [out, in] of a feed-forward matrix, slice by slice as whole matrices, the last one cut, in float64."""
    down = site.role == "down"
    wide, width = (site.in_features, site.out_features) if down else (site.out_features, site.in_features)
    weight = config.alpha / config.r / 0.02 ** (len(factors) - 1) / (3 * width) ** 0.5  # the balanced start's gain
    inner = factors["B"]
    if "heads" in config.modes:
        inner = torch.einsum("hk,ik->hik", factors["C_H"], inner).flatten(0, 1)
    blocks = []
    for number in range(-(-wide // len(inner))):
        component = factors["C_M"][first + number]
        if "layers" in config.modes:
            component = component * factors["C_L"][site.layer]
        blocks.append(torch.einsum("k,ok,ik->oi", weight * component, inner, factors["A"]))
    whole = torch.cat(blocks)[:wide]
    return whole.T if down else whole


def _keys_of(config: lorta.LortaConfig, site: lorta.Site) -> set[str]:
    return {"all", f"layer{site.layer}", site.role, f"layer{site.layer}_{site.role}"}


@pytest.mark.only("methods")
def test_update_is_the_definition(model, config, perturb):
    """LoRTA and LoRA; the other methods are in test_methods.py."""
    adapter = lorta.attach(model.double(), config)
    perturb(adapter)
    for site in adapter.sites.values():
        expected = dense_by_definition(adapter, site)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(adapter.update(site).dense(), expected, rtol=1e-12, atol=1e-14)


def test_every_site_of_a_cp_tensor_has_its_own_update(plain, perturb):
    adapter = lorta.attach(plain, r=3, seed=0)
    perturb(adapter)
    updates = [adapter.update(site).dense() for site in adapter.sites.values()]
    assert len(updates) == 12
    for i, first in enumerate(updates):
        for second in updates[:i]:
            assert (first - second).abs().max() > 1e-3


def first_step(width: int, heads: int, layers: int, eta: float = 1e-3, **settings) -> float:
    """RMS element of dW at one q site after a first Adam step: every element of the zero factor moves by eta.

    Signs are random here; in training they are the gradient's, which changes no magnitude.
    """
    torch.manual_seed(0)
    model = attention_model(width, heads, layers).to_empty(device="cpu")
    adapter = lorta.attach(model, **settings)
    adapter.reset_parameters()
    with torch.no_grad():
        for name in adapter.zero_factors:
            parameter = adapter.factors()[name]
            parameter.copy_(eta * (torch.randint(0, 2, parameter.shape) * 2 - 1))
    return adapter.update(adapter.sites["1.q_proj"]).dense().pow(2).mean().sqrt().item()


@pytest.mark.parametrize("r", [1, 4, 16, 64])
@pytest.mark.parametrize(
    ("method", "init", "constant"), [("lorta", "unit", 1), ("lora", "unit", 1), ("lora", "official", 3)]
)
def test_first_step_at_one_site(method, init, constant, r):
    """(alpha/r) sqrt(r/(constant d)) eta; here with alpha = r. 4 and 1/4 of the width tell d from any constant."""
    for width, heads in ((64, 4), (256, 8)):
        expected = (r / width / constant) ** 0.5 * 1e-3
        assert first_step(width, heads, 2, method=method, init=init, r=r) == pytest.approx(expected, rel=0.25), width


@pytest.mark.parametrize("modes", [("heads", "matrices", "layers"), ("heads",)])
@pytest.mark.parametrize("r", [4, 64])
def test_first_step_of_balanced_is_lora_s(r, modes):
    """sqrt(r/(3d)) eta in the mean over the sites, each of which has a weight of its own."""
    for width, heads in ((64, 4), (256, 8)):
        torch.manual_seed(0)
        model = attention_model(width, heads, 6).to_empty(device="cpu")
        adapter = lorta.attach(model, r=r, modes=modes)
        with torch.no_grad():
            for name in adapter.zero_factors:
                parameter = adapter.factors()[name]
                parameter.copy_(1e-3 * (torch.randint(0, 2, parameter.shape) * 2 - 1))
            squares = [adapter.update(site).dense().square().mean() for site in adapter.sites.values()]
        assert torch.stack(squares).mean().sqrt().item() == pytest.approx((r / width / 3) ** 0.5 * 1e-3, rel=0.1)


def test_first_step_of_official_falls_as_the_rank_to_the_minus_five_halves():
    """At a fixed alpha: RMS alpha/r * sqrt(r) * (3r)^-2 * eta, averaged over seeds by its many elements."""
    steps = {r: first_step(256, 8, 24, init="official", alpha=16, r=r) for r in (4, 64)}
    for r, step in steps.items():
        assert step == pytest.approx(16 * r**-2.5 / 9 * 1e-3, rel=0.6)
    assert steps[4] / steps[64] == pytest.approx(16**2.5, rel=0.6)


def test_official_bounds(plain):
    adapter = lorta.attach(plain, r=4, init="official", seed=0)
    for name, factor in adapter.factors().items():
        if name in adapter.zero_factors:
            assert factor.abs().max() == 0
        else:
            assert 0.5 * 0.4 < factor.abs().max() <= 0.5  # uniform within 1/sqrt(4)


def test_unit_values(plain):
    factors = lorta.attach(plain, r=64, seed=0, init="unit").tensors["all"]
    assert isinstance(factors, CP)
    assert factors.A.std().item() == pytest.approx(24**-0.5, rel=0.1)
    for signs in (factors.C_H, factors.C_L, factors.C_M):
        assert set(signs.unique().tolist()) == {-1.0, 1.0}


def test_balanced_values(plain):
    """The longest factor is zero; all others have one size, so that a step turns all of them alike."""
    adapter = lorta.attach(plain, r=256, seed=0, init="balanced")
    assert adapter.zero_factors == ("tensors.all.A",)
    factors = adapter.tensors["all"]
    assert factors.A.abs().max() == 0
    for factor in (factors.B, factors.C_H, factors.C_L, factors.C_M):
        torch.testing.assert_close(factor.square().mean(0).sqrt(), torch.full((256,), 0.02))
        assert factor.mean().abs() < 0.004 and factor.abs().min() < 0.002  # both signs, and some near zero


def test_seed_decides_and_the_global_generator_is_left_alone():
    def factors(seed: int | None) -> list[Tensor]:
        model = attention_model(8, 2, 2).to_empty(device="cpu")
        return list(lorta.attach(model, r=2, seed=seed).state_dict().values())

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = factors(1), factors(1), factors(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    unseeded = factors(None)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(unseeded, factors(None), strict=True))


def test_shapes_that_one_tensor_cannot_span(plain):
    plain.blocks[2].num_heads = 2
    with pytest.raises(ValueError, match=r"same heads at all its sites: blocks.0.q_proj has 4, blocks.2.q_proj has 2"):
        lorta.attach(plain, r=2)
    per_layer = lorta.attach(plain, r=1, modes=("heads", "matrices"))
    assert per_layer.num_parameters() == 2 * (24 + 6 + 4 + 4) + (24 + 12 + 2 + 4)  # H = 4, 4 and 2


def test_paper_tables_agree(pytestconfig):
    """The counts above against the shared table of the paper's numbers, where it is at hand."""
    path = Path(pytestconfig.getoption("--golden-dir")).parent / "paper_tables.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    table = json.loads(path.read_text())["counts"]
    model = attention_model(*LLAMA2_7B)
    for r, expected in table["llama2-7b LoRTA"].items():
        assert build(model, lorta.LortaConfig(r=int(r))).num_parameters() == expected
    for name, (width, heads, layers) in table["arch_d_H_L"].items():
        assert count((width, heads, layers), r=2) == 2 * (width + width // heads + heads + layers + 4), name
