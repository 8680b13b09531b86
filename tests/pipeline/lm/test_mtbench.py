"""MT-Bench: FastChat's files, two turns, prompts of the judge, an endpoint on this machine, going on after a stop."""

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, set_seed

from data_prep.files.release import program
from pipeline import mtbench, sft
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, StageFailed
from pipeline.lm.mtbench.answers import TEMPERATURES, chat_prompt, generate
from pipeline.lm.mtbench.files import GrowingFile, answer_key, judge_prompts, judgment_key, read_questions
from pipeline.lm.mtbench.judge import (
    WITH_REFERENCE,
    WITHOUT_RATING,
    check_endpoint,
    endpoint_judge,
    judge_prompt,
    rating,
    summarise,
)
from pipeline.lm.mtbench.loading import Subject
from pipeline.lm.tokenizer import ensure_chat_template, train_tokenizer


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


class Stub(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that rates 7, keeps what it was asked, and can fail at first."""

    asked: list[dict] = []  # noqa: RUF012
    failures: list[int] = []  # noqa: RUF012
    reply = "Good. Rating: [[7]]"
    raw: bytes | None = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Stub.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        code = Stub.failures.pop(0) if Stub.failures else 200
        if code == 0:  # no HTTP at all
            self.wfile.write(b"\x00\xffhello\r\n\r\n")
            return
        self.send_response(code)
        if code in (301, 302, 307):
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
        self.end_headers()
        if Stub.raw is not None:
            self.wfile.write(Stub.raw)
            return
        answer = {"choices": [{"message": {"content": Stub.reply}}]} if code == 200 else {"error": "no\nway"}
        self.wfile.write(json.dumps(answer).encode())

    def do_GET(self):
        Stub.asked.append({"path": self.path, "key": self.headers.get("Authorization")})

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    Stub.asked, Stub.failures, Stub.reply, Stub.raw = [], [], "Good. Rating: [[7]]", None
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()


def bench(*words: object, code: int = 0) -> None:
    assert mtbench.main([*map(str, words), "--device", "cpu"]) == code


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_bundled_files_are_mt_bench():
    questions = read_questions()
    assert len(questions) == 80 and [q.question_id for q in questions] == list(range(81, 161))
    assert {q.category for q in questions} == set(TEMPERATURES)
    assert all(len(q.turns) == 2 for q in questions)
    judged = [q for q in questions if q.category in WITH_REFERENCE]
    assert len(judged) == 30
    assert all(len(q.reference) == 2 for q in judged)
    assert judged[0].reference[0].startswith("If you have just overtaken the second person")


def test_answers_judgments_and_going_on(model, endpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ("--model", model, "--out", out, "--max-new-tokens", 4)
    bench(*words, "--limit", 1)
    assert "No grades: that needs a judge" in capsys.readouterr().out
    file = out / "model_answer" / "tiny.jsonl"
    first = lines(file)[0]
    assert set(first) == {"question_id", "answer_id", "model_id", "program", "settings", "choices", "tstamp"}
    assert first["program"] == program()
    assert (first["question_id"], first["model_id"], first["choices"][0]["index"]) == (81, "tiny", 0)
    assert len(first["choices"][0]["turns"]) == 2
    with file.open("a") as stream:  # a kill in the middle of a line
        stream.write('{"question_id": 82, "ans')
    monkeypatch.setenv("KEY", "secret")
    judge = ("--judge-url", endpoint, "--judge-model", "stub/judge", "--judge-key", "KEY")
    bench(*words, "--limit", 2, *judge)
    answers = lines(file)
    assert [row["question_id"] for row in answers] == [81, 82]
    assert answers[0] == first
    judgments = lines(out / "model_judgment" / "stub--judge_single.jsonl")
    assert [(row["question_id"], row["turn"], row["score"]) for row in judgments] == [
        (81, 1, 7.0), (81, 2, 7.0), (82, 1, 7.0), (82, 2, 7.0),
    ]  # fmt: skip
    assert {row["program"] for row in [*answers, *judgments]} == {program()}
    assert judgments[1]["judge"] == ["stub--judge", "single-v1-multi-turn"]
    asked = Stub.asked[0]
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "stub/judge", 0)
    assert asked["key"] == "Bearer secret"
    assert answers[0]["choices"][0]["turns"][0] in asked["messages"][1]["content"]
    assert json.loads((out / "scores.json").read_text())["program"] == program()
    assert f"Judge: stub--judge. Model: tiny. {program()}." in (out / "scores.md").read_text()
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert scores[-1] == {
        "category": "all", "turn_1": 7.0, "turn_2": 7.0, "mean": 7.0, "judgments": 4, "without_rating": 0,
    }  # fmt: skip
    assert "secret" not in (out / "scores.md").read_text() + file.read_text()
    bench(*words, "--limit", 2, *judge)
    assert len(Stub.asked) == 4  # nothing was asked twice


def test_a_judge_that_fails_for_a_while_and_for_good(endpoint):
    judge = endpoint_judge(endpoint, "stub", first_wait=0.001)
    Stub.failures = [503, 429]
    assert judge("s", "p") == "Good. Rating: [[7]]"
    assert len(Stub.asked) == 3
    Stub.failures = [401]
    with pytest.raises(StageFailed, match="401") as caught:
        judge("s", "p")
    assert len(Stub.asked) == 4 and "\n" not in str(caught.value)
    Stub.failures = [500] * 9
    with pytest.raises(StageFailed, match="500"):
        judge("s", "p")
    assert len(Stub.asked) == 8
    nobody = endpoint_judge("http://127.0.0.1:9/v1", "stub", first_wait=0.001)
    with pytest.raises(StageFailed, match="refused"):
        nobody("s", "p")


@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_redirection_does_not_take_the_key_elsewhere(code, endpoint):
    Stub.failures = [code] * 9
    with pytest.raises(StageFailed, match=f"no judgment: {code}"):
        endpoint_judge(endpoint, "stub", "secret", first_wait=0.001)("s", "p")
    assert [asked["path"] for asked in Stub.asked] == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html>", "not of the form of chat completions (JSONDecodeError"),
        (b"", "JSONDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError: 'choices'"),
        (b'{"choices": []}', "IndexError"),
        (b'{"choices": [{"message": {"content": null}}]}', "its answer holds no text, but None"),
        (b'{"choices": [{"message": {"content": [{"text": "x"}]}}]}', "its answer holds no text, but [{"),
        (None, "BadStatusLine"),
    ],
)
def test_a_judge_that_answers_rubbish(raw, message, endpoint):
    Stub.raw, Stub.failures = raw, [0] * 9 if raw is None else []
    with pytest.raises(StageFailed, match="gives no judgment") as caught:
        endpoint_judge(endpoint, "stub", "secret", first_wait=0.001)("s", "p")
    assert message in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert len(Stub.asked) == 4


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/v1", "localhost:8000", "http://", "http:///v1", "http://[::1", "http://x:y/v1",
     "http://x:99999/v1", "http://x:0/v1", "http://a b/v1", "http://x/v1\n"],
)  # fmt: skip
def test_what_is_no_address_of_a_judge(url):
    with pytest.raises(ConfigError, match="an address such as"):
        check_endpoint(url, "")


def test_a_key_is_never_shown():
    for url, key in (("http://me:secret@x/v1", ""), ("http://x/v1", "secret\nsecret"), ("http://x/v1", "secr\u00e9t")):
        with pytest.raises(ConfigError) as caught:
            check_endpoint(url, key)
        assert "secr" not in str(caught.value)
    check_endpoint("HTTPS://x:8000/v1", "secret")


def test_the_judges_prompts_hold_question_answer_and_reference():
    prompts = judge_prompts()
    questions = {q.question_id: q for q in read_questions()}
    name, system, text = judge_prompt(prompts, questions[81], ["one {x}", "two"], 1)
    assert (name, system) == ("single-v1", "You are a helpful assistant.")
    assert "[The Start of Assistant's Answer]\none {x}\n[The End" in text and "two" not in text.split("Answer]")[-1]
    name, system, text = judge_prompt(prompts, questions[81], ["one", "two"], 2)
    assert name == "single-v1-multi-turn" and "second user question" in system
    assert text.index("one") < text.index(questions[81].turns[1]) < text.index("two")
    math = next(q for q in questions.values() if q.category == "math")
    name, _, text = judge_prompt(prompts, math, ["one", "two"], 2)
    assert name == "single-math-v1-multi-turn" and math.reference[1] in text


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Rating: [[8]]", 8.0),
        ("[[7.5]] and [[2]]", 7.5),
        ("Rating: [3]", 3.0),
        ("eight", WITHOUT_RATING),
        ("[[10]]", 10.0),
        ("[[700]]", WITHOUT_RATING),
    ],
)
def test_ratings(text, score):
    assert rating(text) == score


def test_means_leave_out_what_has_no_rating():
    questions = [q for q in read_questions() if q.category in ("math", "stem")]
    ids = {q.category: q.question_id for q in questions}
    judgments = [
        {"question_id": ids["math"], "turn": 1, "score": 4.0},
        {"question_id": ids["math"], "turn": 2, "score": WITHOUT_RATING},
        {"question_id": ids["stem"], "turn": 1, "score": 8.0},
    ]
    rows = {row["category"]: row for row in summarise(questions, judgments)}
    assert (rows["math"]["turn_1"], rows["math"]["turn_2"], rows["math"]["without_rating"]) == (4.0, None, 1)
    assert (rows["all"]["mean"], rows["all"]["judgments"]) == (6.0, 3)


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
    monkeypatch.setattr("pipeline.lm.mtbench.answers.answer", interrupted)
    bench(*words, "--limit", 2, code=130)
    assert capsys.readouterr().err == "interrupted\n"
    assert [row["question_id"] for row in lines(tmp_path / "model_answer" / "tiny.jsonl")] == [81]


def test_a_local_model_judges(model, tmp_path):
    words = ("--model", model, "--out", tmp_path, "--limit", 1, "--max-new-tokens", 2, "--judge-local", model)
    bench(*words)
    (file,) = (tmp_path / "model_judgment").iterdir()
    assert [row["turn"] for row in lines(file)] == [1, 2]


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
    ("key", "text"),
    [
        (answer_key, "{]"),
        (answer_key, "[]"),
        (answer_key, "3"),
        (answer_key, '{"question_id": 81}'),
        (answer_key, '{"question_id": 81, "choices": []}'),
        (answer_key, '{"question_id": 81, "choices": [{"turns": "ab"}]}'),
        (answer_key, '{"question_id": null, "choices": [{"turns": ["a"]}]}'),
        (judgment_key, '{"question_id": 81, "model": "m", "turn": 1}'),
        (judgment_key, '{"question_id": 81, "model": "m", "turn": 1, "score": "x"}'),
        (judgment_key, '{"question_id": 81, "score": 7}'),
    ],
)
def test_a_damaged_line_is_named(key, text, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"\n{text}\n")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not what this command writes"):
        GrowingFile(tmp_path / "a.jsonl", key)
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
        {"question_id": 1, "category": "x", "turns": ["a"], "reference": "r"},
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


def test_mistakes(model, tmp_path, capsys, monkeypatch):
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
    url = ("--judge-url", "http://x/v1", "--judge-model", "m")
    monkeypatch.setenv("TWO_LINES", "a\nb")
    for words, message in (
        (("--model", model, "--run", tmp_path), "give one of --run and --model"),
        (("--run", tmp_path, "--adapter", tmp_path), "--adapter goes with --model"),
        (("--model", model, "--judge-url", "http://x"), "go together"),
        (("--model", model, "--judge-url", "file:///etc/passwd", "--judge-model", "m"), "an address such as"),
        (("--model", model, *url, "--judge-local", model), "give one of --judge-url and --judge-local"),
        (("--model", model, *url, "--judge-key", "NO_SUCH"), "--judge-key NO_SUCH: there is no such variable"),
        (("--model", model, *url, "--judge-key", "TWO_LINES"), "characters that no key has"),
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


def test_answers_to_other_questions_are_not_graded(model, endpoint, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"question_id": 81, "category": "x", "turns": ["a"]}\n')
    words = ("--model", model, "--out", tmp_path / "out", "--limit", 1, "--max-new-tokens", 2)
    bench(*words)
    bench(*words, "--questions", tmp_path / "q.jsonl", "--judge-url", endpoint, "--judge-model", "m", code=2)
    assert "the answer to question 81 has other turns than it" in capsys.readouterr().err
