"""A run directory: what training writes and prediction reads.

RUN/config.toml          the resolved configuration
RUN/run.json             versions, dataset, parameters by part, hash of the stem's weights
RUN/metrics.csv          a row per optimizer step
RUN/validation.csv       a row per validation chain and round
RUN/checkpoints/         step_*/ (see training/checkpoint.py)
RUN/adapter/             the adapter alone, with its averaged weights
RUN/stem.safetensors     the stem's weights, only where they are random
"""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data_prep.structure_bytes import atomic_write
from pipeline.config import RunConfig, file_layer, resolve, to_toml
from pipeline.folding.model import FoldingModel, build_model
from pipeline.folding.stem import parameter_hash
from pipeline.training.checkpoint import latest_checkpoint


class RunError(ValueError):
    """A run directory that cannot be used; the message is one line."""


class RunDirectory:
    """Paths and small files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.info_file = path / "run.json"
        self.metrics_file = path / "metrics.csv"
        self.validation_file = path / "validation.csv"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.stem_file = path / "stem.safetensors"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    def create(self, config: RunConfig, info: Mapping[str, Any]) -> None:
        """Start a run: the directory, the configuration and the facts about it."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.info_file, (json.dumps(info, indent=2) + "\n").encode())
        atomic_write(self.config_file, to_toml(config).encode())

    def config(self) -> RunConfig:
        """The configuration of the run. Raises RunError when there is none."""
        if not self.exists():
            raise RunError(f"{self.path}: not a run directory (no config.toml): give the --out of pipeline.train")
        return resolve(file_layer(self.config_file))

    def info(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        try:
            return json.loads(self.info_file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"{self.info_file}: cannot be read: {error}") from error

    def save_stem(self, model: FoldingModel) -> None:
        """Keep the base weights of a random stem, which exist nowhere else."""
        temporary = self.stem_file.with_suffix(f".{os.getpid()}.tmp")
        save_file({n: p.detach().cpu().contiguous() for n, p in base_stem_parameters(model).items()}, temporary)
        temporary.rename(self.stem_file)


class CsvLog:
    """A table that grows by rows, each on disk when ``append`` returns; cut back to a step when a run is resumed."""

    def __init__(self, path: Path, columns: Sequence[str], after_step: int) -> None:
        """Open ``path``; rows of a later step than ``after_step`` are dropped. The first column must be ``step``."""
        kept: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if int(row["step"]) <= after_step]
        temporary = path.with_suffix(".tmp")
        self._stream = temporary.open("w", newline="")
        self._writer = csv.DictWriter(self._stream, columns, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._stream.flush()
        temporary.rename(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; floats with 6 significant digits, what is undefined (nan) as a blank."""
        self._writer.writerow({name: _cell(value) for name, value in row.items()})
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def base_stem_parameters(model: FoldingModel) -> dict[str, torch.nn.Parameter]:
    """Parameters of the stem without its adapter, by name."""
    adapter = {id(p) for p in model.adapter_parameters()}
    return {name: p for name, p in model.stem.named_parameters() if id(p) not in adapter}


def stem_hash(model: FoldingModel) -> str:
    """Hash of ``base_stem_parameters``."""
    return parameter_hash(base_stem_parameters(model).items())


def trained_parameters(model: FoldingModel) -> dict[str, torch.nn.Parameter]:
    """Parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_parameters(model: FoldingModel, tensors: Mapping[str, torch.Tensor], source: object) -> None:
    """Copy ``tensors`` into the trained parameters; names and shapes must agree. Raises RunError."""
    own = trained_parameters(model)
    if set(own) != set(tensors):
        odd = sorted(set(own) ^ set(tensors))[0]
        raise RunError(f"{source}: its tensors are not those of this model, e.g. {odd}: was config.toml edited?")
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise RunError(f"{source}: {name} has shape {list(tensors[name].shape)}, the model {list(parameter.shape)}")
        parameter.copy_(tensors[name])


def load_run(path: str | Path, *, step: int | None = None, esm_weights: str = "") -> tuple[FoldingModel, int]:
    """The model of a run with its averaged weights, in eval mode on the CPU, and the step it was trained to.

    Args:
        path: run directory.
        step: a checkpoint's step, 0 for the untrained model; None for the newest checkpoint.
        esm_weights: where the stem's pretrained weights are now; empty: where training found them.

    Raises:
        RunError: not a run, no checkpoint yet, or a stem other than the one that was trained with.
        StemError, CheckpointError: weights that cannot be had or read.
    """
    run = RunDirectory(Path(path))
    config = run.config()
    if esm_weights:
        if config.stem.init == "random":
            raise RunError(f"{path}: was trained with a random stem, which is in the run: do not give --esm-weights")
        config = replace(config, stem=replace(config.stem, weights=esm_weights))
    model = build_model(config)
    if config.stem.init == "random":
        load_stem(model, run)
    if config.adapter.method != "full" and stem_hash(model) != run.info()["stem_sha256"]:
        raise RunError(f"{path}: the stem's weights are not those that the run was trained with: see --esm-weights")
    if step != 0:
        checkpoint = latest_checkpoint(run.checkpoints, step)
        if checkpoint is None:
            raise RunError(f"{run.checkpoints}: no checkpoint yet: train first, or use --checkpoint 0 (untrained)")
        load_parameters(model, checkpoint.ema, run.checkpoints)
        step = checkpoint.step
    return model.eval(), step


@torch.no_grad()
def load_stem(model: FoldingModel, run: RunDirectory) -> None:
    """Base weights of a random stem from the run. Raises RunError."""
    try:
        stored = load_file(run.stem_file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run.stem_file}: cannot be read: {error}") from error
    for name, parameter in base_stem_parameters(model).items():
        parameter.copy_(stored[name])
