"""Where a run's stem comes from: what the command line decides, what travels with a run, and any head does."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import compare, export, load_run, predict, train
from pipeline.config.schema import ConfigError
from pipeline.folding import hub
from pipeline.folding.esm2_weights import StemError
from pipeline.runs.directory import RunDirectory, RunError
from pipeline.runs.directory import load_run as read_run
from pipeline.training import command
from tests.pipeline.prepare_demo import dataset_of

pytestmark = pytest.mark.slow

SMALL = (
    "--preset", "tiny", "--data.crop_size", "16", "--data.batch_size", "1", "--data.max_recycles", "0",
    "--data.initial_crop_size", "0", "--training.validation_limit", "1", "--training.validate_every", "9",
    "--training.cpu_threads", "1", "--device", "cpu", "--trunk.c_s", "32", "--trunk.structure_module.c_s", "32",
    "--trunk.structure_module.heads", "2", "--trunk.structure_module.blocks", "1", "--rank", "2",
)  # fmt: skip


def configured(*words):
    return command.fresh_configuration(*train.parser().parse_known_args([str(word) for word in words]))


def test_a_published_name_or_weights_win_over_the_random_stem_of_a_preset(tmp_path):
    demo = configured("--preset", "tiny").stem
    assert (demo.name, demo.init) == ("esm2_t3_demo", "random")
    assert configured("--preset", "tiny", "--esm", "esm2_t3_demo").stem == demo
    for words in (("--esm", "esm2_t6_8M"), ("--stem.name", "esm2_t6_8M")):
        stem = configured("--preset", "tiny", *words).stem
        assert (stem.name, stem.init, stem.weights) == ("esm2_t6_8M", "pretrained", "")
        stem = configured("--preset", "tiny", *words, "--esm-weights", tmp_path).stem
        assert (stem.name, stem.init, stem.weights) == ("esm2_t6_8M", "pretrained", str(tmp_path))
    stem = configured("--preset", "tiny", "--esm", "esm2_t6_8M", "--esm-init", "random").stem
    assert (stem.name, stem.init) == ("esm2_t6_8M", "random")
    (tmp_path / "demo.toml").write_text('[stem]\nname = "esm2_t3_demo"\ninit = "random"\n')
    assert configured("--config", tmp_path / "demo.toml", "--esm", "esm2_t6_8M").stem.init == "pretrained"


@pytest.mark.parametrize("preset", [(), ("--preset", "tiny")])
def test_random_and_weights_in_one_command_are_refused_with_the_way_out(preset):
    with pytest.raises(ConfigError, match=r"'x' \(--esm-weights\) .* \(--esm-init random\) .*: leave one of them out"):
        configured(*preset, "--esm", "esm2_t6_8M", "--esm-init", "random", "--esm-weights", "x")


def test_paths_hold_in_every_directory_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("esm8").mkdir()
    words = ("--esm-weights", "esm8", "--data.extra", "extra", "--training.panel", "../panel")
    config = configured("--esm", "esm2_t6_8M", *words)
    assert config.stem.weights == str(tmp_path / "esm8") and config.data.extra == str(tmp_path / "extra")
    assert config.training.panel == str(tmp_path.parent / "panel")
    assert configured("--esm-weights", "facebook/esm2_t12_35M_UR50D").stem.weights == "facebook/esm2_t12_35M_UR50D"
    assert configured("--init-from", "esmfold_v1").init.weights == "esmfold_v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stems")


@pytest.fixture(scope="module")
def dataset(folder) -> Path:
    return dataset_of(("2igd_A.pdb.gz", "1cyo_A.pdb.gz"), folder, 0.5)


@pytest.fixture(scope="module")
def classifier(folder) -> Path:
    """A directory without masked-LM head, of the size of the demo's stem."""
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        position_embedding_type="rotary", token_dropout=True, pad_token_id=1, mask_token_id=32, layer_norm_eps=1e-5,
    )  # fmt: skip
    transformers.EsmForSequenceClassification(config).save_pretrained(folder / "classifier")
    return folder / "classifier"


def call(command, *words, code: int = 0) -> None:
    assert command.main([str(word) for word in words]) == code


@pytest.fixture(scope="module")
def adapted(folder, dataset, classifier) -> Path:
    """A run over the classifier's directory, begun and resumed, as typed from beside that directory."""
    run = folder / "adapted"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(
            train, "--data", dataset, "--out", run, *SMALL, "--esm-weights", classifier.name,
            "--max-steps", 1, "--checkpoint-every", 1,
        )  # fmt: skip
    call(train, "--data", dataset, "--out", run, "--resume", "--max-steps", 2)
    return run


