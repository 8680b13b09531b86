"""fair-esm's layout of ESMFold, as its published file has it, made of ours."""

import re
from typing import Any

import torch

from pipeline.config.schema import RunConfig
from pipeline.folding.weights import _STRUCTURE_FIELDS, UNUSED, folding_config

TOKENS = [1, 5, 10, 17, 13, 23, 16, 9, 6, 21, 12, 4, 15, 20, 18, 14, 8, 11, 22, 19, 7, 24]
"""ESM-2's tokens of padding and of the residue types."""


def to_fair_esm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of fair-esm's ``ESMFold``, stem included; its point projections have no ``linear.``."""
    points = re.compile(r"(\.ipa\.linear_(?:q|kv)_points\.)linear\.")
    names = {name: points.sub(r"\1", name.removeprefix("stem.").removeprefix(UNUSED)) for name in state}
    return {names[name]: value for name, value in state.items()} | {"af2_to_esm": torch.tensor(TOKENS)}


def fair_esm_config(config: RunConfig) -> dict[str, Any]:
    """``cfg["model"]`` of fair-esm's file."""
    described = folding_config(config)
    structure = described["trunk"]["structure_module"]
    names = dict(_STRUCTURE_FIELDS.values()) | {"num_angles": "no_angles"}
    described["trunk"]["structure_module"] = {names.get(name, name): value for name, value in structure.items()}
    return described
