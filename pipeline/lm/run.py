"""The run directory of a language-model stage.

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
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files.bounded_reading import read_json
from data_prep.structure.structure_bytes import atomic_write
from pipeline.config.layers import file_layer
from pipeline.lm.errors import InputError


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
        atomic_write(self.config_file, config.encode())

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


RESULTS = {
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
