"""Tokenizers: a model's own, or one trained on the training texts when there is none."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.config.bundled import bundled_text
from pipeline.lm.errors import InputError
from pipeline.lm.hub import named

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MASK = "<mask>"


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
