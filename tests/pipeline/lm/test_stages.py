"""The three stages as a user runs them, on models of seconds: what they write, resuming, exports, mistakes."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerState

import pipeline.lm.engine
from data_prep.files.command_line import program, release
from pipeline import dpo, mtbench, nlu, sft
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, StageFailed
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import METHODS, TrainingSettings
from tests.pipeline.lm.conftest import table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("--device", "cpu", "--training.cpu_threads", "1", "--training.log_every", "1", "--model.vocabulary", "300")


def run(module, *words: object, code: int = 0, capsys=None) -> str:
    assert module.main([*map(str, words), *QUICK]) == code
    return capsys.readouterr().err if capsys else ""


def nlu_words(glue: Path, out: Path) -> list[object]:
    return [
        "--task", "rte", "--data", glue, "--init-config", "tiny-roberta", "--out", out, "--batch-size", 8,
        "--lr", 1e-2, "--training.evaluate_every", 3, "--training.keep_checkpoints", 9,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(glue, tmp_path_factory) -> Path:
    """A run of 7 steps, with checkpoints at 3, 6 (in the middle of the second epoch) and 7."""
    out = tmp_path_factory.mktemp("nlu") / "run"
    run(nlu, *nlu_words(glue, out), "--max-steps", 7, "--adapter", "lorta", "--rank", 4, "--export-lora", "--seeds", 3)
    return out


def causal_words(data: Path, config: Path, out: Path) -> list[object]:
    return [
        "--data", data, "--init-config", config, "--out", out, "--batch-size", 4, "--max-steps", 5, "--lr", 1e-2,
        "--training.evaluate_every", 3, "--training.keep_checkpoints", 9, "--model.max_length", 96, "--rank", 4,
        "--data.validation_fraction", 0.25,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(alpaca, small_config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sft") / "run"
    run(sft, *causal_words(alpaca, small_config, out), "--export-lora", "--loss-on", "all")
    return out


@pytest.fixture(scope="module")
def preferred(pairs, small_config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dpo") / "run"
    run(dpo, *causal_words(pairs, small_config, out), "--beta", 0.5)
    return out


def test_a_classifier_writes_what_it_says(classifier):
    one = classifier / "seed_3"
    metrics, evaluations = table(one / "metrics.csv"), table(one / "evaluations.csv")
    assert [int(row["step"]) for row in metrics] == list(range(1, 8))
    assert [int(row["step"]) for row in evaluations] == [3, 6, 7]
    result = json.loads((one / "results.json").read_text())
    scores = [float(row["accuracy"]) for row in evaluations]
    assert result["best"]["accuracy"] == max(scores)
    assert result["last"] == {k: pytest.approx(float(v)) for k, v in evaluations[-1].items()}
    # r (d + d/H + H + L + M) = 4 (64 + 16 + 4 + 2 + 4); RobertaClassificationHead: 64^2 + 64 + 2 * 64 + 2
    assert (result["parameters"]["adapter"], result["parameters"]["head"]) == (360, 4290)
    assert (one / "adapter" / "adapter_model.safetensors").is_file()
    assert (one / "adapter_best" / "adapter_model.safetensors").is_file()
    summary = table(classifier / "results.csv")
    assert float(summary[0]["best"]) == max(scores) and summary[0]["version"] == release()
    table_of_seeds = (classifier / "results.md").read_text()
    assert "| mean ± s.d. |" in table_of_seeds and f"Written by {program()}." in table_of_seeds
    assert (one / "config.toml").read_text().startswith(f"# Written by {program()}.")
    assert result["versions"]["lorta-fold"] == release()
    card = (one / "README.md").read_text()
    assert f"lorta-fold {release()}" in card
    assert card.startswith("---\n") and "360 parameters" in card and "untrained" in card


def logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_a_classifier_is_its_export_and_comes_back(classifier):
    one = classifier / "seed_3"
    tokenizer = AutoTokenizer.from_pretrained(one / "adapter")
    batch = tokenizer(["The cat waits .", "A"], ["The dog .", "A train moves by ."], padding=True, return_tensors="pt")
    base = lambda: AutoModelForSequenceClassification.from_pretrained(one / "base", num_labels=2)  # noqa: E731
    torch.manual_seed(0)
    native = PeftModel.from_pretrained(base(), one / "adapter")
    torch.manual_seed(1)  # another head until the saved one is loaded
    exported = PeftModel.from_pretrained(base(), one / "lora")
    assert str(exported.peft_config["default"].peft_type) == "PeftType.LORA"
    torch.testing.assert_close(logits(native, batch), logits(exported, batch), atol=1e-5, rtol=1e-5)
    with native.disable_adapter():
        assert (logits(native, batch) - logits(exported, batch)).abs().max() > 1e-3


def resumed_copy(done: Path, to: Path, step: int) -> Path:
    """A copy of a run as it was when only the checkpoint of ``step`` was there."""
    shutil.copytree(done, to)
    for path in to.glob("checkpoints/checkpoint-*"):
        if int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)
    (to / "results.json").unlink()
    shutil.rmtree(to / "adapter")
    return to


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "evaluations.csv").read_text() == (second / "evaluations.csv").read_text()
    a, b = table(first / "metrics.csv"), table(second / "metrics.csv")
    assert a == b
    mine, theirs = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (first, second))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_classifier_resumes_exactly_in_the_middle_of_an_epoch(classifier, glue, tmp_path):
    resumed_copy(classifier / "seed_3", tmp_path / "run" / "seed_3", 6)
    words = [*nlu_words(glue, tmp_path / "run"), "--max-steps", 7, "--adapter", "lorta", "--rank", 4, "--seeds", 3]
    run(nlu, *words, "--resume")
    assert_same_run(classifier / "seed_3", tmp_path / "run" / "seed_3")


def nlu_again(classifier: Path, glue: Path, to: Path, change) -> Path:
    """The run of the fixture gone on with in ``to``, after ``change`` to its directory."""
    shutil.copytree(classifier, to)
    change(to / "seed_3")
    words = [*nlu_words(glue, to), "--max-steps", 7, "--adapter", "lorta", "--rank", 4, "--seeds", 3, "--export-lora"]
    run(nlu, *words, "--resume")
    return to / "seed_3"


def test_a_run_killed_after_its_last_checkpoint_trains_no_further(classifier, glue, tmp_path):
    """Its last step is in the middle of an epoch, which the trainer itself would go on with."""

    def kill(one: Path) -> None:
        (one / "results.json").unlink()
        shutil.rmtree(one / "adapter")

    one = nlu_again(classifier, glue, tmp_path / "run", kill)
    assert_same_run(classifier / "seed_3", one)
    results = [json.loads((path / "results.json").read_text()) for path in (classifier / "seed_3", one)]
    for result in results:
        del result["train_seconds"], result["base"]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(name, classifier, glue, tmp_path, capsys):
    def damage(one: Path) -> None:
        (one / "results.json").unlink()
        file = one / "checkpoints" / "checkpoint-7" / name
        file.write_bytes(file.read_bytes()[:-9])

    one = nlu_again(classifier, glue, tmp_path / "run", damage)
    said = capsys.readouterr().out
    assert f"checkpoint-7: {name} has not the checksum it was written with, so it is passed over" in said
    assert_same_run(classifier / "seed_3", one)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.json", "{", "damaged (JSONDecodeError"),
        ("results.json", "[]", "damaged (TypeError"),
        ("results.json", '{"stage": "nlu"}', "damaged (KeyError: 'model')"),
        ("config.toml", "[a", "not TOML"),
        ("config.toml", "", "started with another configuration (task = None, now 'rte')"),
    ],
)
def test_a_damaged_run_is_one_line(file, text, message, classifier, glue, tmp_path, capsys):
    shutil.copytree(classifier, tmp_path / "run")
    (tmp_path / "run" / "seed_3" / file).write_text(text)
    words = [*nlu_words(glue, tmp_path / "run"), "--max-steps", 7, "--adapter", "lorta", "--rank", 4, "--seeds", 3]
    error = run(nlu, *words, "--resume", code=2, capsys=capsys)
    assert message in error and file in error.replace("started with", "config.toml") and len(error.splitlines()) == 1


@pytest.mark.parametrize("key", ["best", "last", "parameters", "metric", "rank"])
def test_results_that_no_run_writes_are_damaged(key, classifier, tmp_path):
    results = json.loads((classifier / "seed_3" / "results.json").read_text())
    file = tmp_path / "results.json"
    for value in (None, {}, [], "x"):
        file.write_text(json.dumps({**results, key: value}))
        with pytest.raises(InputError, match=r"results\.json: damaged"):
            LanguageRun(tmp_path).results()
    file.write_text(json.dumps(results))
    assert LanguageRun(tmp_path).results() == results


def test_a_full_disk_loses_nothing_and_the_run_goes_on(tuned, alpaca, small_config, tmp_path, small_files, capsys):
    words = causal_words(alpaca, small_config, resumed_copy(tuned, tmp_path / "run", 3))
    for size in (0, 300, 2_000, 6_000):  # tables, the adapter, the optimizer, the tokenizer
        with small_files(size):
            code = sft.main([*map(str, words), "--loss-on", "all", "--resume", *QUICK])
        error = capsys.readouterr().err
        assert code == 2 and re.fullmatch(rf"error: {tmp_path}/run\S*: File too large\n", error), error
        assert not (tmp_path / "run" / "results.json").exists()
    run(sft, *words, "--loss-on", "all", "--resume")
    assert_same_run(tuned, tmp_path / "run")


def test_ctrl_c_in_a_causal_stage_says_how_to_go_on(alpaca, small_config, tmp_path, monkeypatch, capsys):
    def interrupted(*given, **options):
        raise pipeline.lm.engine.Interrupted("interrupted at step 3")

    monkeypatch.setattr("pipeline.lm.stages.train_stage", interrupted)
    run(sft, *causal_words(alpaca, small_config, tmp_path / "run"), code=130)
    assert "interrupted at step 3; saved. Go on with the same command and --resume" in capsys.readouterr().out


def test_a_gpu_is_chosen_outside(monkeypatch):
    monkeypatch.setattr(pipeline.lm.engine, "pick_device", torch.device)
    with pytest.raises(ConfigError, match="choose a GPU by CUDA_VISIBLE_DEVICES"):
        pipeline.lm.engine.use_device(TrainingSettings(device="cuda:1"))


def test_a_held_out_loss_that_is_no_number_stops_the_run(tmp_path):
    recorder = pipeline.lm.engine.Recorder(LanguageRun(tmp_path), None, None, None, 1)
    state = TrainerState(global_step=5, log_history=[])
    recorder.on_log(None, state, None, logs={"eval_loss": 1.0})
    with pytest.raises(StageFailed, match="the held-out loss is nan at step 5"):
        recorder.on_log(None, state, None, logs={"eval_loss": math.nan})


def test_an_interrupted_run_goes_on_exactly(classifier, glue, tmp_path, monkeypatch):
    words = [*nlu_words(glue, tmp_path / "run"), "--max-steps", 7, "--adapter", "lorta", "--rank", 4, "--seeds", 3]
    with monkeypatch.context() as patch:
        original = pipeline.lm.engine.Recorder.on_step_begin

        def ctrl_c(self, args, state, control, **kwargs):
            if state.global_step == 4:  # the fifth step
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, args, state, control, **kwargs)

        patch.setattr(pipeline.lm.engine.Recorder, "on_step_begin", ctrl_c)
        run(nlu, *words, code=130)
    assert not (tmp_path / "run" / "seed_3" / "results.json").exists()
    assert (tmp_path / "run" / "seed_3" / "checkpoints" / "checkpoint-5").is_dir()
    run(nlu, *words, "--resume")
    assert_same_run(classifier / "seed_3", tmp_path / "run" / "seed_3")


def test_instruction_tuning_resumes_exactly(tuned, alpaca, small_config, tmp_path):
    words = causal_words(alpaca, small_config, resumed_copy(tuned, tmp_path / "run", 3))
    run(sft, *words, "--loss-on", "all", "--resume")
    assert_same_run(tuned, tmp_path / "run")
    assert [int(row["step"]) for row in table(tuned / "evaluations.csv")] == [0, 3, 5]


def test_a_tuned_model_generates_as_its_export(tuned):
    tokenizer = AutoTokenizer.from_pretrained(tuned / "adapter")
    native, exported = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tuned / "base"), tuned / folder).eval()
        for folder in ("adapter", "lora")
    )
    batch = tokenizer("The cat", return_tensors="pt")
    torch.testing.assert_close(logits(native, batch), logits(exported, batch), atol=1e-5, rtol=1e-5)
    tokens = [m.generate(**batch, max_new_tokens=12, do_sample=False).tolist() for m in (native, exported)]
    assert tokens[0] == tokens[1]
    with native.disable_adapter():
        assert not torch.allclose(logits(native, batch), logits(exported, batch), atol=1e-4)


def test_the_loss_counts_what_it_is_told(alpaca, small_config, tmp_path, tuned):
    """Before training, the held-out loss is the mean over the tokens of whole texts, or of the completions."""
    run(sft, *causal_words(alpaca, small_config, tmp_path / "run"), "--max-steps", 1)
    completion, every = (float(table(path / "evaluations.csv")[0]["loss"]) for path in (tmp_path / "run", tuned))
    assert completion != every
    from pipeline.lm.examples import convert, instruction_example
    from pipeline.lm.records import read_records, split_off

    held_out = convert(split_off(read_records(alpaca), 0.25)[1], "", instruction_example)
    tokenizer = AutoTokenizer.from_pretrained(tuned / "base")
    model = AutoModelForCausalLM.from_pretrained(tuned / "base").eval()
    sums = {"all": [0.0, 0], "completion": [0.0, 0]}
    for example in held_out:
        whole = tokenizer(example["prompt"] + example["completion"] + "</s>")["input_ids"][:96]
        begin = len(tokenizer(example["prompt"])["input_ids"])
        ids = torch.tensor([whole])
        losses = -torch.log_softmax(logits(model, {"input_ids": ids})[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
        for name, part in (("all", losses), ("completion", losses[begin - 1 :])):
            sums[name][0] += float(part.sum())
            sums[name][1] += len(part)
    assert completion == pytest.approx(sums["completion"][0] / sums["completion"][1], rel=1e-4)
    assert every == pytest.approx(sums["all"][0] / sums["all"][1], rel=1e-4)


def test_preferences_start_at_ln_2_and_are_logged(preferred):
    evaluations, metrics = table(preferred / "evaluations.csv"), table(preferred / "metrics.csv")
    assert float(evaluations[0]["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(metrics[0]["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(metrics[-1]["loss"]) < math.log(2)
    for row in (metrics[-1], evaluations[-1]):
        margin = float(row["rewards/chosen"]) - float(row["rewards/rejected"])
        assert float(row["rewards/margins"]) == pytest.approx(margin, abs=1e-4)
        assert margin != 0
    assert (preferred / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("method", ["full", "lora", "dora", "vera", "houlsby", "nola"])
def test_the_reference_of_every_kind_of_method_is_the_untouched_model(method, pairs, small_config, tmp_path):
    words = causal_words(pairs, small_config, tmp_path / "run")
    del words[words.index("--rank") : words.index("--rank") + 2]  # not every method has one
    run(dpo, *words, "--adapter", method, "--max-steps", 1)
    first = float(table(tmp_path / "run" / "metrics.csv")[0]["loss"])
    assert first == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("modes", "parameters"), [('["heads", "matrices"]', 352), ('["heads"]', 1344)], ids=["layer", "matrix"]
)
def test_granularities_of_lorta(modes, parameters, glue, tmp_path):
    """d 64, H 4, L 2, M 4, r 2: L r (d + d/H + H + M) per layer, M L r (d + d/H + H) per matrix."""
    words = ["--task", "rte", "--data", glue, "--init-config", "tiny-roberta", "--out", tmp_path, "--max-steps", 1]
    run(nlu, *words, "--rank", 2, "--adapter.settings.modes", modes, "--data.limit", 8, "--data.validation_limit", 4)
    assert json.loads((tmp_path / "seed_0" / "results.json").read_text())["parameters"]["adapter"] == parameters


def test_preferences_resume_exactly(preferred, pairs, small_config, tmp_path):
    words = causal_words(pairs, small_config, resumed_copy(preferred, tmp_path / "run", 3))
    run(dpo, *words, "--beta", 0.5, "--resume")
    assert_same_run(preferred, tmp_path / "run")


def test_a_wrong_reference_stops_the_run(pairs, small_config, tmp_path, monkeypatch, capsys):
    from pipeline.lm.stages import FirstLoss

    original = FirstLoss.on_evaluate
    monkeypatch.setattr(
        FirstLoss, "on_evaluate", lambda s, a, b, c, metrics=None, **k: original(s, a, b, c, {"eval_loss": 0.6876})
    )
    error = run(dpo, *causal_words(pairs, small_config, tmp_path / "run"), code=1, capsys=capsys)
    assert "0.687600, not ln 2" in error


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_is_saved_and_comes_back(method, glue, tmp_path):
    words = ["--task", "stsb", "--data", glue, "--init-config", "tiny-roberta", "--out", tmp_path, "--max-steps", 3]
    few_layers = ("--adapter.settings.drop", 1) if method == "adapterdrop" else ()
    run(nlu, *words, "--adapter", method, "--batch-size", 8, "--lr", 1e-2, "--data.validation_limit", 4, *few_layers)
    one = tmp_path / "seed_0"
    result = json.loads((one / "results.json").read_text())
    assert (result["parameters"]["adapter"] > 0) == (method != "head")
    assert result["parameters"]["head"] == 4225
    tokenizer = AutoTokenizer.from_pretrained(one / "base")
    batch = tokenizer(["The cat waits ."], ["The dog ."], return_tensors="pt")
    if method in ("full", "head"):
        model = AutoModelForSequenceClassification.from_pretrained(one / "model")
        base = AutoModelForSequenceClassification.from_pretrained(one / "base", num_labels=1)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, base.get_parameter(name))}
        assert all(name.startswith("classifier.") for name in moved) == (method == "head")
        return
    last = [
        PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(one / "base", num_labels=1), one / folder
        )
        for folder in ("adapter", "checkpoints/checkpoint-3")
    ]
    assert torch.equal(logits(last[0], batch), logits(last[1], batch))
    assert ("import lorta" in (one / "README.md").read_text()) == (method not in ("adalora", "dora"))
    with_adapter = logits(last[0], batch)
    tensors = load_file(one / "adapter" / "adapter_model.safetensors")
    assert {key for key in tensors if "classifier" in key}
    assert torch.isfinite(with_adapter).all()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for x in %}", "Expected an expression"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    ],
)
def test_a_chat_template_that_refuses_is_one_line(template, message, pairs, preferred, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(preferred / "base", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    words = [*causal_words(pairs, "", tmp_path / "run"), "--model", folder]
    error = run(dpo, *words, code=2, capsys=capsys)
    assert "chat template does not take these examples: " in error and message in error
    assert len(error.splitlines()) == 1
    words = ["--model", str(folder), "--out", str(tmp_path / "answers"), "--device", "cpu"]
    assert mtbench.main(words) == 2
    error = capsys.readouterr().err
    assert "chat template does not take the question: " in error and len(error.splitlines()) == 1


def test_mistakes_are_one_line(classifier, glue, alpaca, small_config, tmp_path, capsys):
    base = nlu_words(glue, tmp_path / "x")

    def error(module, *words: object, code: int = 2) -> str:
        text = run(module, *words, code=code, capsys=capsys).strip()
        assert len(text.splitlines()) == 1, text
        return text

    assert "holds a run already" in error(nlu, *nlu_words(glue, classifier), "--seeds", 3)
    other = error(nlu, *nlu_words(glue, classifier), "--seeds", 3, "--resume", "--rank", 2)
    assert "started with another configuration (adapter.rank = 4, now 2)" in other
    assert "adapter.method = 'lorra'" in error(nlu, *base, "--adapter", "lorra")
    assert "the same seed twice" in error(nlu, *base, "--seeds", 1, 1)
    assert "bitfit" in error(nlu, *base, "--adapter", "bitfit", "--rank", 4)
    assert "does not fit the model: drop=5 leaves no layer" in error(nlu, *base, "--adapter", "adapterdrop")
    assert "has no settings, got r" in error(nlu, *base, "--adapter", "full", "--rank", 4)
    assert "--export-lora is for" in error(nlu, *base, "--adapter", "houlsby", "--export-lora")
    assert "bitsandbytes" in error(nlu, *nlu_words(glue, tmp_path / "y"), "--model", classifier / "seed_3" / "base",
                                   "--init-config", "", "--four-bit")  # fmt: skip
    assert "no such file or directory" in error(nlu, "--task", "rte", "--model", "./none", "--data", glue,
                                                "--out", tmp_path / "z")  # fmt: skip
    words = ["--data", alpaca, "--init-config", small_config, "--out", tmp_path / "h"]
    assert "'head' is for a classifier" in error(sft, *words, "--adapter", "head")
    (tmp_path / "bad.json").write_text("{}")
    words = ["--data", alpaca, "--out", tmp_path / "c", "--init-config", tmp_path / "bad.json"]
    assert "it has no model_type" in error(sft, *words)
    short = [*causal_words(alpaca, small_config, tmp_path / "e"), "--model.max_length", 8]
    assert "none of the 24 training examples has an answer within model.max_length = 8" in error(sft, *short)
    words = causal_words(alpaca, small_config, tmp_path / "nan")
    assert "lower --optimizer.lr" in error(sft, *words, "--lr", 1e30, "--optimizer.clip_norm", 0, code=1)
    assert "give one of --model" in error(sft, "--data", alpaca, "--out", tmp_path / "d")


def subprocess_error(code: str, lines: int = 1, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == lines, result.stderr
    return result.stderr


def test_without_the_extra_the_line_to_install_it():
    commands = {"nlu": ["--task", "rte"], "sft": [], "dpo": [], "lm_compare": [], "mtbench": []}
    code = (
        "import importlib, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('trl', 'peft') else find(name, *a)\n"
        f"codes = [importlib.import_module('pipeline.' + name).main([*words, '--out', 'never']) "
        f"for name, words in {commands!r}.items()]\n"
        "raise SystemExit(set(codes).pop() if len(set(codes)) == 1 else 77)"
    )
    errors = subprocess_error(code, lines=len(commands)).splitlines()
    for name, error in zip(commands, errors, strict=True):
        pattern = rf'pipeline.{name} needs peft, trl, which .*: pip install -c constraints.txt -e "\.\[lm\]"'
        assert re.search(pattern, error), error


def test_no_network_is_one_line_in_seconds(tmp_path):
    code = (
        "from pipeline.nlu import main\n"
        f"raise SystemExit(main(['--task', 'rte', '--model', 'roberta-base', '--out', {str(tmp_path / 'x')!r}]))"
    )
    error = subprocess_error(code, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "cache"))
    assert "dataset 'nyu-mll/glue': the hub cannot be reached" in error
