"""The run directory of a language-model stage, and its checkpoints, which are read only as they were written.

RUN/config.toml          the resolved configuration
RUN/metrics.csv          a row per logged step of training
RUN/evaluations.csv      a row per evaluation
RUN/results.json         best and last evaluation, parameters, versions; written when the run is complete
RUN/checkpoints/         the trainer's, to resume from, each with its checksums.json
RUN/adapter/             the adapter after the last step: adapter_model.safetensors, adapter_config.json
RUN/adapter_best/        the adapter of the best evaluation
RUN/model/               in place of the two: the whole model, with --adapter full or head
RUN/lora/                the same as plain LoRA, with --export-lora
RUN/base/                the untrained base model, with --init-config
RUN/README.md            model card

The trainer gives a checkpoint its name before it is written. ``seal`` adds ``checksums.json`` when all of it is there;
what has none was being written when the run ended, and what differs from it is damaged.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json
from data_prep.files.checksums import sha256
from pipeline.config.layers import file_layer
from pipeline.lm.errors import InputError

SUMS = "checksums.json"
PREFIX = "checkpoint-"


class LanguageRun:
    """Paths and small files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.metrics_file = path / "metrics.csv"
        self.evaluations_file = path / "evaluations.csv"
        self.results_file = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.best_adapter = path / "adapter_best"
        self.model = path / "model"
        self.lora = path / "lora"
        self.base = path / "base"
        self.card = path / "README.md"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    def create(self, config: str) -> None:
        """Start a run with the configuration, as a TOML file."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_file, config)

    def settings(self) -> dict[str, Any]:
        """The configuration that the run was started with. Raises ConfigError for a damaged file."""
        return file_layer(self.config_file)

    def results(self) -> dict[str, Any]:
        """What the complete run reports, as ``outcome`` writes it. Raises InputError for a damaged file."""
        try:
            results = read_json(self.results_file)
            _check(results)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.results_file}: damaged ({type(error).__name__}: {error}): remove it, and going on with the run "
                "writes it again"
            ) from error
        return results


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], section: str = "") -> str:
    """A field that two sets of settings have differently, in words; empty: none."""
    for key in dict.fromkeys([*new, *old]):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if inner := first_difference(before, now, f"{section}{key}."):
                return inner
        elif before != now:
            return f"{section}{key} = {before!r}, now {now!r}"
    return ""


RESULTS: dict[str, Any] = {
    "stage": str, "model": str, "method": str, "rank": int, "seed": int, "metric": str, "base": str,
    "train_seconds": (int, float), "best": dict, "last": dict, "parameters": dict,
}  # fmt: skip
"""Types of the entries of ``results.json`` that are read again."""


def _check(results: Any) -> None:
    """Raises TypeError or KeyError for what no run has written."""
    kinds = dict(RESULTS)
    rows = ["best", "last"]
    if results["stage"] != "nlu":
        kinds |= {"prompt": str, "first": dict}
        rows.append("first")
    entries = [(results[name], kind) for name, kind in kinds.items()]
    entries += [(results[row][column], (int, float)) for row in rows for column in ("step", results["metric"])]
    entries += [(results["parameters"][part], int) for part in ("adapter", "head")]
    entries.append((results["versions"]["lorta-fold"], str))
    for value, kind in entries:
        if not isinstance(value, kind):
            raise TypeError(f"found {value!r} where {kind} is written")


def seal(checkpoint: Path, keep: int) -> None:
    """Note that ``checkpoint`` is complete, then delete all beside it but the ``keep`` up to it that are complete.

    What is there of later steps was passed over when the run went on.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / SUMS)
    sums = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
    write_text(checkpoint / SUMS, json.dumps(sums, indent=1) + "\n")
    every = _by_step(checkpoint.parent)
    complete = [path for path in every[: every.index(checkpoint) + 1] if (path / SUMS).is_file()]
    for path in every:
        if path not in complete[-keep:]:
            shutil.rmtree(path)


def newest_whole(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint in ``folder`` that is as it was written; ``None`` where none was ever complete.

    Each newer one that is passed over is a line to ``say``. Raises InputError when all that were complete are damaged.
    """
    complete = 0
    for path in reversed(_by_step(folder)):
        if not (path / SUMS).is_file():
            say(f"{path}: was being written when the run ended, and is passed over")
            continue
        complete += 1
        reason = _damage(path)
        if reason is None:
            return path
        say(f"{path}: {reason}, so it is passed over")
    if complete:
        raise InputError(f"{folder}: all {complete} checkpoints are damaged: remove the directory to begin anew")
    return None


def _by_step(folder: Path) -> list[Path]:
    """The trainer's directories, oldest first."""
    steps = {path: path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def _damage(checkpoint: Path) -> str | None:
    """What differs from the checksums; ``None``: nothing."""
    try:
        sums = dict(read_json(checkpoint / SUMS))
    except (ValueError, TypeError) as error:
        return f"{SUMS} cannot be read ({error})"
    for name, expected in sums.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != expected:
            return f"{name} has not the checksum it was written with"
    return None
