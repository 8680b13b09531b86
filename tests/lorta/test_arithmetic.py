"""Sums and approximations of adapters, held to sums of dense updates in float64."""

import copy

import pytest
import torch
from torch import nn

import lorta

SETTINGS = [
    {},
    {"init": "official"},
    {"modes": ("heads",)},
    {"targets": ("q", "v")},
    {"method": "lora"},
]


def trained(model: nn.Module, name: str, perturb, seed: int, **settings) -> lorta.Adapter:
    """An adapter off its start, with numbers of its own for every seed."""
    adapter = lorta.attach(model, name=name, **{"r": 3, "alpha": 4.5, "seed": seed} | settings)
    perturb(adapter)
    return adapter


def dense(adapter: lorta.Adapter) -> dict[str, torch.Tensor]:
    return {name: adapter.update(site).dense().detach() for name, site in adapter.sites.items()}


@pytest.mark.parametrize("settings", SETTINGS)
def test_combined_is_the_sum_of_the_dense_updates(plain, perturb, settings):
    model = plain.double()
    first = trained(model, "first", perturb, 1, **settings)
    second = trained(model, "second", perturb, 2, **settings | {"r": 2, "alpha": 7.0})
    total = lorta.combine(first, second, weights=(0.3, -2.0))
    assert (total.config.r, total.config.scaling) == (5, 1.0)
    ours, theirs = dense(first), dense(second)
    for name, update in dense(total).items():
        expected = 0.3 * ours[name] - 2.0 * theirs[name]
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(update, expected, rtol=1e-9, atol=1e-12)


def test_of_two_starts_and_all_linear(perturb, hf, tokens, run, tmp_path):
    """Grouped queries and a cut slice; installed, saved and loaded, it computes what both do together."""
    torch.manual_seed(0)
    model = hf("Mistral", num_key_value_heads=2).double().eval()
    base = copy.deepcopy(model)
    first = trained(model, "first", perturb, 1, targets="all-linear")
    second = trained(model, "second", perturb, 2, targets="all-linear", init="official", r=2)
    lorta.set_active(model, "first", "second")
    expected = run(model, tokens)
    lorta.install(model, lorta.combine(first, second), "sum")
    torch.testing.assert_close(run(model, tokens), expected, rtol=1e-8, atol=1e-10)
    lorta.save(model, tmp_path, name="sum")
    lorta.load(base, tmp_path)
    torch.testing.assert_close(run(base, tokens), expected, rtol=1e-8, atol=1e-10)


def test_scaled(plain, perturb):
    adapter = trained(plain.double(), "default", perturb, 1)
    for name, update in dense(lorta.scale(adapter, -0.5)).items():
        torch.testing.assert_close(update, -0.5 * dense(adapter)[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("settings", SETTINGS[:4])
def test_compressed_has_the_error_that_it_states(plain, perturb, settings):
    adapter = trained(plain.double(), "default", perturb, 1, **settings | {"r": 6})
    small, error = lorta.compress(adapter, 2)
    before, after = dense(adapter), dense(small)
    lost = sum((after[name] - update).square().sum() for name, update in before.items()) ** 0.5
    whole = sum(update.square().sum() for update in before.values()) ** 0.5
    assert 0.01 < error < 1 and small.config.r == 2
    assert (lost / whole).item() == pytest.approx(error, rel=1e-6)


def test_compressing_a_sum_of_an_adapter_with_itself_loses_nothing(plain, perturb):
    adapter = trained(plain.double(), "default", perturb, 1)
    small, error = lorta.compress(lorta.combine(adapter, adapter, weights=(0.25, 0.75)), 3)
    assert error < 1e-4
    for name, update in dense(small).items():
        torch.testing.assert_close(update, dense(adapter)[name], rtol=1e-3, atol=1e-4)


def test_a_compressed_adapter_trains_at_the_speed_of_a_fresh_one(plain, perturb):
    """B and each C have the size of the default start, in which the learning rate counts."""
    small, _ = lorta.compress(trained(plain, "default", perturb, 1, r=6), 2)
    for name in ("B", "C_H", "C_L", "C_M"):
        size = small.tensors["all"].get_parameter(name).square().mean(0).sqrt()
        torch.testing.assert_close(size, torch.full((2,), 0.02), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "vera"}, "'vera' has no components to put side by side; lorta and lora have"),
        ({"method": "lora"}, "the adapters differ in method, 'lorta' and 'lora'"),
        ({"modes": ("heads",)}, "the adapters differ in modes"),
        ({"targets": ("q", "k", "v")}, "the adapters are for different matrices: only one has blocks.0.o_proj"),
    ],
)
def test_what_cannot_be_combined(plain, settings, message):
    first = lorta.attach(plain, r=2, seed=0)
    with pytest.raises(ValueError, match=message):
        lorta.combine(first, lorta.attach(plain, name="second", r=2, seed=0, **settings))


def test_wrong_numbers(plain):
    adapter = lorta.attach(plain, r=2, seed=0)
    with pytest.raises(ValueError, match="combine got 1 adapters and 2 weights: give one for each"):
        lorta.combine(adapter, weights=(1, 2))
    with pytest.raises(ValueError, match="at least one adapter"):
        lorta.combine()
    with pytest.raises(ValueError, match="r must be a whole number from 1 to 1, below the rank there is, got 2"):
        lorta.compress(adapter, 2)
    with pytest.raises(ValueError, match="compress is for 'lorta', not for 'lora'"):
        lorta.compress(lorta.attach(plain, name="pairs", method="lora", r=3), 2)
