"""The model to predict with: of a run, or of published weights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.folding.model import FoldingModel
from pipeline.folding.stem import parameter_hash
from pipeline.runs.checkpoint import WhichStep
from pipeline.runs.directory import RunDirectory, RunError, load_run, trained_parameters
from pipeline.runs.initial import PUBLISHED, load_published


@dataclass(frozen=True)
class Source:
    """Where a model comes from; enough to load it again in another process."""

    run: str
    """A run directory; or a published model's name, or its file or directory."""
    step: WhichStep = "last"
    """A kept step of a run, 0: untrained; ``best``: of the best round of validation; ``last``: the newest."""
    weights: str = ""
    """Local file or directory of a published model, or of the whole model that a run started from; empty: where its
    owners keep it, or where training found it."""
    esm_weights: str = ""
    """The stem's pretrained weights, where they moved or are not in the file."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, and what to say of it."""

    model: FoldingModel
    """In eval mode, on the CPU."""
    fingerprint: str
    """sha256 over its weights and shape: predictions with the same one can lie in one directory."""
    description: str
    """One line."""
    step: int | None
    """Optimizer steps; None for a published model."""


def load(source: Source) -> Loaded:
    """Load a model.

    Raises:
        RunError: neither a run nor a published model, or options that do not go together.
        StemError, CheckpointError, WeightsError, ConfigError: weights that cannot be had or read.
    """
    path = Path(source.run)
    is_run = (path / "config.toml").is_file()
    if is_run and source.weights and not RunDirectory(path).config().init.weights:
        raise RunError(f"{path}: is a run, which has its weights: leave --weights out")
    if not is_run and path.is_dir() and not any((path / name).is_file() for name in ("config.json", "model.toml")):
        raise RunError(f"{path}: not a run directory (no config.toml): give the --out of pipeline.train")
    if not is_run and source.step != "last":
        raise RunError(f"{source.run}: published weights have no steps: leave --checkpoint out")
    if not is_run and not path.exists() and source.run not in PUBLISHED and not source.weights:
        raise RunError(f"{path}: no such run directory, and not the name of a published model ({', '.join(PUBLISHED)})")
    if is_run:
        model, step = load_run(path, step=source.step, esm_weights=source.esm_weights, init_from=source.weights)
        info = RunDirectory(path).info()  # load_run has checked the hashes of what does not train
        frozen = [info["stem_sha256"], info["frozen_sha256"]]
        weights = [*frozen, parameter_hash(trained_parameters(model).items())]
        description = f"{path}, step {step}" + (", the best in validation" if source.step == "best" else "")
    else:
        model, origin = load_published(source.weights or source.run, source.esm_weights)
        weights, step = [parameter_hash(model.named_parameters())], None
        description = f"{source.run}: {origin}"
    return Loaded(model, _fingerprint(model, weights), description, step)


def _fingerprint(model: FoldingModel, weights: Sequence[str]) -> str:
    shape = {"stem": model.config.stem.name, "trunk": asdict(model.config.trunk), "heads": asdict(model.config.heads)}
    return hashlib.sha256(json.dumps([shape, *weights], sort_keys=True).encode()).hexdigest()
