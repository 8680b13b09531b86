"""MT-Bench: FastChat's files, two turns, going on after a stop."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, set_seed

from data_prep.files.command_line import program
from data_prep.files.errors import UserError
from pipeline import mtbench, sft
from pipeline.lm.errors import InputError
from pipeline.lm.models import ensure_chat_template, train_tokenizer
from pipeline.lm.mtbench import TEMPERATURES, Subject, chat_prompt, generate, open_answers, read_questions


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained Llama with a context of 64 tokens, without a chat template."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_tokenizer(["The cat waits by the river ."] * 5, 300, encoder=False)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bench(*words: object, code: int = 0) -> None:
    assert mtbench.main([*map(str, words), "--device", "cpu"]) == code


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_bundled_files_are_mt_bench():
    questions = read_questions()
    assert len(questions) == 80 and [q.question_id for q in questions] == list(range(81, 161))
    assert {q.category for q in questions} == set(TEMPERATURES)
    assert all(len(q.turns) == 2 for q in questions)


def test_answers_and_going_on(model, tmp_path):
    out = tmp_path / "out"
    words = ("--model", model, "--out", out, "--max-new-tokens", 4)
    bench(*words, "--limit", 1)
    file = out / "model_answer" / "tiny.jsonl"
    first = lines(file)[0]
    assert set(first) == {"question_id", "answer_id", "model_id", "program", "settings", "choices", "tstamp"}
    assert first["program"] == program()
    assert (first["question_id"], first["model_id"], first["choices"][0]["index"]) == (81, "tiny", 0)
    assert len(first["choices"][0]["turns"]) == 2
    with file.open("a") as stream:  # a kill in the middle of a line
        stream.write('{"question_id": 82, "ans')
    bench(*words, "--limit", 2)
    answers = lines(file)
    assert [row["question_id"] for row in answers] == [81, 82]
    assert answers[0] == first
    assert {row["program"] for row in answers} == {program()}


def test_prompts_of_both_forms(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert ensure_chat_template(tokenizer)
    talk = [{"role": r, "content": c} for r, c in (("user", "A?"), ("assistant", "b"), ("user", "C?"))]
    chat = chat_prompt(tokenizer, talk, "chat")
    assert chat == "### User:\nA?\n\n### Assistant:\nb</s>\n\n### User:\nC?\n\n### Assistant:\n"
    alpaca = chat_prompt(tokenizer, talk, "alpaca")
    assert alpaca.endswith("### Instruction:\nA?\n\n### Response: b\n\n### Instruction:\nC?\n\n### Response:")


def test_long_prompts_keep_their_end(model):
    tokenizer, tiny = AutoTokenizer.from_pretrained(model), LlamaForCausalLM.from_pretrained(model).eval()
    short, long = "The cat", "The dog waits by the river . " * 40 + "The cat"
    text, cut = generate(tiny, tokenizer, short, temperature=0.0, max_new_tokens=4)
    assert not cut and isinstance(text, str)
    assert generate(tiny, tokenizer, long, temperature=0.0, max_new_tokens=4)[1]


def test_a_run_answers_in_the_form_that_it_was_tuned_on(alpaca, small_config, tmp_path, capsys):
    run = tmp_path / "tuned"
    words = ["--data", alpaca, "--init-config", small_config, "--out", run, "--max-steps", 1, "--device", "cpu"]
    assert sft.main([str(word) for word in [*words, "--model.max_length", 64, "--data.limit", 8]]) == 0
    assert json.loads((run / "results.json").read_text())["prompt"] == "alpaca"
    (tmp_path / "elsewhere").mkdir()
    run = run.rename(tmp_path / "elsewhere" / "tuned")  # with its untrained base
    bench("--run", run, "--out", tmp_path / "out", "--limit", 1, "--max-new-tokens", 3)
    assert lines(tmp_path / "out" / "model_answer" / "tuned.jsonl")[0]["model_id"] == "tuned"


def test_a_base_of_other_weights_is_said_in_one_line(alpaca, small_config, tmp_path):
    run = tmp_path / "run"
    words = ["--data", alpaca, "--init-config", small_config, "--out", run, "--max-steps", 1, "--device", "cpu"]
    assert sft.main([str(word) for word in [*words, "--model.max_length", 64, "--data.limit", 8]]) == 0
    base = LlamaForCausalLM.from_pretrained(run / "base")
    with torch.no_grad():
        base.model.norm.weight.add_(1)
    base.save_pretrained(run / "base")
    with pytest.warns(UserWarning, match="not the base that this adapter was trained on: 1 of ") as caught:
        bench("--run", run, "--out", tmp_path / "out", "--limit", 1, "--max-new-tokens", 2)
    (message,) = (str(one.message) for one in caught if "not the base" in str(one.message))
    assert warnings.formatwarning(f"{message}\n ", UserWarning, "file.py", 1) == f"warning: {message}\n"


def test_ctrl_c_between_two_answers_keeps_the_first(model, tmp_path, monkeypatch, capsys):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    words = ("--model", model, "--out", tmp_path, "--max-new-tokens", 2)
    bench(*words, "--limit", 1)
    monkeypatch.setattr("pipeline.lm.mtbench.answer", interrupted)
    bench(*words, "--limit", 2, code=130)
    assert capsys.readouterr().err == "interrupted\n"
    assert [row["question_id"] for row in lines(tmp_path / "model_answer" / "tiny.jsonl")] == [81]


def test_answers_of_another_model_or_other_settings_are_not_taken_for_these(model, tmp_path, capsys):
    words = ("--model", model, "--out", tmp_path, "--limit", 1, "--model-id", "m")
    bench(*words, "--max-new-tokens", 2)
    for more, message in (
        (("--max-new-tokens", 3), "max_new_tokens = 2, now 3"),
        (("--max-new-tokens", 2, "--seed", 1), "seed = 0, now 1"),
        (("--max-new-tokens", 2, "--prompt", "alpaca"), "prompt = 'chat', now 'alpaca'"),
    ):
        capsys.readouterr()
        bench(*words, *more, code=2)
        assert f"m.jsonl: holds answers of {message}: give another" in capsys.readouterr().err
    file = tmp_path / "model_answer" / "m.jsonl"
    row = lines(file)[0]
    del row["settings"]  # FastChat's own answers, which are only to be graded
    file.write_text(json.dumps(row) + "\n")
    bench(*words, "--max-new-tokens", 9)


def test_an_adapter_that_was_trained_again_has_other_answers(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    first = Subject("n", "base", str(tmp_path), "base", "chat").settings()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"2")
    second = Subject("n", "base", str(tmp_path), "base", "chat").settings()
    assert {key for key in first if first[key] != second[key]} == {"adapter_sha256"}


@pytest.mark.parametrize(
    "text",
    [
        "{]",
        "[]",
        "3",
        '{"question_id": 81}',
        '{"question_id": 81, "choices": []}',
        '{"question_id": 81, "choices": [{"turns": "ab"}]}',
        '{"question_id": null, "choices": [{"turns": ["a"]}]}',
        '{"question_id": 81, "choices": [{"turns": ["a"]}], "settings": 3}',
    ],
)
def test_a_damaged_line_is_named(text, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"\n{text}\n")
    with pytest.raises(UserError, match=r"a\.jsonl(: line 2|, answer 1)") as caught:
        open_answers(tmp_path / "a.jsonl", {})
    assert "damaged" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "a.jsonl").read_text() == f"\n{text}\n"


def test_a_full_disk_keeps_the_answers(model, tmp_path, small_files, capsys):
    words = ("--model", model, "--out", tmp_path, "--max-new-tokens", 2, "--limit", 2)
    bench(*words, "--limit", 1)
    file = tmp_path / "model_answer" / "tiny.jsonl"
    first = lines(file)
    with small_files(file.stat().st_size + 50):  # the second is cut off
        bench(*words, code=2)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}") and "File too large" in error and len(error.splitlines()) == 1
    bench(*words)
    assert lines(file)[0] == first[0] and len(lines(file)) == 2


@pytest.mark.parametrize(
    "row",
    [
        {"category": "x", "turns": ["a"]}, {"question_id": "q1", "category": "x", "turns": ["a"]},
        {"question_id": 1, "turns": ["a"]}, {"question_id": 1, "category": "x"},
        {"question_id": 1, "category": "x", "turns": "ab"}, {"question_id": 1, "category": "x", "turns": []},
        {"question_id": 1, "category": "x", "turns": ["a", "b", "c"]},
        {"question_id": 1, "category": "x", "turns": ["a", 2]},
    ],
)  # fmt: skip
def test_wrong_questions(row, tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(
        InputError, match=r"q\.jsonl, question 1: question_id \(a number\), category and one or two turns"
    ):
        read_questions(tmp_path / "q.jsonl")


def test_a_question_that_is_there_twice(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "category": "x", "turns": ["a"]}\n' * 2)
    with pytest.raises(InputError, match="question 2: question_id 1 is there already"):
        read_questions(tmp_path / "q.jsonl")


def complete_run(folder: Path, **results: object) -> Path:
    """The files of a finished run that are looked at before its model is."""
    row = {"step": 1, "loss": 2.0}
    known = {
        "stage": "sft", "model": "m", "method": "lorta", "rank": 8, "seed": 0, "metric": "loss", "base": "b",
        "train_seconds": 1.0, "first": row, "best": row, "last": row, "prompt": "chat",
        "parameters": {"adapter": 1, "head": 0, "total": 9}, "versions": {"lorta-fold": "0"},
    }  # fmt: skip
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({**known, **results}))
    (folder / "config.toml").write_text('[model]\ndtype = "float32"\n')
    return folder


def test_mistakes(model, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    without_dtype = complete_run(tmp_path / "no_dtype")
    (without_dtype / "config.toml").write_text("")
    bert = tmp_path / "bert"
    BertForMaskedLM(
        BertConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(bert)
    AutoTokenizer.from_pretrained(model).save_pretrained(bert)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "ZORK"}')
    for words, message in (
        (("--model", model, "--run", tmp_path), "give one of --run and --model"),
        (("--run", tmp_path, "--adapter", tmp_path), "--adapter goes with --model"),
        (("--model", model, "--limit", 0), "at least 1"),
        (("--model", model, "--max-new-tokens", 0), "at least 1"),
        (("--model", model, "--seed", -1), "--seed -1: from 0"),
        (("--model", model, "--model-id", "x" * 300), "cannot be the name of a file"),
        (("--model", model, "--model-id", "a:b"), "cannot be the name of a file"),
        (("--run", tmp_path), "no results.json"),
        (("--run", complete_run(tmp_path / "nlu", stage="nlu")), "a run of pipeline.nlu, which writes no text"),
        (("--run", without_dtype), "config.toml: damaged: it has no model.dtype"),
        (("--run", complete_run(tmp_path / "gone", base="./gone")), "adapter: no such file or directory"),
        (("--model", model, "--adapter", tmp_path), "no adapter_config.json"),
        (
            ("--model", model, "--adapter", tmp_path / "adapter"),
            "the adapter in it cannot be read: unknown or missing key",
        ),
        (("--model", bert), "a bert encoder reads both ways"),
    ):
        bench(*words, *out, code=2)
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1, (words, error)
