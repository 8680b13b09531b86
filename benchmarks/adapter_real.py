"""Starts of LoRTA compared on real sentence pairs with a real encoder, against LoRA.

    python -m benchmarks.adapter_real --model DIR --data GLUE                       # STS-B, default start and LoRA
    python -m benchmarks.adapter_real --model DIR --data GLUE --task MRPC --steps 450 --arms lora balanced:32
    python -m benchmarks.adapter_real --model DIR --data GLUE --short --steps 150   # a screen, a minute per arm

DIR holds a BERT-like encoder of transformers with its tokenizer (all-MiniLM-L6-v2, for instance), GLUE the folders
STS-B and MRPC with train.tsv and dev.tsv. An arm is ``start[:rank[:learning rate]]``: ``lora``, or a start of
LoRTA. All arms share what follows: head and pooler train with the adapter, batch 16, AdamW without weight decay,
linear decay after 6 % of warm-up, gradients clipped at 1, learning rate 1e-3 for the head (and for every adapter
that names none; ``official`` takes 1e-2, the best of its rates). The score is Pearson's correlation (STS-B) or accuracy
(MRPC) on the whole dev set after the last step: no choice of checkpoint.

``--short`` takes pairs of at most 24 tokens, in training and scoring, with bfloat16 products: for choosing among many
settings, not for figures to report.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lorta

COLUMNS = {"STS-B": (-3, -2, -1), "MRPC": (3, 4, 0)}
"""First sentence, second sentence and label in a line of the file."""
SHORT = 24
Example = tuple[list[int], list[int], float]


def read_examples(task: str, part: Path, tokenizer: AutoTokenizer) -> list[Example]:
    """Token ids, token types and label of every line."""
    lines = [line.split("\t") for line in part.read_text(encoding="utf-8-sig").splitlines()]
    first, second, label = COLUMNS[task]
    rows = [row for row in lines[1:] if len(row) == len(lines[0])]
    encoded = tokenizer([row[first] for row in rows], [row[second] for row in rows], truncation=True, max_length=128)
    types = encoded.get("token_type_ids") or [[0] * len(ids) for ids in encoded["input_ids"]]
    return [(ids, kinds, float(row[label])) for ids, kinds, row in zip(encoded["input_ids"], types, rows, strict=True)]


def collate(examples: list[Example], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """A batch padded to its longest pair, and the labels."""
    length = max(len(ids) for ids, _, _ in examples)
    batch = {
        "input_ids": [ids + [pad] * (length - len(ids)) for ids, _, _ in examples],
        "token_type_ids": [kinds + [0] * (length - len(kinds)) for _, kinds, _ in examples],
        "attention_mask": [[1] * len(ids) + [0] * (length - len(ids)) for ids, _, _ in examples],
    }
    return {name: torch.tensor(rows) for name, rows in batch.items()}, torch.tensor([label for *_, label in examples])


def adapt(model: nn.Module, arm: str, seed: int) -> tuple[lorta.Adapter, float]:
    """Attach what ``arm`` names; the adapter and its learning rate."""
    start, rank, rate = (*arm.split(":"), "", "")[:3]
    settings = {"method": "lora"} if start == "lora" else {"init": start}
    adapter = lorta.attach(model, r=int(rank or 8), seed=seed, **settings)
    return adapter, float(rate or (1e-2 if start == "official" else 1e-3))


def train(options: argparse.Namespace, arm: str, seed: int, data: dict[str, list[Example]]) -> dict:
    """One arm with one seed: its score, the mean loss in fifths of the training, and what it cost."""
    torch.manual_seed(seed)
    labels = 1 if options.task == "STS-B" else 2
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=labels)
    adapter, rate = adapt(model, arm, seed)
    head = [p for name, p in model.named_parameters() if "pooler" in name or name.startswith("classifier")]
    for parameter in head:
        parameter.requires_grad_(True)
    groups = [{"params": head, "lr": 1e-3}, {"params": list(adapter.factors().values()), "lr": rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    warm = max(1, round(0.06 * options.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (options.steps - step) / (options.steps - warm))
    )
    pad = model.config.pad_token_id
    order = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    losses, started = [], time.process_time()
    model.train()
    for _ in range(options.steps):
        if len(queue) < 16:
            queue = torch.randperm(len(data["train"]), generator=order).tolist()
        chosen, queue = queue[:16], queue[16:]
        logits, target = forward(model, [data["train"][i] for i in chosen], pad, options.short)
        if labels == 1:
            loss = functional.mse_loss(logits.squeeze(-1), target)
        else:
            loss = functional.cross_entropy(logits, target.long())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    fifth = max(1, options.steps // 5)
    return {
        "arm": arm,
        "seed": seed,
        "score": score(model, sorted(data["dev"], key=lambda example: len(example[0])), pad, options.short),
        "loss": [round(float(np.mean(losses[i : i + fifth])), 3) for i in range(0, options.steps, fifth)],
        "parameters": adapter.num_parameters(),
        "cpu_seconds": round(time.process_time() - started),
    }


def forward(model: nn.Module, examples: list[Example], pad: int, short: bool) -> tuple[Tensor, Tensor]:
    """Logits [batch, labels] in float32, and labels [batch]."""
    batch, target = collate(examples, pad)
    with torch.autocast("cpu", torch.bfloat16, enabled=short):
        return model(**batch).logits.float(), target


@torch.no_grad()
def score(model: nn.Module, examples: list[Example], pad: int, short: bool) -> float:
    """Pearson's correlation, or accuracy where there are classes."""
    model.eval()
    parts = [forward(model, examples[i : i + 64], pad, short) for i in range(0, len(examples), 64)]
    logits, target = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    if logits.shape[1] == 1:
        return float(np.corrcoef(logits[:, 0], target)[0, 1])
    return float((logits.argmax(axis=1) == target).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of the encoder and its tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="directory with the folders STS-B and MRPC")
    parser.add_argument("--task", choices=sorted(COLUMNS), default="STS-B")
    parser.add_argument("--arms", nargs="+", default=["lora", "balanced", "balanced:32", "official", "unit"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short", action="store_true", help="short pairs and bfloat16 products, see above")
    parser.add_argument("--out", type=Path, help="also write a line of JSON per training here, as each ends")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    folder = options.data / options.task
    data = {part: read_examples(options.task, folder / f"{part}.tsv", tokenizer) for part in ("train", "dev")}
    if options.short:
        data = {part: [row for row in rows if len(row[0]) <= SHORT] for part, rows in data.items()}
    print(f"{options.task}, {options.steps} steps, torch {torch.__version__}, {platform.machine()}")
    for arm in options.arms:
        scores = []
        for seed in options.seeds:
            row = train(options, arm, seed, data)
            scores.append(row["score"])
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"task": options.task, "steps": options.steps} | row) + "\n")
        text = "  ".join(f"{value:.3f}" for value in scores)
        print(f"{arm:<20}{row['parameters']:>9,}   {text}   mean {np.mean(scores):.3f}", flush=True)


if __name__ == "__main__":
    main()
