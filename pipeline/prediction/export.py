"""A trained run as files that other programs load."""

from dataclasses import replace
from pathlib import Path

import lorta
from data_prep.files.errors import UserError
from pipeline.config.schema import AdapterConfig, InitConfig, RunConfig, StemConfig, TrunkAdapterConfig
from pipeline.folding import esm2_weights
from pipeline.folding.esm2_weights import canonical_name
from pipeline.folding.model import FoldingModel
from pipeline.folding.model_files import Converted
from pipeline.folding.weights import WeightsError, hugging_face_config

FOR_TRANSFORMERS = "stem_transformers"
"""Directory of the stem's adapter in transformers' names."""


class ExportError(UserError):
    """A run that cannot be written so; the message is one line."""


def without_adapters(model: FoldingModel) -> Converted:
    """The model with its adapters in the weights of what they adapt, and gone. Changes ``model``.

    Raises:
        ExportError: an adapter that is no update of weights.
    """
    try:
        model.merge_adapters()
    except ValueError as error:
        raise ExportError(str(error)) from error
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return Converted(plain_config(model.config), state)


def check_esmfold(config: RunConfig, run: str) -> None:
    """Raise ExportError unless transformers' ``EsmForProteinFolding`` has a place for all that this model computes."""
    try:
        hugging_face_config(config)
    except WeightsError as error:
        raise ExportError(
            f"{run}: {error}: --to hf is for ESMFold's architecture, as of --preset esmfold or of a run that started "
            "from ESMFold's weights; --to merged writes any run"
        ) from None


def plain_config(config: RunConfig) -> RunConfig:
    """The configuration without adapters, and without the model that training started from."""
    return replace(
        config,
        init=InitConfig(),
        stem=replace(config.stem, weights=""),
        adapter=AdapterConfig(method="none"),
        trunk_adapter=TrunkAdapterConfig(),
    )


def export_adapters(model: FoldingModel, out: Path) -> list[Path]:
    """Write every adapter as PEFT's LoRA files, in a directory of its name; returns the directories.

    That of the stem is written once for fair-esm's ESM-2 and once for transformers' ``EsmModel``.

    Raises:
        ExportError: no adapter, or one that is no update of weights.
    """
    adapted = model.adapted()
    if not adapted:
        raise ExportError(f"the run has no adapter (adapter.method = {model.config.adapter.method!r}): use --to merged")
    written = []
    for name, root in adapted.items():
        try:
            written.append(lorta.export_lora(root, out / name))
            if name == "stem":
                base = base_model(model.config.stem)
                written.append(lorta.export_lora(root, out / FOR_TRANSFORMERS, base_model=base, rename=in_transformers))
        except ValueError as error:
            raise ExportError(f"the adapter on {name}: {error}") from error
    return written


def base_model(stem: StemConfig) -> str:
    """Return what PEFT's ``AutoPeft`` classes load before the adapter; empty for weights that are nowhere else."""
    if stem.init == "random":
        return ""
    return stem.weights or f"facebook/{canonical_name(stem.name)}_UR50D"


def in_transformers(path: str) -> str:
    """Return the path in ``EsmModel`` of a linear map of ESM-2. Raises ValueError: it has none."""
    name = esm2_weights.name_to_hugging_face(f"{path}.weight")
    if name is None:
        raise ValueError(f"transformers' EsmModel has no {path}")
    return name.removesuffix(".weight")
