import dataclasses
import json

import pytest

from lorta import LortaConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lorra"}, "method must be one of lorta, lora"),
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"r": 2.0}, "r must be a whole number of at least 1, got 2.0"),
        ({"r": True}, "r must be a whole number of at least 1"),
        ({"alpha": 0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be a finite number"),
        ({"alpha": "16"}, "alpha must be a finite number, got '16'"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": "qv"}, "targets must be a tuple of names out of .*, or 'all-linear', got 'qv'"),
        ({"targets": ("q", "x")}, "an entry of targets must be one of q, k, v, o, up, gate, down, got 'x'"),
        ({"targets": ("q", "q")}, "targets has a repeated entry"),
        ({"modes": ("depth",)}, "an entry of modes must be one of heads, matrices, layers"),
        ({"method": "lora", "modes": ("heads",)}, "modes is a setting of lorta, tenslora, not of 'lora'"),
        ({"init": "zero"}, "init must be one of balanced, official, unit"),
        ({"method": "vera", "init": "unit"}, "init must be one of official, got 'unit'"),
        ({"axis": "heads"}, "axis must be one of paper, input, output"),
        ({"bases": 4}, "bases is a setting of nola, not of 'lorta'"),
        ({"method": "nola", "bases": 0}, "bases must be a whole number of at least 1, got 0"),
        ({"method": "loretta-rep", "tt_rank": 1.0}, "tt_rank must be a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"seed": 0.5}, "seed must be a whole number of 64 bits or None"),
        ({"seed": 2**64}, "seed must be a whole number of 64 bits or None"),
        ({"freeze": 3}, "freeze must be a tuple of names of factors, got 3"),
        ({"freeze": "A"}, "freeze must be a tuple of names of factors, got 'A'"),
        ({"freeze": (3,)}, "freeze must be a tuple of names of factors"),
    ],
)
def test_wrong_values_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        LortaConfig(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "alpha", "init"),
    [
        ({}, 8.0, "balanced"),
        ({"r": 64}, 64.0, "balanced"),
        ({"init": "official", "r": 64}, 16.0, "official"),
        ({"method": "lora", "r": 1}, 1.0, "official"),
        ({"alpha": 256}, 256, "balanced"),
        ({"method": "lotr", "r": 2}, 1.0, "official"),
        ({"method": "loretta-rep"}, 16.0, "official"),
    ],
)
def test_defaults_are_resolved(settings, alpha, init):
    config = LortaConfig(**settings)
    assert (config.alpha, config.init) == (alpha, init)
    assert config.scaling == alpha / config.r


def test_order_of_names_is_canonical():
    config = LortaConfig(targets=["o", "q"], modes=["layers", "heads"])
    assert config.targets == ("q", "o")
    assert config.modes == ("heads", "layers")


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LortaConfig().r = 2


@pytest.mark.parametrize("settings", [{}, {"method": "lora", "r": 2}, {"modes": ("heads",), "seed": 3}])
def test_round_trip_through_json(settings):
    config = LortaConfig(**settings)
    assert LortaConfig.from_dict(json.loads(json.dumps(config.settings()))) == config


def test_unknown_key_is_refused():
    with pytest.raises(ValueError, match="'rank' is no setting of 'lorta'"):
        LortaConfig.from_dict({"rank": 8})


def test_equal_settings_are_one_key():
    first, second = LortaConfig(method="tenslora", ranks={"in": 4}), LortaConfig(method="tenslora", ranks={"in": 4})
    assert {first: 1}[second] == 1 and first == second
    assert first != LortaConfig(method="tenslora") and first != first.settings()


def test_all_linear_in_every_way_it_is_written():
    """As a word, as the command line of a stage gives it, as a file gives it back."""
    config = LortaConfig(targets="all-linear")
    assert config.targets == ("q", "k", "v", "o", "up", "gate", "down")
    for written in (("all-linear",), ["all-linear"], config.targets, list(config.targets)):
        assert LortaConfig(targets=written) == config
