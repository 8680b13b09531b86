"""The folding model: ESM-2 stem, combination of its layers, trunk, structure module, heads (Lin et al. 2023)."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

import lorta
from pipeline.config.schema import ConfigError, RunConfig, StemConfig
from pipeline.folding.adapters import attach_to_stem, attach_to_trunk, merged
from pipeline.folding.linear import linear
from pipeline.folding.stem import MASKED, Stem, build_stem
from pipeline.folding.structure_module import StructureOutput
from pipeline.folding.trunk import FoldingTrunk

AA_EMBEDDINGS = 23
"""ESMFold's residue vocabulary: the 21 values of aatype and two that it reserves for padding and masking."""

PARTS = ("stem", "adapter", "stem to trunk", "trunk", "trunk adapter", "structure module", "heads")
"""Of the model, in the order of the forward pass."""


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
    masked_lm_logits: torch.Tensor | None = None
    """[B, N, AA_EMBEDDINGS] of the residue type; None without ``heads.masked_lm``."""
    masked: torch.Tensor | None = None
    """bool [B, N], residues that were not shown; None without ``heads.masked_lm``."""


class DistogramHead(nn.Linear):
    """Symmetric distogram logits (Jumper et al. 2021, suppl. 1.9.8)."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__(c_z, bins)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, N, N, bins] from ``z`` [B, N, N, c_z]."""
        logits = super().forward(z)
        return (logits + logits.transpose(1, 2)).mul_(0.5)  # mean, as ESMFold; OpenFold adds


class PlddtHead(nn.Sequential):
    """Logits of the lDDT bins per residue and atom, from the structure module's single states.

    ESMFold's layers: no activation between the Linears; ``atoms`` is 37 there, 1 gives one value per residue.
    """

    def __init__(self, c_s: int, c_hidden: int, atoms: int, bins: int) -> None:
        super().__init__(
            nn.LayerNorm(c_s),
            linear(c_s, c_hidden),
            linear(c_hidden, c_hidden),
            linear(c_hidden, atoms * bins, init="zero"),
        )
        self.atoms = atoms

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """[..., N, atoms, bins] from ``s`` [..., N, c_s]."""
        return super().forward(s).unflatten(-1, (self.atoms, -1))


