"""fair-esm's published files: where torch's hub keeps them, and their download."""

from http.client import HTTPException
from pathlib import Path

import torch

DOWNLOAD_URL = "https://dl.fbaipublicfiles.com/fair-esm/models/{file}"


class DownloadError(OSError):
    """A file that cannot be downloaded; the message says from where and why."""


def cached_file(file: str) -> Path:
    """Where torch's hub keeps ``file``, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def download(file: str) -> Path:
    """``file`` from fair-esm's server into the hub's cache. Raises DownloadError."""
    cached, url = cached_file(file), DOWNLOAD_URL.format(file=file)
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(cached))
    except (OSError, HTTPException) as error:  # URLError is the former, a connection that breaks off the latter
        raise DownloadError(f"no download from {url} ({getattr(error, 'reason', error)})") from None
    return cached
