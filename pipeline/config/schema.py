"""What decides a run, as frozen dataclasses with checked fields; ``layers`` makes them from files and options.

An unknown field, a wrong type or a value out of range is an error that names the field.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

import lorta
import lorta.config
from data_prep.files.errors import UserError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_THREADS = 1024
"""A hundred thousand end the process in the threads' own library."""
Threads = Annotated[int, Field(ge=0, le=MAX_THREADS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
DropoutRate = Annotated[float, Field(ge=0, lt=0.5)]

ADAPTER_METHODS = ("none", "full", *lorta.METHODS)
"""What ``adapter.method`` can be."""
TRUNK_METHODS = ("none", "full", *lorta.config.WEIGHT_METHODS)
"""What ``trunk_adapter.method`` can be: the trunk's fused operations take updates of weights, not inserted modules."""


class ConfigError(UserError):
    """A configuration that cannot be used; the message is one line that names the field."""


class Strict:
    """Unknown keys are errors, and "3" is not a number."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class StemConfig(Strict):
    """The protein language model."""

    name: str = "esm2_t12_35M"
    """ESM-2 name, with or without ``_UR50D``; or ``esm2_t3_demo``, a small one that exists only untrained."""
    init: Literal["pretrained", "random"] = "pretrained"
    """What the weights were before anything here trained them. That of a model to start from is the model's own."""
    weights: str = ""
    """Pretrained weights: a local file or directory, or a name on Hugging Face's hub, facebook/esm2_t6_8M_UR50D, say;
    empty: torch's hub cache, Hugging Face's cache, then fair-esm's download."""

    def __post_init__(self) -> None:
        if self.init == "random" and self.weights:
            raise ValueError(
                f"stem.weights = {self.weights!r} (--esm-weights) are pretrained weights, and stem.init = 'random' "
                "(--esm-init random) is a stem without: leave one of them out"
            )


@dataclass(frozen=True)
class InitConfig(Strict):
    """A whole model to start from, instead of ESM-2 and a random trunk."""

    weights: str = ""
    """``esmfold_v1``, or a local file or directory: fair-esm's .pt, a Hugging Face EsmForProteinFolding, our
    .safetensors, or a run (its averaged weights, adapters merged). It decides stem.name, trunk.* and heads.*."""


@dataclass(frozen=True)
class AdapterConfig(Strict):
    """How the stem is adapted."""

    method: Literal[ADAPTER_METHODS] = "lorta"  # type: ignore[valid-type]
    """``none`` freezes the stem, ``full`` trains all of it; else a method of docs/adapters.md."""
    rank: PositiveInt = 8
    """Of the methods that have one."""
    alpha: PositiveFloat | Literal["default", "paper"] = "default"
    """Scale of the update, s = alpha / rank. ``default``: that of ``lorta``; ``paper``: Table 6 of the LoRTA paper."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of the method (docs/adapters.md), e.g. --adapter.settings.size 32 for a bottleneck,
    --adapter.settings.targets all-linear for the feed-forward beside the attention."""


@dataclass(frozen=True)
class TrunkAdapterConfig(Strict):
    """What trains of the trunk's blocks, its recycling and the way from the stem to it."""

    method: Literal[TRUNK_METHODS] = "full"  # type: ignore[valid-type]
    """``full`` trains all of it. ``none`` freezes it, and any other method adds an adapter of that kind to its
    attention; both are for a trunk that has learned already (init.weights). Structure module and heads train anyway."""
    rank: PositiveInt = 8
    alpha: PositiveFloat | Literal["default"] = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    """As adapter.settings; '["q", "k", "v", "o", "up", "down"]' as targets adapts the transitions too."""


@dataclass(frozen=True)
class StructureModuleConfig(Strict):
    """Shape of the structure module (Jumper et al. 2021, Algorithm 20)."""

    c_s: PositiveInt = 128
    c_z: PositiveInt = 32
    c_ipa: PositiveInt = 16
    c_resnet: PositiveInt = 128
    heads: PositiveInt = 8
    qk_points: PositiveInt = 4
    v_points: PositiveInt = 8
    blocks: PositiveInt = 8
    transition_layers: PositiveInt = 1
    resnet_blocks: PositiveInt = 2
    dropout: DropoutRate = 0.1
    trans_scale: PositiveFloat = 10.0
    """angstrom per internal unit of length."""


@dataclass(frozen=True)
class TrunkConfig(Strict):
    """Shape of the trunk."""

    blocks: PositiveInt = 4
    c_s: PositiveInt = 256
    c_z: PositiveInt = 32
    sequence_head_width: PositiveInt = 32
    pair_head_width: PositiveInt = 16
    pair_update: Literal["outer_product_mean", "product_difference"] = "outer_product_mean"
    """AlphaFold2's (the LoRTA paper's choice) or ESMFold's way from the single to the pair representation."""
    c_outer_product: PositiveInt = 32
    triangle_attention: bool = False
    """ESMFold has it. It is most of the time and memory of a block, and small sets learn without."""
    position_bins: PositiveInt = 32
    absolute_positions: bool = True
    """Add sines and cosines of the residue index to the single representation. ESMFold has relative positions only; a
    small trunk that learns from scratch has to be told where a residue is (docs/method.md)."""
    dropout: DropoutRate = 0.0
    """Of the single representation; rows and columns of the pair representation are dropped at twice the rate."""
    checkpoint_blocks: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    chunk_size: NonNegativeInt = 0
    """Rows of the pair representation to work on at a time; 0: as many as fit the processor's cache, which is the
    fastest on a CPU. Results are the same up to rounding."""
    structure_module: StructureModuleConfig = field(default_factory=StructureModuleConfig)


@dataclass(frozen=True)
class HeadsConfig(Strict):
    """Output heads."""

    distogram_bins: PositiveInt = 64
    plddt_hidden: PositiveInt = 128
    plddt_bins: PositiveInt = 50
    plddt_atoms: Literal[1, 37] = 1
    """Values per residue; ESMFold has one for each of atom37, of which the C-alpha's is trained and reported."""
    pae: bool = False
    """Predict the aligned error (PAE, pTM) as ESMFold does, up to 31 angstrom. It trains where loss.pae is not 0."""
    pae_bins: PositiveInt = 64
    masked_lm: bool = False
    """ESMFold's head that predicts residues which the model was not shown; see data.masked_residues, loss.masked_lm."""


@dataclass(frozen=True)
class LossConfig(Strict):
    """Weights of the loss terms (OpenFold's, initial training). A term of weight 0 may not be computed."""

    backbone_fape: NonNegativeFloat = 0.5
    sidechain_fape: NonNegativeFloat = 0.5
    supervised_chi: NonNegativeFloat = 1.0
    distogram: NonNegativeFloat = 0.3
    plddt: NonNegativeFloat = 0.01
    pae: NonNegativeFloat = 0.0
    """Of heads.pae; structures of a resolution worse than 3 angstrom are left out. OpenFold's fine-tuning: 0.1."""
    violation: NonNegativeFloat = 0.0
    """Broken peptide bonds, clashes, distorted residues. OpenFold's fine-tuning: 1.0."""
    ca_distance: NonNegativeFloat = 0.0
    """Of the distances between all alpha carbons: they say where residues belong before their frames are learned, which
    ends the plateau of FAPE early in a trunk that learns from scratch (docs/method.md)."""
    smooth_lddt: NonNegativeFloat = 0.0
    """Of a differentiable lDDT-Calpha (AlphaFold3, Algorithm 27): close pairs, whatever the whole looks like."""
    bonds: NonNegativeFloat = 0.0
    """Of the deviation of peptide bonds from their mean length and angles; violations have a wide tolerance there."""
    refine_from: Fraction = 0.0
    """Share of max_steps after which violation, smooth_lddt and bonds count: details are for a fold that is there."""
    masked_lm: NonNegativeFloat = 2.0
    """Where heads.masked_lm is on. OpenFold's weight of the masked MSA."""
    clamp_probability: Fraction = 0.1
    """Share of the samples whose backbone FAPE is clamped at 10 angstrom; drawn per sample. AlphaFold: 0.9. A trunk
    that learns from scratch on few chains gets going sooner when most are not clamped (docs/method.md)."""
    scale_by_length: bool = True
    """Multiply a sample's loss by the square root of its number of residues (suppl. 1.9.1)."""


@dataclass(frozen=True)
class OptimizerConfig(Strict):
    """Adam with AlphaFold's schedule (suppl. 1.11.3), shortened and ended by a cosine for small sets."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate of the trunk, of the structure module and of what leads from the stem to the trunk."""
    stem_lr: PositiveFloat = 1e-3
    """Peak learning rate of the adapter's factors (or of the whole stem with adapter.method = full)."""
    heads_lr: NonNegativeFloat = 0.0
    """Peak learning rate of the output heads; 0: that of lr."""
    weight_decay: NonNegativeFloat = 0.0
    """Of what lr is for; decoupled from the gradient (AdamW). AlphaFold has none."""
    stem_weight_decay: NonNegativeFloat = 0.0
    heads_weight_decay: NonNegativeFloat = 0.0
    eps: PositiveFloat = 1e-5
    beta1: Momentum = 0.9
    beta2: Momentum = 0.99
    """0.999 in AlphaFold2 and OpenFold; short runs follow their gradients sooner with less."""
    warmup_steps: NonNegativeInt = 200
    decay_after: NonNegativeInt = 50_000
    decay_every: PositiveInt = 50_000
    decay_factor: PositiveFloat = 0.95
    cosine_after: Fraction = 0.5
    """Share of max_steps after which the rate goes to zero along a cosine; 1: never, as AlphaFold."""
    clip: Literal["global", "sample"] = "global"
    """``global``: the norm of the gradient of the whole batch, as OpenFold; ``sample``: the norm of each sample's
    gradient before they are averaged, as AlphaFold2 (suppl. 1.11.3), which takes one backward pass per sample."""
    clip_norm: PositiveFloat = 0.1
    ema_decay: Fraction = 0.999
    """Exponential moving average of the weights, used for validation and prediction; 0: off."""
    ema_warmup: bool = True
    """Average over fewer steps at first, so that a short run is not dominated by its initial weights. AlphaFold2 and
    OpenFold do not."""


@dataclass(frozen=True)
class DataConfig(Strict):
    """What a training step sees."""

    crop_size: PositiveInt = 256
    initial_crop_size: NonNegativeInt = 0
    """Crops grow linearly from this size to crop_size: short ones teach local structure in cheap steps. While they are
    short a batch holds up to four times as many, for about the same number of residue pairs. 0: no growth."""
    crop_growth: Fraction = 0.5
    """Share of max_steps over which crops grow."""
    batch_size: PositiveInt = 1
    max_recycles: NonNegativeInt = 1
    """Recycles are drawn from 0..max per step; validation and prediction use max."""
    substitutions: Fraction = 0.0
    """Share of the residues that the stem and the residue embedding see as random others, drawn anew in each step. It
    keeps a model of few chains from learning them by heart. Targets and side chains stay those of the true sequence."""
    masked_residues: Fraction = 0.15
    """Where heads.masked_lm is on: share of the residues that training shows as <mask> and has predicted."""
    extra: str = ""
    """A second dataset, of predicted structures (prepared with --plddt-bfactor, so that residues of low confidence are
    masked), to draw extra_fraction of the samples from. They do not train the confidence head."""
    extra_fraction: Fraction = 0.75
    """ESMFold: 75% predicted, 25% from the PDB."""
    overfit: NonNegativeInt = 0
    """Train on the first so many training chains alone, and validate on them: can the model learn these at all?"""
    train_size: NonNegativeInt = 0
    """Train on so many of the training chains, drawn over their clusters: one of each before a second one of any. A
    smaller draw is a part of a larger one. 0: all."""
    train_draw: NonNegativeInt = 0
    """Which draw of train_size chains: another number draws others."""
    cluster_sampling: bool = True
    """Draw clusters with equal probability, then a chain of the cluster; False: chains with equal probability."""


@dataclass(frozen=True)
class TrainingConfig(Strict):
    """The loop."""

    max_steps: NonNegativeInt = 5_000
    validate_every: PositiveInt = 500
    validation_limit: NonNegativeInt = 20
    """Validation chains per round, spread over their clusters: one of each before a second one of any; 0: all."""
    checkpoint_every: PositiveInt = 500
    checkpoint_minutes: NonNegativeFloat = 10.0
    """A checkpoint, the report and the model card also when so many minutes have passed since the last; 0: by steps
    alone."""
    keep_checkpoints: PositiveInt = 2
    """The newest so many, and beside them the best round of validation."""
    seed: Seed = 0
    device: str = "auto"
    """``auto``: cuda, else mps, else cpu. Under torchrun each process takes the GPU of its local rank."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: stem, trunk blocks and heads under autocast; weights, structure module and losses stay float32."""
    micro_batch: NonNegativeInt = 0
    """Samples per forward pass of a process; gradients accumulate over the passes of a step. 0: all at once."""
    freeze: tuple[str, ...] = ()
    """Shell patterns of parameter names that do not train, e.g. ["trunk.blocks.0.*", "trunk.structure_module.*"]."""
    bad_step: Literal["stop", "skip"] = "stop"
    """What to do after a step whose loss or gradient is no number, or whose loss jumps: its batch is saved in
    RUN/bad_steps, then the run stops, or goes on without the step."""
    spike_factor: NonNegativeFloat = 0.0
    """A loss jumps if it is so many times the median of the last 100; 0: never."""
    panel: str = ""
    """A dataset whose chains, of every split, are folded before the first and after the last step: what a model that
    is trained further has forgotten. RUN/panel.csv has the scores."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Experiment trackers to send the rows of metrics.csv to as well, e.g. ["tensorboard"]; they write to RUN."""
    patience: NonNegativeInt = 0
    """Stop after so many rounds of validation in a row without a better mean lDDT-Calpha; 0: never."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes: weights copied to each (ddp) or sharded over them (fsdp2)."""
    compile: bool = False
    """Compile the blocks of the trunk with torch.compile."""
    deterministic: bool = False
    """Only operators that repeat to the bit on a GPU too (slower; an operator without such a form is an error)."""
    cpu_threads: Threads = 0
    """Threads of torch's operators on a CPU; 0: as many as torch finds cores. Part of what makes runs repeatable."""


@dataclass(frozen=True)
class RunConfig(Strict):
    """Everything that decides what a run computes.

    The defaults are for a few hundred structures and one GPU, and still run on a CPU; the presets ``paper`` and
    ``esmfold`` have the published shapes and recipes.
    """

    init: InitConfig = field(default_factory=InitConfig)
    stem: StemConfig = field(default_factory=StemConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    trunk_adapter: TrunkAdapterConfig = field(default_factory=TrunkAdapterConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for width, head, name in (
            (self.trunk.c_s, self.trunk.sequence_head_width, "trunk.c_s and trunk.sequence_head_width"),
            (self.trunk.c_z, self.trunk.pair_head_width, "trunk.c_z and trunk.pair_head_width"),
        ):
            if width % head:
                raise ValueError(f"{name}: {width} is not a multiple of {head}")
        for name, adapter in (("adapter", self.adapter), ("trunk_adapter", self.trunk_adapter)):
            try:
                adapter_settings(adapter, seed=None)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.trunk_adapter.method != "full" and not self.init.weights:
            raise ValueError(
                f"trunk_adapter.method = {self.trunk_adapter.method!r} keeps the trunk's weights as they are, and they "
                "are random: give init.weights (--init-from), or leave it at 'full'"
            )
        if self.loss.pae and not self.heads.pae:
            raise ValueError("loss.pae is not 0, but there is no head for it: set heads.pae = true (--heads.pae true)")
        if self.data.initial_crop_size > self.data.crop_size:
            sizes = f"{self.data.initial_crop_size} and data.crop_size {self.data.crop_size}"
            raise ValueError(f"data.initial_crop_size {sizes}: the first must not be larger")


def adapter_settings(
    config: AdapterConfig | TrunkAdapterConfig, *, seed: int | None, alpha: float | None = None
) -> lorta.LortaConfig | lorta.OutputAdapterConfig | None:
    """The settings of an adapter for ``lorta``; None where there is no adapter.

    Args:
        config: of the stem's or the trunk's adapter.
        seed: of the initial factors.
        alpha: in place of the configuration's.

    Raises:
        ValueError: settings that the method does not have or cannot take.
    """
    if config.method in ("none", "full"):
        if config.settings:
            raise ValueError(f"settings are those of an adapter, and method is {config.method!r}")
        return None
    settings: dict[str, Any] = {"method": config.method, "seed": seed, **config.settings}
    if config.method in lorta.config.WEIGHT_METHODS:
        settings["r"] = config.rank
        alpha = config.alpha if alpha is None and isinstance(config.alpha, float) else alpha
        if alpha is not None:
            settings["alpha"] = alpha
    elif config.alpha != "default":
        raise ValueError(f"alpha is not a setting of {config.method!r}")
    return lorta.config_for(**settings)
