"""Adapters of the folding model: on the stem, and on the attention and the transitions of the trunk's blocks.

A block of the trunk has attention of two shapes, over the sequence and over the rows and columns of the pair
representation (triangle attention). One tensor cannot span both, so each has an adapter of its own, which spans all
blocks; where feed-forward roles are targeted, with the transition of its representation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

import lorta
from lorta.config import ALL_ROLES, ROLES
from pipeline.config.schema import AdapterConfig, ConfigError, TrunkAdapterConfig, adapter_settings
from pipeline.folding.trunk import FoldingTrunk

PAPER_ALPHA = {("lora", 1): 128.0, ("lorta", 1): 2.0, ("lorta", 8): 256.0, ("lorta", 64): 128.0}
"""alpha of the folding experiment, LoRTA paper (arXiv 2410.04060), Table 6 and appendix D.4. The table prints the row
"LoRA r=1" twice; the one with alpha 2 is LoRTA r=1."""


def adapter_alpha(config: AdapterConfig) -> float | None:
    """alpha of the configuration; None leaves it to ``lorta``. Raises ConfigError where the paper gives none."""
    if config.alpha == "default" or config.method in ("none", "full"):
        return None
    if config.alpha == "paper":
        try:
            return PAPER_ALPHA[config.method, config.rank]
        except KeyError:
            known = ", ".join(f"{method} rank {rank}" for method, rank in PAPER_ALPHA)
            raise ConfigError(
                f"configuration: adapter.alpha = 'paper': Table 6 has no {config.method} rank {config.rank} "
                f"(it has {known}): give adapter.alpha a number"
            ) from None
    return config.alpha


def attach_to_stem(esm: nn.Module, config: AdapterConfig, seed: int) -> None:
    """Adapt ESM-2 as configured; its own weights lose ``requires_grad``. Raises ConfigError."""
    if config.alpha == "paper":
        # Table 6 was found with the official codes' initial factors.
        config = replace(config, settings={"init": "official", **config.settings})
    settings = adapter_settings(config, seed=seed, alpha=adapter_alpha(config))
    assert settings is not None  # none and full are not for this function
    _attach(esm, settings, "adapter")


def attention_of_trunk(trunk: FoldingTrunk, transitions: bool = False) -> dict[str, nn.ModuleDict]:
    """The trunk's attention modules by shape: ``sequence``, and ``triangle`` where the blocks have it.

    With ``transitions`` in layers that have their block's transition too. The containers are views: they are not
    registered in the trunk, so that its state dict stays ESMFold's.
    """
    blocks = dict(enumerate(trunk.blocks))
    if transitions:
        names: dict[str, tuple[str, ...]] = {"sequence": ("seq_attention", "mlp_seq")}
        if trunk.config.triangle_attention:
            names["triangle"] = ("tri_att_start", "tri_att_end", "mlp_pair")
        return {
            shape: nn.ModuleDict(
                {f"block{i}": nn.ModuleDict({n: getattr(block, n) for n in parts}) for i, block in blocks.items()}
            )
            for shape, parts in names.items()
        }
    views = {"sequence": nn.ModuleDict({f"block{i}": block.seq_attention for i, block in blocks.items()})}  # type: ignore[misc]
    if trunk.config.triangle_attention:
        views["triangle"] = nn.ModuleDict(
            {
                f"block{i}_{name.removeprefix('tri_att_')}": getattr(block, name).mha
                for i, block in blocks.items()
                for name in ("tri_att_start", "tri_att_end")
            }
        )
    return views


def attach_to_trunk(trunk: FoldingTrunk, config: TrunkAdapterConfig, seed: int) -> dict[str, nn.ModuleDict]:
    """Adapt the attention of the trunk's blocks, and their transitions if the settings say so; returns the views.

    Raises ConfigError: also for all linear maps, of which triangle multiplication and outer product have no roles.
    """
    settings = adapter_settings(config, seed=seed)
    assert isinstance(settings, lorta.LortaConfig)  # the trunk has no other methods
    if settings.targets == ALL_ROLES:
        raise ConfigError(
            "configuration: trunk_adapter.settings.targets: of the trunk the attention and the transitions can be "
            'adapted, triangle multiplications and the outer product cannot: give ["q", "k", "v", "o", "up", "down"]'
        )
    views = attention_of_trunk(trunk, transitions=not set(settings.targets) <= set(ROLES))
    if settings.dropout:
        raise ConfigError(
            "configuration: trunk_adapter.settings.dropout: the trunk's fused attention adds the update to the weight, "
            "where its input cannot be dropped: leave it out"
        )
    for view in views.values():
        _attach(view, settings, "trunk_adapter")
    return views


def _attach(root: nn.Module, settings: lorta.LortaConfig | lorta.OutputAdapterConfig, section: str) -> None:
    try:
        lorta.attach(root, settings)
    except ValueError as error:
        raise ConfigError(f"configuration: {section}: {error}") from error


@contextmanager
def merged(roots: list[nn.Module]) -> Iterator[None]:
    """All adapters in the weights for the duration of the block."""
    done: list[nn.Module] = []
    try:
        for root in roots:
            lorta.merge(root)
            done.append(root)
        yield
    finally:
        for root in done:
            lorta.unmerge(root)
