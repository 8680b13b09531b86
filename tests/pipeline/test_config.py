"""Configuration: layers, strict keys and types, presets, round trip."""

import tomllib

import pytest

from pipeline.config.layers import (
    describe_fields,
    dotted_layer,
    dotted_values,
    file_layer,
    preset_layer,
    preset_names,
    resolve,
    to_toml,
)
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.adapters import PAPER_ALPHA, adapter_alpha


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_round_trips(name):
    config = resolve(preset_layer(name))
    assert resolve(tomllib.loads(to_toml(config))) == config
    assert config != RunConfig()


def test_presets_are_those_of_the_readme():
    assert preset_names() == ["esmfold", "family", "paper", "paper-finetune", "tiny"]


PAPER = {
    # LoRTA paper, appendix D.4: 12 blocks in ESMFold's shape over ESM-2 35M, with AlphaFold2's outer product mean
    "stem.name": "esm2_t12_35M",
    "stem.init": "pretrained",
    "adapter.method": "lorta",
    "trunk.blocks": 12,
    "trunk.c_s": 1024,
    "trunk.c_z": 128,
    "trunk.sequence_head_width": 32,
    "trunk.pair_head_width": 32,
    "trunk.pair_update": "outer_product_mean",
    "trunk.c_outer_product": 32,
    "trunk.triangle_attention": True,
    "trunk.position_bins": 32,
    "trunk.absolute_positions": False,
    "trunk.dropout": 0.0,
    "trunk.structure_module.c_s": 384,
    "trunk.structure_module.c_z": 128,
    "trunk.structure_module.c_ipa": 16,
    "trunk.structure_module.c_resnet": 128,
    "trunk.structure_module.heads": 12,
    "trunk.structure_module.qk_points": 4,
    "trunk.structure_module.v_points": 8,
    "trunk.structure_module.blocks": 8,
    "trunk.structure_module.transition_layers": 1,
    "trunk.structure_module.resnet_blocks": 2,
    "trunk.structure_module.dropout": 0.1,
    "trunk.structure_module.trans_scale": 10.0,
    "heads.distogram_bins": 64,
    "heads.plddt_hidden": 128,
    "heads.plddt_bins": 50,
    # OpenFold's configuration, "initial_training"
    "loss.backbone_fape": 0.5,
    "loss.sidechain_fape": 0.5,
    "loss.supervised_chi": 1.0,
    "loss.distogram": 0.3,
    "loss.plddt": 0.01,
    "loss.pae": 0.0,
    "loss.violation": 0.0,
    "loss.clamp_probability": 0.9,
    "loss.scale_by_length": True,
    "data.crop_size": 256,
    "data.initial_crop_size": 0,
    "data.max_recycles": 3,
    "data.substitutions": 0.0,
    "data.cluster_sampling": True,
    "data.extra_fraction": 0.75,
    # OpenFold's optimizer and schedule; clipping of each sample as AlphaFold2
    "optimizer.lr": 1e-3,
    "optimizer.stem_lr": 1e-3,
    "optimizer.heads_lr": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.stem_weight_decay": 0.0,
    "optimizer.heads_weight_decay": 0.0,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-5,
    "optimizer.warmup_steps": 1_000,
    "optimizer.decay_after": 50_000,
    "optimizer.decay_every": 50_000,
    "optimizer.decay_factor": 0.95,
    "optimizer.cosine_after": 1.0,
    "optimizer.clip": "sample",
    "optimizer.clip_norm": 0.1,
    "optimizer.ema_decay": 0.999,
    "optimizer.ema_warmup": False,
    # LoRTA paper, appendix D.4
    "data.batch_size": 32,
    "training.max_steps": 850_000,
}
FINETUNE = {
    # OpenFold's configuration, "finetuning"; AlphaFold2, supplementary Table 4
    "data.crop_size": 384,
    "loss.violation": 1.0,
    "optimizer.lr": 5e-4,
    "optimizer.stem_lr": 5e-4,
    "optimizer.warmup_steps": 0,
    "training.max_steps": 47_000,
}
ESMFOLD = {
    # Lin et al. 2023 and fair-esm's esmfold_v1
    "stem.name": "esm2_t36_3B",
    "trunk.blocks": 48,
    "trunk.pair_update": "product_difference",
    "heads.plddt_atoms": 37,
    "heads.pae": True,
    "data.batch_size": 128,
    "training.max_steps": 125_000,
    # not said for ESMFold
    "optimizer.clip": "global",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper", PAPER),
        ("paper-finetune", PAPER | FINETUNE),
        ("esmfold", PAPER | ESMFOLD | {"optimizer.clip": "global"}),
    ],
)
def test_numbers_of_the_presets_are_the_published_ones(name, expected):
    values = dotted_values(resolve(preset_layer(name)))
    assert {key: values[key] for key in expected} == expected


def test_alpha_of_the_paper_is_that_of_its_table_6():
    """The row with alpha 2 is LoRTA r=1; the search starts at 256 r (appendix D.4)."""
    assert PAPER_ALPHA == {("lora", 1): 128.0, ("lorta", 64): 128.0, ("lorta", 8): 256.0, ("lorta", 1): 2.0}
    assert adapter_alpha(resolve(preset_layer("paper")).adapter) == 256.0


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
        ({"training": {"batch_size": 2}}, "unknown key 'training.batch_size': did you mean 'data.batch_size'?"),
        ({"trunk": {"blocks": "two"}}, "trunk.blocks = 'two': input should be a valid integer"),
        ({"trunk": {"blocks": 0}}, "trunk.blocks = 0: input should be greater than 0"),
        ({"adapter": {"method": "loro"}}, "adapter.method = 'loro'"),
        ({"trunk": {"c_s": 100}}, "100 is not a multiple of 32"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast'"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr = inf: input should be a finite number"),
        ({"training": {"seed": 2**63}}, "training.seed = 9223372036854775808: input should be less than"),
    ],
)
def test_mistakes_are_one_line_that_names_the_field(layer, message):
    with pytest.raises(ConfigError) as error:
        resolve(layer)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_options_and_files(tmp_path):
    with pytest.raises(ConfigError, match=r"'--blocks': did you mean --trunk\.blocks or --trunk\.structure_module\.bl"):
        dotted_layer(["--blocks", "2"], RunConfig)
    with pytest.raises(ConfigError, match=r"'--stem-lr': did you mean --optimizer\.stem_lr\?"):
        dotted_layer(["--stem-lr", "2"], RunConfig)
    with pytest.raises(ConfigError, match="'--what': see --help"):
        dotted_layer(["--what", "2"], RunConfig)
    with pytest.raises(ConfigError, match="needs a value"):
        dotted_layer(["--trunk.blocks"])
    with pytest.raises(ConfigError, match="preset 'huge' is unknown: one of esmfold, family, paper, paper-fin"):
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


def test_fields_of_an_earlier_version_are_left_out():
    assert resolve({"training": {"kernels": "cuequivariance", "seed": 3}}).training.seed == 3
