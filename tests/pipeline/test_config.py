"""Configuration: layers, strict keys and types, presets, round trip."""

import tomllib

import pytest

from pipeline.config import ConfigError, RunConfig
from pipeline.config_layers import (
    describe_fields,
    dotted_layer,
    file_layer,
    preset_layer,
    preset_names,
    resolve,
    to_toml,
)
from pipeline.folding.adapters import adapter_alpha


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_round_trips(name):
    config = resolve(preset_layer(name))
    assert resolve(tomllib.loads(to_toml(config))) == config
    assert config != RunConfig()


def test_presets_are_those_of_the_readme():
    assert preset_names() == ["esmfold", "paper", "paper-finetune", "tiny"]


def test_a_preset_that_extends_another_has_its_values():
    first, second = (resolve(preset_layer(name)) for name in ("paper", "paper-finetune"))
    assert second.trunk == first.trunk
    assert (second.optimizer.clip, second.optimizer.eps) == ("sample", 1e-5)
    assert (first.data.crop_size, second.data.crop_size) == (256, 384)
    assert (first.loss.violation, second.loss.violation) == (0.0, 1.0)
    assert (first.optimizer.lr, second.optimizer.lr, second.optimizer.warmup_steps) == (1e-3, 5e-4, 0)


def test_paper_preset_is_the_papers_setting():
    """12 blocks, ESM-2 35M, AlphaFold2's outer product mean, OpenFold's recipe (LoRTA paper, appendix D.4)."""
    config = resolve(preset_layer("paper"))
    assert (config.stem.name, config.trunk.blocks, config.trunk.c_s, config.trunk.c_z) == (
        "esm2_t12_35M",
        12,
        1024,
        128,
    )
    assert config.trunk.pair_update == "outer_product_mean"
    assert (config.data.crop_size, config.data.batch_size, config.training.max_steps) == (256, 32, 850_000)
    assert (config.optimizer.lr, config.optimizer.eps, config.optimizer.warmup_steps) == (1e-3, 1e-5, 1_000)
    assert config.optimizer.cosine_after == 1.0
    assert (config.loss.clamp_probability, config.data.max_recycles) == (0.9, 3)
    assert config.trunk.triangle_attention
    assert not config.trunk.absolute_positions
    assert adapter_alpha(config.adapter) == 256.0  # Table 6, LoRTA r=8


def test_alpha_of_the_paper_is_an_error_where_the_paper_has_none():
    config = resolve(preset_layer("paper"), {"adapter": {"rank": 4}})
    with pytest.raises(ConfigError, match="Table 6 has no lorta rank 4"):
        adapter_alpha(config.adapter)


def test_later_layers_win_field_by_field():
    config = resolve({"trunk": {"blocks": 2, "c_s": 64}}, {"trunk": {"blocks": 3}})
    assert (config.trunk.blocks, config.trunk.c_s) == (3, 64)


def test_dotted_options():
    layer = dotted_layer(["--trunk.blocks", "2", "--optimizer.lr=5e-4", "--trunk.structure_module.heads", "6"])
    assert layer == {"trunk": {"blocks": 2, "structure_module": {"heads": 6}}, "optimizer": {"lr": 5e-4}}
    assert dotted_layer(["--stem.weights", "a/b.pt"]) == {"stem": {"weights": "a/b.pt"}}
    assert dotted_layer(["--trunk.triangle_attention", "false"]) == {"trunk": {"triangle_attention": False}}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"trunk": {"block": 2}}, "unknown key 'trunk.block': did you mean 'blocks'"),
        ({"trunks": {}}, "unknown key 'trunks': did you mean 'trunk'"),
        ({"trunk": {"blocks": "two"}}, "trunk.blocks = 'two': input should be a valid integer"),
        ({"trunk": {"blocks": 0}}, "trunk.blocks = 0: input should be greater than 0"),
        ({"adapter": {"method": "loro"}}, "adapter.method = 'loro'"),
        ({"trunk": {"c_s": 100}}, "100 is not a multiple of 32"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast'"),
    ],
)
def test_mistakes_are_one_line_that_names_the_field(layer, message):
    with pytest.raises(ConfigError) as error:
        resolve(layer)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_options_and_files(tmp_path):
    with pytest.raises(ConfigError, match="unknown option '--blocks'"):
        dotted_layer(["--blocks", "2"])
    with pytest.raises(ConfigError, match="needs a value"):
        dotted_layer(["--trunk.blocks"])
    with pytest.raises(ConfigError, match="preset 'huge' is unknown: one of esmfold, paper, paper-finetune, tiny"):
        preset_layer("huge")
    with pytest.raises(ConfigError, match="cannot be read"):
        file_layer(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[trunk\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not TOML"):
        file_layer(tmp_path / "bad.toml")


def test_help_says_every_field_and_what_is_written_of_it():
    text = describe_fields()
    assert "--trunk.structure_module.trans_scale (default 10.0)" in text
    assert "angstrom per internal unit of length." in text
    assert all(len(line) <= 110 for line in text.splitlines())
    assert dotted_layer([text.split()[0], "x"]) == {"init": {"weights": "x"}}
