"""The model that answers, and a local model that judges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import lorta  # noqa: F401 - its tuner is registered with PEFT
from data_prep.files.checksums import sha256
from pipeline.lm.errors import InputError
from pipeline.lm.examples import Message
from pipeline.lm.hub import named
from pipeline.lm.models import check_causal, check_tokens
from pipeline.lm.mtbench.answers import chat_prompt, generate
from pipeline.lm.mtbench.judge import Judge
from pipeline.lm.run import LanguageRun
from pipeline.lm.tokenizer import ensure_chat_template, load_tokenizer

JUDGMENT_TOKENS = 2048


@dataclass(frozen=True)
class Subject:
    """What answers."""

    name: str
    base: str
    """Hub name or directory of the model."""
    adapter: str
    """Directory of its adapter; empty: none."""
    tokenizer: str
    prompt: str
    """``chat`` or ``alpaca``."""
    dtype: str = "float32"

    def settings(self) -> dict[str, Any]:
        """What decides its answers, as kept with each of them: a run that was trained again has another adapter."""
        weights = Path(self.adapter or self.base) / "adapter_model.safetensors"
        checksum = sha256(weights) if weights.is_file() else ""
        return {"model": self.base, "adapter": self.adapter, "adapter_sha256": checksum, "prompt": self.prompt}


def subject(run: Path | None, model: str | None, adapter: Path | None, prompt: str | None) -> Subject:
    """The model of a run, or a model with perhaps an adapter. Raises InputError."""
    if run is None:
        if adapter is not None and not (adapter / "adapter_config.json").is_file():
            raise InputError(f"{adapter}: not the directory of an adapter: it has no adapter_config.json")
        folder = str(adapter) if adapter and (adapter / "tokenizer_config.json").is_file() else model
        name = Path(model).name or Path(model).resolve().name  # of "." too
        return Subject(name, model, str(adapter or ""), folder, prompt or "chat")
    directory = LanguageRun(run)
    if not directory.results_file.is_file():
        raise InputError(f"{run}: not a complete run of pipeline.sft or pipeline.dpo: it has no results.json")
    results = directory.results()
    if results["stage"] not in ("sft", "dpo"):
        raise InputError(f"{run}: a run of pipeline.{results['stage']}, which writes no text")
    whole = directory.model.is_dir()
    place = directory.model if whole else directory.adapter
    try:
        dtype = directory.settings()["model"]["dtype"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory.config_file}: damaged: it has no model.dtype") from error
    base = str(directory.base) if directory.base.is_dir() else results["base"]  # the run may have been moved
    return Subject(
        run.resolve().name, str(place) if whole else base, "" if whole else str(place), str(place),
        prompt or results["prompt"], dtype,
    )  # fmt: skip


def load_for_chat(about: Subject, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model with its adapter, and tokenizer with a chat template. Raises InputError."""
    tokenizer = load_tokenizer(about.tokenizer)
    ensure_chat_template(tokenizer)
    with named(about.base, "model"):
        model = AutoModelForCausalLM.from_pretrained(about.base, dtype=about.dtype, trust_remote_code=False)
    check_causal(model, about.base)
    check_tokens(model, tokenizer)
    if about.adapter:
        with named(about.adapter, "adapter"):
            model = PeftModel.from_pretrained(model, about.adapter)
    return model.to(device).eval(), tokenizer


def local_judge(name: str, device: torch.device) -> Judge:
    """A chat model on this machine as judge. Raises InputError."""
    model, tokenizer = load_for_chat(Subject(name, name, "", name, "chat", "auto"), device)

    def judge(system: str, prompt: str) -> str:
        messages: list[Message] = [{"role": "user", "content": f"{system}\n\n{prompt}" if system else prompt}]
        text = chat_prompt(tokenizer, messages, "chat")
        return generate(model, tokenizer, text, temperature=0.0, max_new_tokens=JUDGMENT_TOKENS)[0]

    return judge
