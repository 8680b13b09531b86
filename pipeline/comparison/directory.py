"""What all arms of one directory share, so that no table ever mixes runs of different settings."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.bounded_reading import read_json
from data_prep.checksums import sha256
from data_prep.structure_bytes import atomic_write
from pipeline.comparison.arms import ArmError

SETTINGS = "settings.json"


def open_directory(out: Path, data: Path, options: Sequence[str], shared: Mapping[str, object] | None = None) -> None:
    """Note what the arms under ``out`` have in common, or check that they have it.

    ``data`` is the dataset, which counts by content; ``options`` are those of the train command, and files that they
    name count by content too; ``shared`` is anything else. Raises ArmError where ``out`` holds arms of something else.
    """
    files = {word: sha256(Path(word)) for word in options if Path(word).is_file()}
    wanted = {
        "dataset": sha256(data / "index.parquet"),
        "options": list(options),
        "files": files,
        **(shared or {}),
    }
    note = out / SETTINGS
    if not note.is_file():
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(note, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    try:
        found = dict(read_json(note))
    except (ValueError, TypeError) as error:
        raise ArmError(f"{note}: no readable settings of a comparison ({error}): choose another --out") from None
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        before = shlex.join(found.get("options", ()))
        raise ArmError(
            f"{out}: its arms were trained with other settings ({', '.join(different)}); choose another --out, or "
            f"repeat the command with its dataset and options: {before or 'none'}"
        )
