"""Errors of libraries as one line each; what the hub and the system say."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pipeline.lm import errors
from pipeline.lm.engine import memory_errors
from pipeline.lm.errors import InputError, StageFailed, one_line, require_extra, system_errors


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b\n"), "a b"),
        (EOFError(), "EOFError"),
        (KeyError("zork"), "unknown or missing key 'zork'"),
        (ValueError("x" * 900), "x" * 300),
    ],
)
def test_a_reason_is_one_short_line(error, text):
    assert one_line(error) == text


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), errno.EFBIG),
        (Exception("No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file x"), errno.EIO),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
    ],
)
def test_what_cannot_be_written_is_the_systems_error_of_the_directory(error, number):
    with pytest.raises(OSError) as caught, system_errors(Path("RUN")):
        raise error
    assert (caught.value.errno, caught.value.filename) == (number, "RUN")


@pytest.mark.parametrize(
    "error", [ValueError("other"), OSError("no number"), OSError(errno.ENOENT, "No such file", "x.json")]
)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, system_errors(Path("RUN")):
        raise error
    assert caught.value is error


def test_the_end_of_memory_is_a_failed_run():
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(StageFailed, match="memory has ended: do this"), memory_errors("do this"):
            raise error
    with pytest.raises(RuntimeError, match="shape"), memory_errors("do this"):
        raise RuntimeError("shape")


def test_the_line_that_installs_the_extra(monkeypatch):
    require_extra("pipeline.sft")
    monkeypatch.setattr("pipeline.lm.errors.find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(InputError, match=r"pipeline.sft needs trl, which this environment lacks: pip install"):
        require_extra("pipeline.sft")


@pytest.mark.parametrize("online", [True, False])
def test_what_the_hub_does_not_give(online, monkeypatch):
    monkeypatch.setattr(errors, "ask_hub", lambda: online)
    expected = "the hub does not give it: gated repo" if online else "the hub cannot be reached"
    with pytest.raises(InputError, match=f"model 'org/name': {expected}"), errors.named("org/name", "model"):
        raise OSError("gated\nrepo")


@pytest.mark.parametrize("name", ["/none", "./none", "~/none", "a/b/c"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(name):
    with pytest.raises(InputError, match="no such file or directory"):
        errors.is_local(name)
    assert not errors.is_local("org/name")
    assert not errors.is_local("x" * 300)


def test_the_hub_is_asked_once_and_then_believed_to_be_away(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not errors.ask_hub()
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(errors.urllib.request, "urlopen", None)  # not called any more
    assert not errors.ask_hub()


@pytest.mark.parametrize("code", [200, 404])
def test_any_answer_of_the_hub_is_one(code, monkeypatch):
    from huggingface_hub import constants

    def answer(request, timeout):
        if code != 200:
            raise errors.urllib.error.HTTPError(request.full_url, code, "", {}, None)
        return open("/dev/null", "rb")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(errors.urllib.request, "urlopen", answer)
    assert errors.ask_hub()
