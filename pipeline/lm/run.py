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

import json
from pathlib import Path
from typing import Any

from data_prep.structure_bytes import atomic_write


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
        """Start a run with the configuration, as TOML."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.config_file, config.encode())

    def config_text(self) -> str:
        """The configuration that the run was started with, as TOML."""
        return self.config_file.read_text()

    def results(self) -> dict[str, Any]:
        """What the complete run reports."""
        return json.loads(self.results_file.read_text())
