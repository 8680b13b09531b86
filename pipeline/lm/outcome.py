"""What a run leaves behind: the adapter or the model, its plain LoRA, the model card, ``results.json``."""

import json
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import peft
from rich.console import Console
from transformers import PreTrainedTokenizerBase, Trainer

import lorta
from data_prep.structure.structure_bytes import atomic_write
from pipeline.lm.adapters import ParameterCount, export_as_lora
from pipeline.lm.card import model_card
from pipeline.lm.engine import best_row, run_trainer
from pipeline.lm.run import LanguageRun
from pipeline.lm.settings import StageConfig

PACKAGES = ("lorta-fold", "torch", "transformers", "peft", "trl")
"""Those whose versions a run states."""

UNTRAINED = "The base model was untrained: it knew nothing of language before, and nothing but these examples since."


def train_and_write(
    trainer: Trainer,
    config: StageConfig,
    run: LanguageRun,
    console: Console,
    *,
    stage: str,
    metric: str,
    greater: bool,
    counts: ParameterCount,
    adapter: peft.PeftConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    export_lora: bool,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Train, write everything, ``results.json`` last; returns what is in it.

    Args:
        trainer: ready; a causal model's (metric ``loss``) is evaluated before the first step too.
        config: resolved.
        run: its directory.
        console: where progress goes.
        stage: ``nlu``, ``sft`` or ``dpo``.
        metric: name of the column that decides which evaluation is the best.
        greater: whether more of it is better.
        counts: parameters.
        adapter: PEFT's config, if there is an adapter.
        tokenizer: saved beside the adapter or model.
        export_lora: write the adapter as plain LoRA too.
        about: further entries of ``results.json``.

    Raises as ``run_trainer``.
    """
    begun = time.perf_counter()
    rows = run_trainer(trainer, config, run, console, metric=metric, greater=greater, at_start=stage != "nlu")
    seconds = time.perf_counter() - begun
    saved = run.model if adapter is None else run.adapter
    trainer.model.save_pretrained(str(saved))
    tokenizer.save_pretrained(str(saved))
    if export_lora:
        export_as_lora(trainer.model, run.adapter, run.lora)
    result = {
        "stage": stage,
        "model": config.model.name or f"{config.model.init_config} (untrained)",
        "method": config.adapter.method,
        "rank": config.adapter.rank,
        "seed": config.training.seed,
        "metric": metric,
        "greater_is_better": greater,
        "best": best_row(rows, metric, greater),
        "first": rows[0],
        "last": rows[-1],
        "parameters": asdict(counts),
        "train_seconds": round(seconds, 1),
        "versions": {name: version(name) for name in PACKAGES},
        "needs_lorta": isinstance(adapter, (lorta.LortaConfig, lorta.OutputAdapterConfig)),
        **about,
    }
    card = model_card(config, result, [UNTRAINED] if config.model.init_config else [])
    atomic_write(run.card, card.encode())
    atomic_write(run.results_file, (json.dumps(result, indent=1) + "\n").encode())
    return result
