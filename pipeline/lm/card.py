"""The model card of a run: front matter that the hub reads, what was trained, on what, how well."""

import json
from typing import Any

from pipeline.config.layers import to_toml
from pipeline.lm.settings import StageConfig

TITLES = {"nlu": "text classification", "sft": "instruction tuning", "dpo": "preference optimisation"}


def model_card(config: StageConfig, result: dict[str, Any], notes: list[str]) -> str:
    """README.md of a run.

    Args:
        config: resolved.
        result: as in ``results.json``.
        notes: what a reader has to know about limits, a line each.
    """
    stage, counts, adapter = result["stage"], result["parameters"], config.adapter
    base = result["base"]
    front = {
        "library_name": "transformers" if adapter.method in ("full", "head") else "peft",
        "base_model": base,
        "tags": [stage, adapter.method],
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [f"# {adapter.method} on {base}: {TITLES[stage]}", ""]
    lines += [
        f"* Trainable: {counts['adapter']:,} parameters of the adapter, {counts['head']:,} of the head, of a model of "
        f"{counts['total']:,}.",
        f"* Data: {result['data']} ({result['train_examples']:,} training, {result['validation_examples']:,} "
        "held-out examples).",
    ]
    for kind in ("best", "last"):
        step, value = result[kind]["step"], result[kind][result["metric"]]
        lines.append(f"* {kind.capitalize()} evaluation, step {step}: {result['metric']} {value:.4f}.")
    lines += ["", "The best evaluation is chosen on the same examples that it is measured on, so it is optimistic.", ""]
    if front["library_name"] == "peft":
        needs = "import lorta  # registers the tuner with PEFT" if result["needs_lorta"] else ""
        kind = "AutoModelForSequenceClassification" if stage == "nlu" else "AutoModelForCausalLM"
        labels = f", num_labels={result['labels']}" if stage == "nlu" else ""
        code = [
            "    " + line
            for line in (
                f"from transformers import {kind}",
                "from peft import PeftModel",
                needs,
                f"base = {kind}.from_pretrained({base!r}{labels})",
                'model = PeftModel.from_pretrained(base, "adapter")',
            )
            if line
        ]
        lines += ["## Use", "", *code, ""]
    if notes:
        lines += ["## Limits", "", *(f"* {note}" for note in notes), ""]
    lines += ["## Configuration", "", *("    " + line if line else "" for line in to_toml(config).splitlines()), ""]
    lines += ["Versions: " + ", ".join(f"{name} {number}" for name, number in result["versions"].items()) + ".", ""]
    return "\n".join(lines)
