"""Configurations of the language-model stages; ``pipeline.config.layers`` resolves, checks and writes them.

Sections have the same fields in every stage. Defaults are for one small model on one machine; the presets
(``pipeline/lm/presets/*.toml``) are the LoRTA paper's.
"""

import tomllib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

import lorta
from lorta.config import ALL_ROLES
from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.config.schema import (
    ConfigError,
    Fraction,
    Momentum,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    Threads,
)

WITHOUT_ADAPTER = ("full", "head")
"""Values of ``adapter.method`` that train the model's own parameters."""

METHODS = (*WITHOUT_ADAPTER, *lorta.PEFT_METHODS)
"""Every value of ``adapter.method``."""

LEAST_VOCABULARY = 261
"""The bytes and the special tokens of a tokenizer that is trained on the spot."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""NumPy's generator takes no other."""

OWN_FIELDS = {"r": "rank", **{name: name for name in ("method", "alpha", "targets", "init", "dropout")}}
"""What ``adapter.settings`` cannot hold because it is a field beside it."""

OF_THE_STAGE = ("model", "task_type", "modules_to_save", "total_step")
"""What it cannot hold because the stage decides it."""


@dataclass(frozen=True)
class ModelSettings(Strict):
    """The base model."""

    name: str = ""
    """Hub name or local directory of a pretrained model."""
    init_config: str = ""
    """In place of a name: an untrained model of this configuration, a JSON file of transformers or one of tiny-llama,
    tiny-roberta."""
    tokenizer: str = ""
    """Hub name or directory; empty: the model's own, or, with init_config, one trained on the training texts."""
    vocabulary: Annotated[int, Field(ge=LEAST_VOCABULARY)] = 4096
    """Tokens of a tokenizer that is trained on the spot; fewer where the texts have fewer pairs to merge."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights; adapters stay float32."""
    four_bit: bool = False
    """Frozen weights in 4-bit NF4; needs bitsandbytes."""
    max_length: PositiveInt = 128
    """Tokens of an example; longer ones are cut."""


@dataclass(frozen=True)
class AdapterSettings(Strict):
    """How the model is adapted."""

    method: Literal[(*METHODS, "head-only")] = "lorta"  # type: ignore[valid-type]
    """A method of lorta or PEFT (docs/adapters.md), full (all parameters) or head, also head-only (the classifier)."""
    rank: NonNegativeInt = 0
    """0: the method's default (8)."""
    alpha: NonNegativeFloat = 0.0
    """Updates are scaled by alpha / rank; 0: the method's default."""
    targets: tuple[Literal[ALL_ROLES], ...] | Literal["all-linear"] = ()  # type: ignore[valid-type]
    """Matrices that are adapted, q k v o and up gate down, or all-linear; empty: the method's default (q k v o)."""
    init: str = ""
    """Start of the factors; empty: the method's default."""
    dropout: Fraction = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    """What only some methods have: modes, bases, tt_rank, size, drop (--adapter.settings.size 16)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", {"head-only": "head"}.get(self.method, self.method))
        for name in self.settings:
            if name in OWN_FIELDS:
                raise ValueError(f"adapter.settings.{name} would hide adapter.{OWN_FIELDS[name]}: give that")
            if name in OF_THE_STAGE:
                raise ValueError(f"adapter.settings.{name} is decided by the stage: leave it out")


@dataclass(frozen=True)
class OptimizerSettings(Strict):
    """AdamW."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate of the adapter (of everything with adapter.method = full)."""
    head_lr: NonNegativeFloat = 0.0
    """Peak learning rate of a classification head; 0: that of the adapter."""
    weight_decay: NonNegativeFloat = 0.0
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: NonNegativeFloat = 0.06
    """Below 1: share of all steps; from 1 on: steps."""
    clip_norm: NonNegativeFloat = 1.0
    """Gradient norm of a step; 0: not clipped."""


