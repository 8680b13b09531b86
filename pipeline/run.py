"""A run directory: what training writes and prediction reads.

RUN/config.toml          the resolved configuration
RUN/run.json             versions, dataset, parameters by part, hash of the stem's weights
RUN/metrics.csv          a row per optimizer step: the same again for the same configuration
RUN/summary.json         at the end: steps, speed, memory, the best round of validation
RUN/timing.csv           a row per optimizer step: what depends on the machine
RUN/validation.csv       a row per validation chain and round
RUN/checkpoints/         step_*/ (see training/checkpoint.py)
RUN/adapter/             the adapter alone, with its averaged weights
RUN/bad_steps/           batches of steps that were not applied (see training/guard.py)
RUN/stem.safetensors     the stem's weights, only where they are random
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import lorta
from data_prep.structure_bytes import atomic_write
from lorta.storage import TENSOR_FILE
from pipeline.config import RunConfig, file_layer, resolve, to_toml
from pipeline.folding.model import FoldingModel, build_model
from pipeline.folding.stem import parameter_hash
from pipeline.training.checkpoint import latest_checkpoint
from pipeline.training.freezing import freeze
from pipeline.training.sharding import like, local, whole
from pipeline.training.tensor_files import write_tensors


class RunError(ValueError):
    """A run directory that cannot be used; the message is one line."""


class RunDirectory:
    """Paths and small files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.info_file = path / "run.json"
        self.summary_file = path / "summary.json"
        self.metrics_file = path / "metrics.csv"
        self.timing_file = path / "timing.csv"
        self.validation_file = path / "validation.csv"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.bad_steps = path / "bad_steps"
        self.stem_file = path / "stem.safetensors"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    def create(self, config: RunConfig, info: Mapping[str, Any], model: FoldingModel) -> None:
        """Start a run: facts, what is kept of the model at step 0, and last the configuration, which makes it one.

        Kept are the adapter and, where they are random and exist nowhere else, the stem's weights.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.info_file, (json.dumps(info, indent=2) + "\n").encode())
        if config.stem.init == "random":
            write_tensors(self.stem_file, base_stem_parameters(model))
        if model.adapter is not None:
            lorta.save(model.stem.esm, self.adapter)
        atomic_write(self.config_file, to_toml(config).encode())

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """What a finished run says of itself."""
        atomic_write(self.summary_file, (json.dumps(summary, indent=2) + "\n").encode())

    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``. Raises RunError when there is none."""
        try:
            return json.loads(self.summary_file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"{self.summary_file}: cannot be read ({error}): was the run trained to its end?") from error

    def save_adapter(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put ``adapter_tensors`` in place of the weights in ``adapter/``, whose settings ``create`` has written."""
        write_tensors(self.adapter / TENSOR_FILE, tensors, {"format": "pt"})

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


def adapter_tensors(model: FoldingModel, averages: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's state with the averaged weights of those factors that train; empty without an adapter."""
    if model.adapter is None:
        return {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = model.adapter.state_dict(keep_vars=True)
    return {key: averages.get(names.get(id(tensor), ""), whole(tensor)) for key, tensor in own.items()}


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
        local(parameter).copy_(local(like(tensors[name], parameter)))


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
    freeze(model, config.training.freeze)
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
