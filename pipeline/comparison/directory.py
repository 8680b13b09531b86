"""What all variants of one directory share, so that no table ever mixes runs of different settings."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json
from data_prep.files.checksums import sha256
from pipeline.comparison.variants import ComparisonError
from pipeline.config.layers import dotted_values
from pipeline.config.schema import RunConfig
from pipeline.training.command import option_layer
from pipeline.training.options import parser as train_parser

SETTINGS = "settings.json"

OF_A_VARIANT = (
    *("adapter.method", "adapter.rank", "adapter.alpha", "training.seed", "data.train_size", "data.train_draw"),
)
"""Fields in which variants of one directory differ."""


def open_directory(
    out: Path, data: Path, options: Sequence[str], config: RunConfig, shared: Mapping[str, object] | None = None
) -> None:
    """Note what the variants under ``out`` have in common, or check that they have it.

    Args:
        out: directory of the variants.
        data: the dataset, which counts by content.
        options: of the train command, for messages; files that they name count by content.
        config: of a variant, which counts but for what differs between variants.
        shared: anything else, by option.

    Raises:
        ComparisonError: ``out`` holds variants of something else; the message names an option and both values.
    """
    values = {f"--{name}": value for name, value in dotted_values(config).items() if name not in OF_A_VARIANT}
    given = option_layer(*train_parser().parse_known_args(list(options)))
    # of the variants that say none
    values["--adapter.alpha"] = given.get("adapter", {}).get("alpha", "default")
    wanted = {
        "dataset": sha256(data / "index.parquet"),
        "files": {word: sha256(Path(word)) for word in options if Path(word).is_file()},
        "settings": json.loads(json.dumps({**values, **(shared or {})})),
    }
    note = out / SETTINGS
    if not note.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps({**wanted, "options": list(options)}, indent=1) + "\n")
        return
    try:
        found = dict(read_json(note))
        problem = _difference(found, wanted)
        before = shlex.join(found["options"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ComparisonError(f"{note}: no readable settings of a comparison ({error}): choose another --out") from None
    if problem:
        raise ComparisonError(
            f"{out}: its runs were trained with other settings: {problem}; choose another --out, or repeat the "
            f"command with its dataset and options: {before or 'none'}"
        )


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the first difference in words; empty: none."""
    if found["dataset"] != wanted["dataset"]:
        return "--data: another dataset, or it has changed"
    for name, value in wanted["settings"].items():
        if name not in found["settings"] or found["settings"][name] != value:
            return f"{name} = {value!r}, and they have {found['settings'].get(name)!r}"
    files = [word for word, checksum in wanted["files"].items() if found["files"].get(word, checksum) != checksum]
    return f"the content of {files[0]} has changed" if files else ""
