"""Where published weights are on this machine: torch's hub cache, Hugging Face's cache; and fair-esm's downloads."""

import os
import queue
import threading
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from shutil import copyfileobj
from urllib.request import urlopen

import torch
from rich.console import Console
from rich.progress import wrap_file

from data_prep.files.atomic import writing
from pipeline.folding.tensor_files import UnreadableError, weight_files

DOWNLOAD_URL = "https://dl.fbaipublicfiles.com/fair-esm/models/{file}"
SILENCE = 15.0
"""Seconds without a byte after which a server, or a firewall before it, is given up."""


class DownloadError(OSError):
    """A file that cannot be downloaded; the message says from where and why."""


def cached_file(file: str) -> Path:
    """Return where torch's hub keeps ``file``, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def hugging_face_cache() -> Path:
    """Return the directory of Hugging Face's hub cache, as its library finds it, whether it is there or not."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or default)
    return Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub").expanduser()


def hugging_face_snapshot(repository: str) -> Path | None:
    """Return the newest snapshot of ``owner/name`` in Hugging Face's cache that has a configuration and all weights."""
    found = (hugging_face_cache() / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*/config.json")
    for folder in sorted((file.parent for file in found), key=lambda folder: folder.stat().st_mtime, reverse=True):
        try:
            if all(file.is_file() for file in weight_files(folder)):
                return folder
        except (UnreadableError, OSError):
            continue
    return None


def download(file: str) -> Path:
    """Download ``file`` from fair-esm's server into the hub's cache. Raises DownloadError."""
    cached, url = cached_file(file), DOWNLOAD_URL.format(file=file)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with writing(cached, "wb") as stream, _answer(url) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, size, description=file, console=Console(stderr=True)) as shown:
                copyfileobj(shown, stream, 1 << 20)
            if size and stream.tell() != size:
                raise OSError(f"it ended after {stream.tell():,} of {size:,} bytes")
    except (OSError, HTTPException) as error:  # URLError is the former, a connection that breaks off the latter
        raise DownloadError(f"no download from {url} ({getattr(error, 'reason', None) or error})") from None
    return cached


def _answer(url: str) -> HTTPResponse:
    """Return a server's answer to a request for ``url``. Raises OSError, HTTPException: none within ``SILENCE``.

    A socket's timeout counts for each address of a server anew, and looking up the addresses has none. So a thread
    connects, and is left to itself when time is up.
    """
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urlopen(url, timeout=SILENCE))
        except Exception as error:  # raised below, in the thread that waits
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=SILENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer within {SILENCE:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
