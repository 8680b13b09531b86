"""Base models and tokenizers: by hub name, from a directory, or untrained from a configuration."""

import json
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data_prep.files.bounded_reading import read_json
from pipeline.config.bundled import bundled_names, bundled_text
from pipeline.config.schema import ConfigError
from pipeline.lm.errors import InputError, named, one_line
from pipeline.lm.settings import ModelSettings

POSITIONS = ("position_embeddings", "wpe")
"""Names of tables of learned positions: BERT, RoBERTa, ESM and relatives; GPT-2."""


SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MASK = "<mask>"
"""Special tokens of a tokenizer that is trained on the spot."""


def built_in_configs() -> list[str]:
    """Names that ``model.init_config`` takes besides files."""
    return bundled_names("pipeline.lm", "configs", ".json")


def _read_config(name: str) -> dict[str, Any]:
    if name in built_in_configs():
        return json.loads(bundled_text("pipeline.lm", "configs", f"{name}.json"))
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise InputError(f"model.init_config {name!r}: no such file, and not one of {', '.join(built_in_configs())}")
    try:
        values = read_json(path)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise InputError(f"{path}: not a configuration of transformers: it has no model_type")
    return values


def prepare_base(
    settings: ModelSettings, folder: Path, texts: Callable[[], Iterable[str]], *, classifier: bool, reuse: bool
) -> tuple[str, PreTrainedTokenizerBase]:
    """The place to load the base model from, and its tokenizer.

    With ``init_config`` that place is ``folder``, where the untrained model and its tokenizer are written, so that
    whatever is trained on it can be loaded again. Torch's global generator decides its weights.

    Args:
        settings: which model.
        folder: directory for an untrained one.
        texts: training texts, for a tokenizer that has to be trained.
        classifier: the model reads whole texts (an encoder's special tokens), else it continues them.
        reuse: take what is in ``folder``.

    Raises:
        ConfigError, InputError: one line.
    """
    if settings.four_bit and find_spec("bitsandbytes") is None:
        raise ConfigError("model.four_bit needs bitsandbytes, which is not installed: pip install bitsandbytes")
    if bool(settings.name) == bool(settings.init_config):
        raise ConfigError("give one of --model (a hub name or directory) and --init-config (an untrained model)")
    if settings.name:
        return settings.name, load_tokenizer(settings.tokenizer or settings.name)
    if reuse:
        return str(folder), load_tokenizer(str(folder))
    values = _read_config(settings.init_config)
    if settings.tokenizer:
        tokenizer = load_tokenizer(settings.tokenizer)
    else:
        tokenizer = train_tokenizer(texts(), settings.vocabulary, encoder=classifier)
    values |= {"vocab_size": len(tokenizer)}
    values |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        model = kind.from_config(config)
    except Exception as error:  # a wrong value ends in an exception of any class, wherever it is first used
        raise InputError(f"model.init_config {settings.init_config!r}: no model of it: {one_line(error)}") from error
    tokenizer.save_pretrained(folder)
    # The body alone: a head of another task must not be found here.
    (model.base_model if classifier else model).save_pretrained(folder)
    return str(folder), tokenizer


def _loading_options(settings: ModelSettings) -> dict[str, Any]:
    # Not left out: where a model comes with code, transformers would ask at the terminal whether to run it.
    options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype), "trust_remote_code": False}
    if settings.four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    return options


def load_classifier(
    settings: ModelSettings, place: str, tokenizer: PreTrainedTokenizerBase, labels: int
) -> PreTrainedModel:
    """The model with a new classification head of ``labels`` outputs (1: regression). Raises InputError."""
    with named(place, "model"):
        model = AutoModelForSequenceClassification.from_pretrained(
            place,
            num_labels=labels,
            problem_type="regression" if labels == 1 else "single_label_classification",
            **_loading_options(settings),
        )
    check_tokens(model, tokenizer)
    _check_positions(model, settings.max_length)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def load_causal_lm(settings: ModelSettings, place: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The language model. Raises InputError."""
    with named(place, "model"):
        model = AutoModelForCausalLM.from_pretrained(place, **_loading_options(settings))
    check_causal(model, place)
    check_tokens(model, tokenizer)
    _check_positions(model, settings.max_length)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def check_causal(model: PreTrainedModel, place: str) -> None:
    """Raise InputError for an encoder: transformers loads it as a language model, which sees what it should predict."""
    encoder = type(model.config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model.config, "is_decoder", True)
    if encoder:
        raise InputError(f"{place}: a {model.config.model_type} encoder reads both ways: it cannot continue a text")


def check_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for a tokenizer with more tokens than the model embeds: it is another model's."""
    embedded: Any = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embedded:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens and the model {embedded}: it is another model's")


def _check_positions(model: PreTrainedModel, max_length: int) -> None:
    """Raise InputError for texts longer than the learned positions of the model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(POSITIONS):
            # RoBERTa and its like count positions from behind that of the padding
            longest = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            if max_length > longest:
                raise InputError(f"model.max_length {max_length}: this model reads {longest} tokens at most")


def head_modules(model: PreTrainedModel) -> list[str]:
    """Paths of the modules that belong to a classification head: all beside the body, and the body's pooler."""
    prefix = model.base_model_prefix
    heads = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    pooler = getattr(getattr(model, prefix), "pooler", None)
    return [f"{prefix}.pooler", *heads] if isinstance(pooler, nn.Module) else heads


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or directory, with something to pad with. Raises InputError."""
    with named(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(f"{name}: its tokenizer has no pad, eos or unk token: set one in its configuration")
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, encoder: bool) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the texts.

    Args:
        texts: what it is trained on.
        vocabulary: tokens, special ones included, at least ``settings.LEAST_VOCABULARY``.
        encoder: sequences are ``<s> a </s></s> b </s>`` as RoBERTa's; else ``<s> a`` as Llama's.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), MASK]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if encoder else "<s> $A",
        pair="<s> $A </s> </s> $B </s>" if encoder else "<s> $A $B",
        special_tokens=[(token, bpe.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    extra = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": MASK} if encoder else {}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **SPECIAL, **extra)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the tokenizer a plain chat template when it has none; returns whether it had to."""
    if tokenizer.chat_template is not None:
        return False
    tokenizer.chat_template = bundled_text("pipeline.lm", "chat.jinja")
    return True
