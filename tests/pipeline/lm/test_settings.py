"""Presets are the paper's tables; layers go over each other."""

import argparse
from dataclasses import asdict

import pytest

from pipeline.config.layers import dotted_layer, resolve
from pipeline.config.schema import ConfigError
from pipeline.lm.command import chosen_seeds, configuration, default_out, seed_numbers, stage_of_preset, stage_parser
from pipeline.lm.grid import grid_names, read_grid
from pipeline.lm.settings import STAGES, NluConfig, SftConfig, preset_layer, preset_names

TABLE_3 = {
    "roberta-base": {
        "sst2": (60, 4e-3, 4e-3), "mrpc": (30, 4e-3, 1e-2), "cola": (80, 1e-2, 1e-2),
        "qnli": (25, 4e-3, 1e-2), "rte": (160, 1e-2, 4e-3), "stsb": (80, 1e-2, 5e-2),
    },
    "roberta-large": {
        "sst2": (10, 6e-3, 1e-2), "mrpc": (40, 3e-3, 1e-2), "cola": (40, 6e-3, 1e-2),
        "qnli": (20, 2e-4, 1e-2), "rte": (40, 2e-3, 2e-2), "stsb": (20, 2e-3, 2e-2),
    },
}  # fmt: skip
"""arXiv 2410.04060, Table 3: epochs, learning rate of the head, learning rate of LoRTA."""


@pytest.mark.parametrize("model", TABLE_3)
def test_table_3(model):
    for task, (epochs, head_lr, lr) in TABLE_3[model].items():
        config = resolve(preset_layer(f"paper-{model}", "nlu", task), {"task": task}, kind=NluConfig)
        assert (config.training.epochs, config.optimizer.head_lr, config.optimizer.lr) == (epochs, head_lr, lr)
        assert (config.optimizer.warmup, config.optimizer.schedule) == (0.06, "linear")
        shape = (config.adapter.rank, config.training.batch_size, config.model.max_length)
        assert shape == ((4, 64, 512) if model == "roberta-base" else (8, 32, 128))


def test_tables_4_and_5():
    sft = resolve(preset_layer("paper-alpaca", "sft"), kind=STAGES["sft"])
    assert (sft.optimizer.lr, sft.optimizer.weight_decay, sft.optimizer.schedule) == (1e-2, 0.01, "cosine")
    assert (sft.adapter.alpha, sft.training.batch_size, sft.training.epochs, sft.optimizer.warmup) == (16, 16, 1, 318)
    dpo = resolve(preset_layer("paper-orca", "dpo"), kind=STAGES["dpo"])
    assert (dpo.optimizer.lr, dpo.optimizer.weight_decay, dpo.optimizer.schedule) == (5e-5, 0.0, "cosine")
    assert (dpo.adapter.alpha, dpo.training.batch_size, dpo.optimizer.warmup, dpo.beta) == (16, 16, 200, 0.1)


def test_every_preset_resolves_for_its_stage():
    for name in preset_names():
        stage = stage_of_preset(name)
        resolve(preset_layer(name, stage, "rte"), kind=STAGES[stage])
        other = "dpo" if stage != "dpo" else "sft"
        with pytest.raises(ConfigError, match="not of pipeline"):
            preset_layer(name, other)
    with pytest.raises(ConfigError, match="no values for task 'wnli'"):
        preset_layer("paper-roberta-base", "nlu", "wnli")
    with pytest.raises(ConfigError, match="unknown"):
        preset_layer("paper", "nlu")


def test_every_grid_is_read():
    for name in grid_names():
        assert read_grid(name).stage in STAGES


def test_layers_of_the_command_line(tmp_path):
    p = stage_parser("sft", "", "")
    file = tmp_path / "c.toml"
    file.write_text("[optimizer]\nlr = 0.5\nweight_decay = 0.25\n[model]\nvocabulary = 300\n")
    words = [
        "--out",
        "x",
        "--preset",
        "paper-alpaca",
        "--config",
        str(file),
        "--lr",
        "0.125",
        "--init-config",
        "tiny-llama",
    ]
    arguments, rest = p.parse_known_args([*words, "--adapter.settings.modes", '["heads"]'])
    config = configuration("sft", arguments, rest)
    assert isinstance(config, SftConfig)
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.warmup) == (0.125, 0.25, 318)
    assert (config.model.name, config.model.init_config, config.model.vocabulary) == ("", "tiny-llama", 300)
    assert config.adapter.settings == {"modes": ["heads"]}
    assert config.model.max_length == 512


def test_one_vocabulary(capsys):
    p = stage_parser("dpo", "", "")
    words = ["--warmup-steps", "7", "--validate-every", "3", "--batch-size", "8", "--alpha", "2", "--seeds", "0", "1"]
    arguments = p.parse_args(words)
    config = configuration("dpo", arguments, [])
    assert (config.optimizer.warmup, config.training.evaluate_every, config.training.batch_size) == (7, 3, 8)
    assert (config.adapter.alpha, config.optimizer.lr, chosen_seeds(arguments.seeds)) == (2, 1e-4, [0, 1])
    assert chosen_seeds(p.parse_args(["--seed", "3"]).seeds) == [3]
    assert "--seed is now called --seeds" in capsys.readouterr().err


def test_where_a_run_goes_when_nothing_is_said():
    nlu = resolve({"task": "rte", "adapter": {"method": "lorta", "rank": 4}}, kind=NluConfig)
    assert str(default_out("nlu", nlu)) == "runs/nlu-rte-lorta-r4"
    assert str(default_out("sft", SftConfig())) == "runs/sft-lorta"
    assert seed_numbers("0,1,2") == [0, 1, 2]
    assert resolve({"adapter": {"method": "head-only"}}, kind=NluConfig).adapter.method == "head"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training.max_stepz", "3"], "did you mean 'max_steps'"),
        (["--training.micro_batch", "3"], "does not divide batch_size 16"),
        (["--optimizer.schedule", "step"], "optimizer.schedule = 'step'"),
    ],
)
def test_mistakes_name_the_field(words, message):
    with pytest.raises(ConfigError) as caught:
        resolve(dotted_layer(words), kind=SftConfig)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"adapter": {"method": "lorra"}}, "adapter.method = 'lorra': input should be 'full', 'head', 'lorta'"),
        ({"adapter": {"settings": {"r": 4}}}, "adapter.settings.r would hide adapter.rank: give that"),
        ({"adapter": {"settings": {"task_type": "X"}}}, "adapter.settings.task_type is decided by the stage"),
        ({"training": {"seed": 2**32}}, "training.seed = 4294967296: input should be less than"),
        ({"training": {"micro_batch": 3}}, "^configuration: training.micro_batch 3 does not divide batch_size 16$"),
        ({"optimizer": {"beta1": 1.0}}, "optimizer.beta1 = 1.0: input should be less than 1"),
        ({"model": {"vocabulary": 260}}, "model.vocabulary = 260: input should be greater than or equal to 261"),
        ({"model": "roberta-base"}, "^configuration: model is a section with fields of its own, found 'roberta-base'$"),
        ({"task": {"name": "rte"}}, "^configuration: task is a section"),
    ],
)
def test_wrong_settings_are_one_line(layer, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(asdict(NluConfig()), layer, kind=NluConfig)
    assert "\n" not in str(caught.value)


def test_head_only_is_head():
    config = resolve({"adapter": {"method": "head-only"}}, kind=NluConfig)
    assert config.adapter.method == "head"


@pytest.mark.parametrize("text", ["-1", "a", "", "1,", "4294967296", "1.5"])
def test_wrong_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole numbers from 0 to 4294967295"):
        seed_numbers(text)
