"""The run directory of a language-model stage.

RUN/config.toml          the resolved configuration
RUN/metrics.csv          a row per logged step of training
RUN/evaluations.csv      a row per evaluation
RUN/results.json         best and last evaluation, parameters, versions; written when the run is complete
RUN/checkpoints/         the trainer's, to resume from
RUN/adapter/             the adapter after the last step: adapter_model.safetensors, adapter_config.json
RUN/adapter_best/        the adapter of the best evaluation
RUN/model/               in place of the two: the whole model, with --adapter full or head
RUN/lora/                the same as plain LoRA, with --export-lora
RUN/base/                the untrained base model, with --init-config
RUN/README.md            model card
"""

from pathlib import Path
from typing import Any

from data_prep.bounded_reading import read_document, read_json
from data_prep.structure_bytes import atomic_write
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

    def config_text(self) -> str:
        """The configuration that the run was started with, as TOML."""
        return read_document(self.config_file)

    def results(self) -> dict[str, Any]:
        """What the complete run reports. Raises InputError for a damaged file."""
        try:
            results = read_json(self.results_file)
        except ValueError as error:
            raise InputError(f"{self.results_file}: cannot be read: {error}") from error
        if not isinstance(results, dict) or not {"stage", "metric", "best", "last", "parameters"} <= results.keys():
            raise InputError(f"{self.results_file}: is damaged: it is not what a run writes")
        return results