class AlignedErrorHead(nn.Linear):
    """Logits of the aligned error's bins (Jumper et al. 2021, suppl. 1.9.7); ``losses/pae.py`` reads them."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__(c_z, bins)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """[B, N, N, bins] from ``z`` [B, N, N, c_z]: error of residue j seen from frame i, not symmetric."""
        return super().forward(z)


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
        self.lm_head = linear(c_s, AA_EMBEDDINGS) if config.heads.masked_lm else None
        self.trunk_adapters = nn.ModuleDict()
        self._adapted: dict[str, nn.Module] = {}

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
                which side chains to build; ``stem.MASKED`` for a residue that is not shown.
        """
        shown = aatype if shown_aatype is None else shown_aatype
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stem_trains):
            hidden = self.stem(shown, mask)  # [B, N, L+1, E]
        weights = torch.softmax(self.esm_s_combine, dim=0)
        single = self.esm_s_mlp(torch.einsum("l,bnle->bne", weights, hidden)) + self.embedding(shown)
        if self.config.trunk.absolute_positions:
            single = single + sinusoidal_positions(residue_index, single.shape[-1]).to(single.dtype)
        batch, n, _ = single.shape
        pair = single.new_zeros(()).expand(batch, n, n, self.config.trunk.c_z)  # as ESMFold: zeros, of no memory
        single, pair, structure = self.trunk(single, pair, aatype, residue_index, mask, num_recycles)
        atom = 0 if self.lddt_head.atoms == 1 else 1  # atom37's C-alpha
        return FoldOutput(
            structure=structure,
            single=single,
            pair=pair,
            distogram_logits=self.distogram_head(pair),
            plddt_logits=self.lddt_head(structure.states[-1])[..., atom, :],
            pae_logits=None if self.ptm_head is None else self.ptm_head(pair),
            masked_lm_logits=None if self.lm_head is None else self.lm_head(single),
            masked=None if self.lm_head is None else shown == MASKED,
        )

    def set_trainable(self) -> None:
        """Attach the adapters of the configuration and set ``requires_grad`` of every parameter; once.

        Raises ConfigError where an adapter does not fit.
        """
        seed = self.config.training.seed
        self.stem.requires_grad_(False)
        for head, weight in ((self.ptm_head, self.config.loss.pae), (self.lm_head, self.config.loss.masked_lm)):
            if head is not None and not weight:
                head.requires_grad_(False)  # no loss term reaches it: it serves converted weights
        if self.config.adapter.method == "full":
            self.stem.esm.requires_grad_(True)
        elif self.config.adapter.method != "none":
            attach_to_stem(self.stem.esm, self.config.adapter, seed)
            self._adapted["stem"] = self.stem.esm
        if self.config.trunk_adapter.method == "full":
            return
        for part, _, parameter in self.named_parts():
            if part in ("stem to trunk", "trunk"):
                parameter.requires_grad_(False)
        if self.config.trunk_adapter.method != "none":
            views = attach_to_trunk(self.trunk, self.config.trunk_adapter, seed)
            self._adapted |= views
            for name, view in views.items():
                self.trunk_adapters[name] = lorta.adapter_set(view)

    @property
    def stem_trains(self) -> bool:
        """Whether anything inside the stem, adapter included, has a gradient."""
        return any(parameter.requires_grad for parameter in self.stem.parameters())

    def named_parts(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """(part, name, parameter) of every parameter; the parts are those of ``PARTS``."""
        adapter = {id(p) for p in self.adapter_parameters()}
        for name, parameter in self.named_parameters():
            if id(parameter) in adapter:
                part = "trunk adapter" if name.startswith("trunk_adapters.") else "adapter"
            elif name.startswith("stem."):
                part = "stem"
            elif name.startswith("trunk.structure_module.") or name.startswith("trunk.trunk2sm"):
                part = "structure module"
            elif name.startswith(("distogram_head.", "lddt_head.", "ptm_head.", "lm_head.")):
                part = "heads"
            elif name.startswith("trunk."):
                part = "trunk"
            else:
                part = "stem to trunk"
            yield part, name, parameter

    def adapter_parameters(self) -> list[nn.Parameter]:
        """All numbers of the adapters, those that a method keeps fixed included; empty without one."""
        return [parameter for adapter in self.adapters().values() for parameter in adapter.parameters()]

    def adapters(self) -> dict[str, lorta.Adapter]:
        """The adapters by what they are on: ``stem``, and of the trunk ``sequence`` and ``triangle`` attention."""
        return {name: lorta.adapter_set(root)["default"] for name, root in self._adapted.items()}

    def adapted(self) -> dict[str, nn.Module]:
        """The modules that ``lorta``'s functions take for these adapters, by the same names."""
        return dict(self._adapted)

    def merged(self) -> AbstractContextManager[None]:
        """Within the block all adapters are in the weights. ValueError for an adapter that cannot be merged."""
        return merged(list(self._adapted.values()))

    def merge_adapters(self) -> None:
        """Put all adapters into the weights for good. ValueError for one that cannot be merged, with what it is on."""
        for name, root in self._adapted.items():
            try:
                lorta.merge(root)
            except ValueError as error:
                raise ValueError(f"the adapter on {name}: {error}") from error
        for root in self._adapted.values():
            lorta.detach(root)
        self.trunk_adapters.clear()
        self._adapted.clear()

    @property
    def adapter(self) -> lorta.Adapter | None:
        """The adapter on the stem, if there is one."""
        return self.adapters().get("stem")


def sinusoidal_positions(index: torch.Tensor, channels: int) -> torch.Tensor:
    """Sines and cosines of ``index`` [...] at geometrically spaced frequencies from 1 to 1e-4: [..., channels].

    Vaswani et al. 2017, section 3.5, all sines before all cosines.
    """
    half = (channels + 1) // 2
    frequencies = torch.exp(torch.arange(half, device=index.device) * (-math.log(10_000.0) / half))
    angles = index[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :channels]


def build_model(config: RunConfig, base: Mapping[str, torch.Tensor] | None = None) -> FoldingModel:
    """The model of a run at step 0: weights loaded, adapters attached, ``requires_grad`` set.

    The initial weights depend on ``config.training.seed`` and ``base`` alone.

    Args:
        config: of the run.
        base: weights of the whole model in our layout (``folding/weights.py``), checked against ``config``; what it
            leaves out keeps its random values. None: the stem has the weights that ``config.stem`` says, the rest is
            random. ``pipeline.runs.directory.initial_model`` reads what ``config.init`` names.

    Raises:
        StemError: the stem's weights cannot be had.
        ConfigError: adapters that do not fit, or no alpha for one; ``config.init`` names weights and none are given.
    """
    if bool(config.init.weights) != (base is not None):
        raise ConfigError(
            f"configuration: init.weights = {config.init.weights!r}, and base weights were "
            f"{'not ' if base is None else ''}given"
        )
    seed = config.training.seed
    stem = build_stem(config.stem, seed) if base is None else build_stem(StemConfig(config.stem.name, "random"), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FoldingModel(config, stem)
    if base is not None:
        own = model.state_dict()
        model.load_state_dict({name: value for name, value in base.items() if name in own}, strict=False)
    model.set_trainable()
    return model
