"""A run directory: what training writes and prediction reads.

RUN/config.toml          the resolved configuration
RUN/run.json             versions, dataset, parameters by part, hash of the stem's weights
RUN/metrics.csv          a row per optimizer step: the same again for the same configuration
RUN/summary.json         at the end: steps, speed, memory, the best round of validation
RUN/timing.csv           a row per optimizer step: what depends on the machine
RUN/validation.csv       a row per validation chain and round
RUN/baselines.csv        a row per validation chain: a straight helix, a copy of the nearest training chain
RUN/panel.csv            scores of the forgetting check, before and after
RUN/report.html          curves and scores, written again while the run goes on; one file, no network
RUN/README.md            model card
RUN/checkpoints/         step_*/ (see runs/checkpoint.py)
RUN/adapter/             the stem's adapter alone, with its averaged weights
RUN/trunk_adapter/       sequence/ and triangle/: the adapters on the trunk's attention, where there are some
RUN/bad_steps/           batches of steps that were not applied (see training/guard.py)
RUN/stem.safetensors     the stem's weights, only where they were random to begin with
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import lorta
from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json
from data_prep.files.command_line import release
from data_prep.files.errors import UserError
from data_prep.files.lock import locked
from lorta.storage import TENSOR_FILE
from pipeline.config.layers import config_file_text, file_layer, merge, resolve
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.esm2_weights import StemError, is_hub_name
from pipeline.folding.model import FoldingModel, build_model
from pipeline.folding.stem import parameter_hash
from pipeline.folding.tensor_files import write_tensors
from pipeline.folding.weights import UNUSED, State, check_state
from pipeline.runs.checkpoint import WhichStep, latest_checkpoint, like, list_checkpoints, local, whole
from pipeline.runs.initial import PUBLISHED, check_agreement, read_source, shape_layer, source_config
from pipeline.runs.tables import best_step, validation_history

HASHES = 2
"""``hash_version`` of run.json. The hashes of version 1, which has no such field, counted ESM-2's masked-LM head, which
was random where the file of the weights had none."""


class RunError(UserError):
    """A run directory that cannot be used; the message is one line."""


class RunDirectory:
    """Paths and small files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.info_file = path / "run.json"
        self.panel_file = path / "panel.csv"
        self.report_file = path / "report.html"
        self.card_file = path / "README.md"
        self.summary_file = path / "summary.json"
        self.metrics_file = path / "metrics.csv"
        self.timing_file = path / "timing.csv"
        self.validation_file = path / "validation.csv"
        self.baselines_file = path / "baselines.csv"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.trunk_adapter = path / "trunk_adapter"
        self.bad_steps = path / "bad_steps"
        self.stem_file = path / "stem.safetensors"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    def create(self, config: RunConfig, info: Mapping[str, Any], model: FoldingModel) -> None:
        """Start a run: facts, what is kept of the model at step 0, and last the configuration, which makes it one.

        Kept are the adapters and, where they are random and exist nowhere else, the stem's weights.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.info_file, json.dumps(info, indent=2) + "\n")
        if config.stem.init == "random":
            write_tensors(self.stem_file, base_stem_parameters(model))
        for name, root in model.adapted().items():
            lorta.save(root, self.adapter_folder(name))
        self.save_config(config)

    @contextmanager
    def being_trained(self) -> Iterator[None]:
        """Keep other processes from training this run, and remove what one that was killed left half-written.

        Raises RunError: one trains it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".lock") as free:
            if not free:
                raise RunError(f"{self.path}: is being trained by another process: wait for it, or give another --out")
            for folder in self.checkpoints.glob(".step_*"):  # first: a checkpoint's is a directory called .partial too
                shutil.rmtree(folder)
            for pattern in (".*.partial", "*.partial-*"):
                for file in self.path.rglob(pattern):
                    file.unlink()
            yield

    def save_config(self, config: RunConfig) -> None:
        """Write the configuration."""
        write_text(self.config_file, config_file_text(config))

    def go_on(self, config: RunConfig, *, finished: bool) -> None:
        """The run is trained further with ``config``, more steps, say: what is written of it goes by the files.

        ``finished``: it has all its steps, and no more than what follows them may be missing.
        """
        if self.config() != config:
            self.save_config(config)
        if not finished:
            self.summary_file.unlink(missing_ok=True)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """What a finished run says of itself."""
        write_text(self.summary_file, json.dumps({"version": release(), **summary}, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``. Raises RunError when there is none."""
        try:
            found = read_json(self.summary_file)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.summary_file}: cannot be read ({error}): was the run trained to its end?") from error
        if not isinstance(found, dict) or "step" not in found:
            raise RunError(f"{self.summary_file}: is damaged: it does not say to which step the run was trained")
        return found

    def adapter_folder(self, name: str) -> Path:
        """Where the adapter of this name (``FoldingModel.adapters``) is."""
        return self.adapter if name == "stem" else self.trunk_adapter / name

    def save_adapters(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Put ``adapter_tensors`` in place of the weights in the folders, whose settings ``create`` has written."""
        for name, own in tensors.items():
            write_tensors(self.adapter_folder(name) / TENSOR_FILE, own, {"format": "pt"})

    def config(self) -> RunConfig:
        """The configuration of the run. Raises RunError when there is none."""
        if not self.exists():
            raise RunError(f"{self.path}: not a run directory (no config.toml): give the --out of pipeline.train")
        return resolve(file_layer(self.config_file))

    def trained_with(self, **hashes: str) -> bool:
        """Whether these are the hashes of ``run.json``. Raises RunError: it cannot be read.

        Those of an earlier version cannot be compared: it is taken to be so, with a warning.
        """
        recorded = self.info()
        if recorded.get("hash_version") != HASHES:
            text = "was made by an earlier version: whether its frozen weights are still the same is not checked"
            warnings.warn(f"{self.path}: {text}", stacklevel=3)
            return True
        return all(recorded[name] == value for name, value in hashes.items())

    def info(self) -> dict[str, Any]:
        """Content of ``run.json``. Raises RunError when there is none, or it lacks the hashes of the weights."""
        try:
            found = read_json(self.info_file)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.info_file}: cannot be read: {error}") from error
        if not isinstance(found, dict) or not {"stem_sha256", "frozen_sha256"} <= found.keys():
            raise RunError(
                f"{self.info_file}: is damaged: it has no hashes of the weights that the run was trained with"
            )
        return found


def base_stem_parameters(model: FoldingModel) -> dict[str, torch.nn.Parameter]:
    """Parameters of the stem without its adapter, by name."""
    adapter = {id(p) for p in model.adapter_parameters()}
    return {name: p for name, p in model.stem.named_parameters() if id(p) not in adapter}


def stem_hash(model: FoldingModel) -> str:
    """Hash of ``base_stem_parameters``."""
    return parameter_hash(base_stem_parameters(model).items())


def frozen_hash(model: FoldingModel) -> str:
    """Hash of all parameters on this process that do not train; it must never change during a run."""
    return parameter_hash((name, local(p)) for name, p in model.named_parameters() if not p.requires_grad)


def weight_hashes(model: FoldingModel) -> dict[str, str | int]:
    """Return what ``run.json`` says of the weights that a run does not store."""
    return {"hash_version": HASHES, "stem_sha256": stem_hash(model), "frozen_sha256": frozen_hash(model)}


def trained_parameters(model: FoldingModel) -> dict[str, torch.nn.Parameter]:
    """Parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapter_tensors(model: FoldingModel, averages: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The adapters' states by their names, with the averaged weights of those factors that train."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        where: {
            key: averages.get(names.get(id(tensor), ""), whole(tensor))
            for key, tensor in adapter.state_dict(keep_vars=True).items()
        }
        for where, adapter in model.adapters().items()
    }


def freeze(model: FoldingModel, patterns: Sequence[str]) -> int:
    """Take the parameters whose name matches one of the shell patterns out of training; returns how many numbers.

    Names are those of ``named_parameters()``, e.g. ``trunk.blocks.0.*``; ``trunk.structure_module.*``. A pattern
    without a match is a ConfigError, and so is one that leaves nothing to train.
    """
    frozen = 0
    for pattern in patterns:
        matched = [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            example = next(name for name, p in model.named_parameters() if p.requires_grad)
            raise ConfigError(
                f"configuration: training.freeze: no parameter matches {pattern!r} (a name is, for example, {example})"
            )
        frozen += sum(p.numel() for p in matched if p.requires_grad)
        for parameter in matched:
            parameter.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"configuration: training.freeze = {list(patterns)} leaves nothing to train")
    return frozen


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


def base_weights(source: str, esm_weights: str = "") -> tuple[State, Path]:
    """Weights of a whole model in our layout, and the path that they were read from.

    Args:
        source: as ``init.weights``: a published name, a file or directory that ``runs.initial.read_source`` takes, or a
            run directory, which gives its averaged weights with the adapters merged.
        esm_weights: the stem's own weights, where they are not in ``source``.

    Raises:
        RunError: a run whose adapter cannot be merged.
        WeightsError, StemError, ConfigError, CheckpointError: as ``read_source`` and ``load_run``.
    """
    if not RunDirectory(Path(source)).exists():
        converted, path = read_source(source, esm_weights)
        return converted.state, path
    model, _ = load_run(source, esm_weights=esm_weights)
    try:
        model.merge_adapters()
    except ValueError as error:
        raise RunError(f"{source}: a run starts from another one's merged weights, and here {error}") from error
    return model.state_dict(), Path(source)


def base_config(source: str) -> RunConfig:
    """The configuration of the model that ``base_weights`` reads. Raises WeightsError, ConfigError."""
    run = RunDirectory(Path(source))
    return run.config() if run.exists() else source_config(source)


def with_initial_shape(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Layers of a configuration, with the shape of the model that ``init.weights`` names below them.

    Raises:
        ConfigError: a layer that says another shape, with the field.
        WeightsError, RunError: no such model.
    """
    wanted: Mapping[str, Any] = {}
    for layer in layers:
        wanted = merge(wanted, layer)
    source = wanted.get("init", {}).get("weights", "")
    if not source:
        return list(layers)
    own = base_config(source)
    check_agreement(wanted, shape_layer(own, only_shape=True), source)
    return [shape_layer(own), *layers]


def initial_model(config: RunConfig) -> FoldingModel:
    """The model of a run at step 0, with the weights that ``config.init`` or ``config.stem`` name.

    Raises:
        WeightsError, StemError, ConfigError, RunError, CheckpointError: weights that cannot be had or do not fit.
    """
    if not config.init.weights:
        return build_model(config)
    state, path = base_weights(config.init.weights, config.stem.weights)
    if config.heads.masked_lm:  # which the published files have, and no prediction reads
        state = {
            name.removeprefix(UNUSED) if name.startswith(UNUSED + "lm_head.") else name: v for name, v in state.items()
        }
    else:
        state = {name: value for name, value in state.items() if not name.startswith("lm_head.")}
    check_state(config, state, path)
    return build_model(config, state)


def _step_of_best(run: RunDirectory) -> int:
    """Return the step of the best round of validation. Raises RunError: it has none, or its checkpoint was not kept."""
    kept = [number for number, _ in list_checkpoints(run.checkpoints)]
    # What is after the last checkpoint is lost when the run goes on, and was perhaps cut off in the middle of a round.
    best = best_step(validation_history(run.validation_file, kept[-1])) if kept else None
    if best is None:
        raise RunError(f"{run.path}: has no round of validation with a checkpoint, so none is best: use the last one")
    if best and best not in kept:
        raise RunError(
            f"{run.path}: its best round of validation was at step {best}, and that checkpoint is not there (earlier "
            f"versions did not keep it); there are: {', '.join(map(str, kept))}"
        )
    return best


def load_run(
    path: str | Path, *, step: WhichStep = "last", esm_weights: str = "", init_from: str = ""
) -> tuple[FoldingModel, int]:
    """The model of a run with its averaged weights, in eval mode on the CPU, and the step it was trained to.

    Args:
        path: run directory.
        step: a checkpoint's step, 0 for the untrained model; ``best``: of the best round of validation; ``last``.
        esm_weights: where the stem's pretrained weights are now; empty: where training found them.
        init_from: where the whole model that training started from is now; empty: where training found it.

    Raises:
        RunError: not a run, no checkpoint yet, or other base weights than it was trained with.
        StemError, WeightsError, CheckpointError: weights that cannot be had or read.
    """
    run = RunDirectory(Path(path))
    config = run.config()
    if esm_weights:
        if config.stem.init == "random":
            raise RunError(f"{path}: was trained with a random stem, which is in the run: do not give --esm-weights")
        config = replace(config, stem=replace(config.stem, weights=esm_weights))
    if init_from:
        if not config.init.weights:
            raise RunError(f"{path}: did not start from a whole model: do not give --init-from")
        config = replace(config, init=replace(config.init, weights=init_from))
    require_weights(run, config)
    try:
        model = initial_model(config)
    except StemError as error:
        raise StemError(f"{path}: {error}") from None
    freeze(model, config.training.freeze)
    if config.stem.init == "random":
        load_stem(model, run)
    if config.adapter.method != "full" and not run.trained_with(stem_sha256=stem_hash(model)):
        raise RunError(
            f"{path}: the stem's weights, of {config.stem.weights or config.init.weights or config.stem.name}, are not "
            "those that the run was trained with: say where those are with --esm-weights"
        )
    if config.init.weights and not run.trained_with(frozen_sha256=frozen_hash(model)):
        raise RunError(
            f"{path}: the weights of {config.init.weights} are not those that the run started from: say where those "
            "are with --weights (--init-from for pipeline.train)"
        )
    if step == "best":
        step = _step_of_best(run)
    if step != 0:
        checkpoint = latest_checkpoint(run.checkpoints, None if step == "last" else step)
        if checkpoint is None:
            raise RunError(f"{run.checkpoints}: no checkpoint yet: train first, or use --checkpoint 0 (untrained)")
        load_parameters(model, checkpoint.ema, run.checkpoints)
        step = checkpoint.step
    return model.eval(), step


def require_weights(run: RunDirectory, config: RunConfig) -> None:
    """Raise RunError, with the run and the option that helps, where weights that a run needs are no longer there.

    Args:
        run: the run.
        config: its configuration, with what options put in place of it.
    """
    for value, what, option in (
        (config.stem.weights, "its stem's weights were", "--esm-weights"),
        (config.init.weights, "the model that it started from was", "--weights (--init-from for pipeline.train)"),
    ):
        if value and not (Path(value).exists() or is_hub_name(value) or value in PUBLISHED):
            raise RunError(f"{run.path}: {what} {value}, which is not there: say where it is now with {option}")


@torch.no_grad()
def load_stem(model: FoldingModel, run: RunDirectory) -> None:
    """Base weights of a random stem from the run. Raises RunError."""
    try:
        stored = load_file(run.stem_file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run.stem_file}: cannot be read: {error}") from error
    own = base_stem_parameters(model)
    stored = {name: tensor for name, tensor in stored.items() if not name.startswith("esm.lm_head.")}  # version 1's
    if {name: p.shape for name, p in own.items()} != {name: tensor.shape for name, tensor in stored.items()}:
        raise RunError(f"{run.stem_file}: its tensors are not those of this stem: was config.toml edited?")
    for name, parameter in own.items():
        parameter.copy_(stored[name])
