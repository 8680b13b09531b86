"""The folding model: ESM-2 stem, combination of its layers, trunk, structure module, heads (Lin et al. 2023)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import lorta
from pipeline.config import AdapterConfig, ConfigError, RunConfig
from pipeline.folding.heads import AlignedErrorHead, DistogramHead, PlddtHead
from pipeline.folding.initialization import linear
from pipeline.folding.stem import Stem, build_stem
from pipeline.folding.structure_module import StructureOutput
from pipeline.folding.trunk import FoldingTrunk

AA_EMBEDDINGS = 23
"""ESMFold's residue vocabulary: the 21 values of aatype and two that it reserves for padding and masking."""

PAPER_ALPHA = {("lora", 1): 128.0, ("lorta", 1): 2.0, ("lorta", 8): 256.0, ("lorta", 64): 128.0}
"""alpha of the folding experiment, LoRTA paper (arXiv 2410.04060), Table 6 and appendix D.4. The table prints the row
"LoRA r=1" twice; the one with alpha 2 is LoRTA r=1."""


@dataclass(frozen=True)
class FoldOutput:
    """What one pass of the model gives; B samples, N residues."""

    structure: StructureOutput
    """Frames, angles and atom14 positions of every iteration of the structure module, angstrom."""
    single: torch.Tensor
    """[B, N, c_s]."""
    pair: torch.Tensor
    """[B, N, N, c_z]."""
    distogram_logits: torch.Tensor
    """[B, N, N, bins]."""
    plddt_logits: torch.Tensor
    """[B, N, bins] of the C-alpha."""
    pae_logits: torch.Tensor | None = None
    """[B, N, N, bins] of the aligned error; None without ``heads.pae``."""


class FoldingModel(nn.Module):
    """Sequence to structure. Use ``build_model`` to get one with its stem's weights and its adapter."""

    def __init__(self, config: RunConfig, stem: Stem) -> None:
        super().__init__()
        self.config = config
        c_s = config.trunk.c_s
        self.stem = stem
        self.esm_s_combine = nn.Parameter(torch.zeros(stem.num_layers + 1))
        self.esm_s_mlp = nn.Sequential(
            nn.LayerNorm(stem.embed_dim),
            linear(stem.embed_dim, c_s, init="relu"),
            nn.ReLU(),
            linear(c_s, c_s),
        )
        # No padding_idx: in fair-esm it is 0, which is alanine, whose embedding then never trains.
        self.embedding = nn.Embedding(AA_EMBEDDINGS, c_s)
        self.trunk = FoldingTrunk(config.trunk)
        self.distogram_head = DistogramHead(config.trunk.c_z, config.heads.distogram_bins)
        self.lddt_head = PlddtHead(
            config.trunk.structure_module.c_s,
            config.heads.plddt_hidden,
            config.heads.plddt_atoms,
            config.heads.plddt_bins,
        )
        # Last, so that the other parameters' random draws are the same with and without.
        self.ptm_head = AlignedErrorHead(config.trunk.c_z, config.heads.pae_bins) if config.heads.pae else None

    def forward(
        self,
        aatype: torch.Tensor,
        mask: torch.Tensor,
        residue_index: torch.Tensor,
        num_recycles: int,
        shown_aatype: torch.Tensor | None = None,
    ) -> FoldOutput:
        """Fold a padded batch.

        Args:
            aatype: int64 [B, N], 0-20.
            mask: float [B, N], 1 for residues, which come first, 0 for padding.
            residue_index: int64 [B, N].
            num_recycles: passes of the trunk after the first one.
            shown_aatype: int64 [B, N], what stem and residue embedding see instead of ``aatype``, which then only says
                which side chains to build.
        """
        shown = aatype if shown_aatype is None else shown_aatype
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stem_trains):
            hidden = self.stem(shown, mask)  # [B, N, L+1, E]
        weights = torch.softmax(self.esm_s_combine, dim=0)
        single = self.esm_s_mlp(torch.einsum("l,bnle->bne", weights, hidden)) + self.embedding(shown)
        if self.config.trunk.absolute_positions:
            single = single + sinusoidal_positions(residue_index, single.shape[-1]).to(single.dtype)
        batch, n, _ = single.shape
        pair = single.new_zeros(batch, n, n, self.config.trunk.c_z)
        single, pair, structure = self.trunk(single, pair, aatype, residue_index, mask, num_recycles)
        atom = 0 if self.lddt_head.atoms == 1 else 1  # atom37's C-alpha
        return FoldOutput(
            structure=structure,
            single=single,
            pair=pair,
            distogram_logits=self.distogram_head(pair),
            plddt_logits=self.lddt_head(structure.states[-1])[..., atom, :],
            pae_logits=None if self.ptm_head is None else self.ptm_head(pair),
        )

    @property
    def stem_trains(self) -> bool:
        """Whether anything inside the stem, adapter included, has a gradient."""
        return any(parameter.requires_grad for parameter in self.stem.parameters())

    def named_parts(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """(part, name, parameter) of every parameter; parts: stem, adapter, trunk, structure module, heads."""
        adapter = {id(p) for p in self.adapter_parameters()}
        for name, parameter in self.named_parameters():
            if id(parameter) in adapter:
                part = "adapter"
            elif name.startswith("stem."):
                part = "stem"
            elif name.startswith("trunk.structure_module.") or name.startswith("trunk.trunk2sm"):
                part = "structure module"
            elif name.startswith(("distogram_head.", "lddt_head.", "ptm_head.")):
                part = "heads"
            elif name.startswith("trunk."):
                part = "trunk"
            else:
                part = "stem to trunk"
            yield part, name, parameter

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The factors of the adapter; empty without one."""
        adapter = self.adapter
        return [] if adapter is None else list(adapter.parameters())

    @property
    def adapter(self) -> lorta.Adapter | None:
        """The adapter on the stem, if there is one."""
        if self.config.adapter.method in ("none", "full"):
            return None
        return lorta.adapter_set(self.stem)["default"]


def sinusoidal_positions(index: torch.Tensor, channels: int) -> torch.Tensor:
    """Sines and cosines of ``index`` [...] at geometrically spaced frequencies from 1 to 1e-4: [..., channels].

    Vaswani et al. 2017, section 3.5, all sines before all cosines.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, device=index.device) * (-math.log(10_000.0) / half))
    angles = index[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


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


def build_model(config: RunConfig) -> FoldingModel:
    """The model of a run at step 0: stem weights loaded, adapter attached, ``requires_grad`` set.

    The initial weights depend on ``config.training.seed`` alone.

    Raises:
        StemError: the stem's weights cannot be had.
        ConfigError: no alpha for this adapter.
    """
    seed = config.training.seed
    alpha = adapter_alpha(config.adapter)
    stem = build_stem(config.stem, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FoldingModel(config, stem)
    stem.requires_grad_(False)
    if model.ptm_head is not None:
        model.ptm_head.requires_grad_(False)  # no loss term reaches it: it serves converted weights
    method = config.adapter.method
    if method == "full":
        stem.esm.requires_grad_(True)
        # Nothing here reads the logits; the head's weight is the token embedding, which does train.
        for name, parameter in stem.esm.lm_head.named_parameters():
            parameter.requires_grad_(name == "weight")
    elif method != "none":
        options: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
        if config.adapter.alpha == "paper":
            options["init"] = "official"  # Table 6 was found with the official codes' initial factors
        lorta.attach(stem.esm, lorta.LortaConfig(method=method, r=config.adapter.rank, seed=seed, **options))
    return model