def test_a_classifiers_directory_does_what_any_stem_does(folder, dataset, adapted, classifier, capsys):
    model, step = read_run(adapted)
    assert step == 2 and not RunDirectory(adapted).stem_file.exists()
    call(predict, "--run", adapted, "--data", dataset, "--out", folder / "preds")
    for to in ("lora", "merged"):
        call(export, "--run", adapted, "--to", to, "--out", folder / to)
    call(train, "--data", dataset, "--out", folder / "next", *SMALL, "--init-from", adapted, "--max-steps", 1)
    assert "(pretrained)" in capsys.readouterr().out
    read_run(folder / "next")
    merged = load_run(folder / "merged" / "model.safetensors", device="cpu").loaded.model.state_dict()
    with model.merged():
        for name, value in model.state_dict().items():
            if name.replace(".base_layer", "") in merged:
                torch.testing.assert_close(value, merged[name.replace(".base_layer", "")])
    call(
        compare, "--data", dataset, "--out", folder / "compared", "--adapters", "none,lorta:2", "--seeds", 0,
        *SMALL[:-2], "--esm-weights", classifier, "--max-steps", 1,
    )  # fmt: skip


def test_full_training_keeps_no_head(folder, dataset, classifier):
    run = folder / "full"
    call(
        train, "--data", dataset, "--out", run, *SMALL, "--esm-weights", classifier, "--adapter", "full",
        "--max-steps", 1,
    )  # fmt: skip
    names = [name for name, _ in read_run(run)[0].named_parameters()]
    assert not any("head" in name for name in names if name.startswith("stem."))


def test_a_moved_run_works_anywhere_and_lost_weights_are_asked_for(folder, adapted, classifier, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(adapted, moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        read_run("moved")
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(classifier, elsewhere)
        classifier.rename(folder / "away")
        try:
            with pytest.raises(RunError, match=rf"^moved: its stem's weights were {classifier}, which is not there"):
                read_run("moved")
            (tmp_path / "seq.fasta").write_text(">a\nMKTAYIAK\n")
            words = ("--run", moved, "--fasta", "seq.fasta", "--out", "preds")
            call(predict, *words, code=2)
            text = capsys.readouterr().err
            assert str(moved) in text and "--esm-weights" in text and text.count("\n") == 1
            call(predict, *words, "--esm-weights", "elsewhere")
            call(train, "--data", folder / "dataset", "--out", moved, "--resume", code=2)
            assert "say where it is now with --esm-weights" in capsys.readouterr().err
            call(train, "--data", folder / "dataset", "--out", moved, "--resume", "--esm-weights", "elsewhere")
            assert RunDirectory(moved).config().stem.weights == str(elsewhere)
        finally:
            (folder / "away").rename(classifier)


def test_weights_that_left_the_cache_are_asked_for(tmp_path, monkeypatch):
    def offline(url, **_):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub, "urlopen", offline)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.save_config(configured("--preset", "tiny", "--esm", "esm2_t6_8M"))
    with pytest.raises(StemError, match=rf"^{run.path}: pretrained weights of esm2_t6_8M .* --esm-weights FILE"):
        read_run(run.path)


def test_a_model_that_started_from_a_run_that_moved_is_asked_for(folder, dataset, adapted, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(adapted, base)
    call(train, "--data", dataset, "--out", run, *SMALL, "--init-from", base, "--max-steps", 1)
    base.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=rf"run: the model that it started from was {base}, .* with --weights"):
        read_run(run)
    read_run(run, init_from=str(tmp_path / "moved"))
    call(train, "--data", dataset, "--out", run, "--resume", "--init-from", tmp_path / "moved", "--max-steps", 2)
    assert read_run(run)[1] == 2


def test_a_stem_that_was_never_pretrained_is_called_so_ever_after(folder, dataset, tmp_path, capsys):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    call(train, "--data", dataset, "--out", first, *SMALL, "--max-steps", 1)
    for out, base in ((second, first), (third, second)):
        capsys.readouterr()
        call(train, "--data", dataset, "--out", out, *SMALL, "--init-from", base, "--max-steps", 1)
        said = capsys.readouterr().out
        assert "(random)" in said and "never pretrained" in said and "(pretrained)" not in said
        assert "never pretrained" in RunDirectory(out).card_file.read_text()
    call(predict, "--run", third, "--data", dataset, "--out", tmp_path / "preds")
    assert "never pretrained" in capsys.readouterr().out
    call(export, "--run", third, "--to", "merged", "--out", tmp_path / "merged")
    call(predict, "--run", tmp_path / "merged", "--data", dataset, "--out", tmp_path / "preds2")
    assert "never pretrained" in capsys.readouterr().out
    with (tmp_path / "preds2" / "predictions.csv").open() as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done"]
    merged = tmp_path / "merged" / "model.safetensors"
    assert configured("--init-from", merged).stem.init == "random"