@dataclass(frozen=True)
class TrainingSettings(Strict):
    """The loop."""

    epochs: PositiveFloat = 1.0
    max_steps: NonNegativeInt = 0
    """Optimizer steps; 0: as many as the epochs have."""
    batch_size: PositiveInt = 16
    """Examples per optimizer step and process."""
    micro_batch: NonNegativeInt = 0
    """Examples per forward pass, a divisor of batch_size; 0: all of them."""
    group_by_length: bool = False
    """Batches of examples of about the same length, in random order: less padding to compute."""
    eval_batch_size: PositiveInt = 32
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations, which are also checkpoints; 0: after every epoch."""
    log_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 1
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    seed: Seed = 0
    device: str = "auto"
    """auto: cuda, else mps, else cpu."""
    cpu_threads: Threads = 0
    """Threads of torch's operators on a CPU; 0: as many as torch finds cores. Part of what makes runs repeatable."""

    def __post_init__(self) -> None:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"training.micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")


@dataclass(frozen=True)
class DataSettings(Strict):
    """Examples."""

    train: str = ""
    """File (JSON, JSONL, Parquet, TSV, CSV), directory with train.* in it, or hub name."""
    validation: str = ""
    """File of held-out examples; empty: the directory's or the hub's own, else a share of the training examples."""
    validation_fraction: Fraction = 0.1
    """That share; the split does not depend on the seed of training."""
    limit: NonNegativeInt = 0
    """Take only so many training examples, the first ones; 0: all."""
    validation_limit: NonNegativeInt = 0


@dataclass(frozen=True)
class PairDataSettings(DataSettings):
    """Preference pairs; the filters need the columns of argilla/distilabel-intel-orca-dpo-pairs."""

    drop_ties: bool = False
    """Leave out pairs whose ``status`` is ``tie``."""
    min_chosen_score: NonNegativeFloat = 0.0
    """Leave out pairs with a lower ``chosen_score``."""
    drop_gsm8k: bool = False
    """Leave out pairs marked ``in_gsm8k_train``."""


@dataclass(frozen=True)
class NluConfig(Strict):
    """Text classification and regression (GLUE)."""

    task: str = ""
    """cola, sst2, mrpc, stsb, qnli, rte (the paper's), qqp, mnli, wnli."""
    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True)
class SftConfig(Strict):
    """Instruction tuning."""

    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that the loss counts. The paper's code trained on all, prompts too."""
    model: ModelSettings = field(default_factory=lambda: ModelSettings(max_length=512))
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True)
class DpoConfig(Strict):
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference, which is the model without its adapter."""
    model: ModelSettings = field(default_factory=lambda: ModelSettings(max_length=512))
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=1e-4))
    data: PairDataSettings = field(default_factory=PairDataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


StageConfig = NluConfig | SftConfig | DpoConfig
STAGES: dict[str, type[StageConfig]] = {"nlu": NluConfig, "sft": SftConfig, "dpo": DpoConfig}


def preset_names() -> list[str]:
    """Names of the presets, of every stage."""
    return bundled_names("pipeline.lm", "presets", ".toml")


def _preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise ConfigError(f"preset {name!r} is unknown: one of {', '.join(preset_names())}")
    return tomllib.loads(bundled_text("pipeline.lm", "presets", f"{name}.toml"))


def preset_layer(name: str, stage: str, task: str = "") -> dict[str, Any]:
    """The values that a preset sets for a stage.

    A preset may have a table ``task.NAME`` per task, whose sections go over its own. Raises ConfigError: an unknown
    name, or a preset of another stage.
    """
    layer = _preset(name)
    if (own := layer.pop("stage")) != stage:
        raise ConfigError(f"preset {name!r} is one of pipeline.{own}, not of pipeline.{stage}")
    per_task = layer.pop("per_task", {})
    if per_task and task not in per_task:
        raise ConfigError(f"preset {name!r} has no values for task {task!r}: one of {', '.join(per_task)}")
    for section, values in per_task.get(task, {}).items():
        layer[section] = {**layer.get(section, {}), **values}
    return layer
