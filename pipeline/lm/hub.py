"""Names on the Hugging Face hub and local paths; no network is found out once, in seconds, not by retries."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.lm.errors import InputError, one_line

PROBE_SECONDS = 5.0


def is_local(name: str) -> bool:
    """Whether ``name`` is a file or directory here. Raises InputError for what can only be a path and is none."""
    if os.path.exists(name):  # False, and no error, for what no file system takes
        return True
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such file or directory")
    return False


def ask_hub() -> bool:
    """Whether the hub can be asked; when it does not answer, Hugging Face's libraries are told to use their cache.

    Their own retries without a network take minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return False
    return True


@contextmanager
def named(name: str, kind: str) -> Iterator[None]:
    """Run a loader of Hugging Face's for ``name``; its failure is one InputError that says what to do.

    Args:
        name: hub name or path.
        kind: what it is, for the message: model, tokenizer, dataset.
    """
    local = is_local(name)
    online = local or ask_hub()
    try:
        yield
    except Exception as error:
        # An unknown name, no network and damaged files end in exceptions of any class of four libraries.
        if local:
            raise InputError(f"{name}: the {kind} in it cannot be read: {one_line(error)}") from error
        if not online:
            raise InputError(
                f"{kind} {name!r}: the hub cannot be reached and the cache does not have it: give a local directory or "
                "file, or download it where there is a network (hf download) and set HF_HOME"
            ) from error
        raise InputError(f"{kind} {name!r}: the hub does not give it: {one_line(error)}") from error
