"""ESM-2 as the stem runs it, against fair-esm's own and transformers' ``EsmModel``: same weights, one process.

    python -m benchmarks.stem                                             # 8M and 35M shapes, random weights
    python -m benchmarks.stem --models esm2_t6_8M --weights DIR_OR_FILE   # published weights
    python -m benchmarks.stem --lengths 128 --batches 4 --padded          # one of the four chains half as long

All three take turns and CPU time is measured, so that other work on the machine falls on all alike; the ratios are
medians over rounds. They compute all hidden states; with ``--passes training`` also the gradients of all weights.
Before anything is timed all hidden states must agree within 1e-5 of their largest value. ``kept MB`` is what autograd
keeps for the backward pass beside the weights.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from pipeline.config.schema import StemConfig
from pipeline.folding.esm2_weights import ESM2_SHAPES, SHARED_FREQUENCIES, name_to_hugging_face
from pipeline.folding.stem import Stem, build_stem

CLOSE = 1e-5
RIVALS = ("fair-esm", "transformers")
Call = Callable[[Tensor, Tensor], Tensor]
"""Hidden states [B, N, L + 1, E] of aatype and mask [B, N]."""


def tokens_of(stem: Stem, aatype: Tensor, mask: Tensor) -> Tensor:
    tokens = torch.full((len(aatype), aatype.shape[1] + 2), stem.esm.padding_idx)
    tokens[:, 0] = stem.esm.cls_idx
    tokens[:, 1:-1] = torch.where(mask.bool(), stem.aatype_to_token[aatype], stem.esm.padding_idx)
    tokens[torch.arange(len(aatype)), mask.sum(dim=1).long() + 1] = stem.esm.eos_idx
    return tokens


def fair_esm(stem: Stem) -> tuple[nn.Module, Call]:
    layers, width, heads = ESM2_SHAPES[stem.name]
    model = ESM2(layers, width, heads, alphabet=Alphabet.from_architecture("ESM-1b"), token_dropout=True)
    model.lm_head = nn.Identity()
    model.load_state_dict(stem.esm.state_dict(), strict=False)

    def call(aatype: Tensor, mask: Tensor) -> Tensor:
        hidden = model(tokens_of(stem, aatype, mask), repr_layers=range(layers + 1))["representations"]
        return torch.stack([hidden[i] for i in range(layers + 1)], dim=2)[:, 1:-1]

    return model, call


def in_transformers(stem: Stem) -> tuple[nn.Module, Call]:
    layers, width, heads = ESM2_SHAPES[stem.name]
    config = EsmConfig(
        vocab_size=33, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5, mask_token_id=32,
        pad_token_id=1, attn_implementation="sdpa",
    )  # fmt: skip
    model = EsmModel(config, add_pooling_layer=False)
    state, own = {}, model.state_dict()
    for name, value in stem.esm.state_dict().items():
        if name.endswith("rot_emb.inv_freq"):
            layer = name.split(".")[1]
            state |= {f"encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq": value}
            state |= {SHARED_FREQUENCIES: value}
        elif (theirs := name_to_hugging_face(name)) is not None:
            state[theirs] = value
    missing = model.load_state_dict({n: v for n, v in state.items() if n in own}, strict=False).missing_keys
    assert all("position" in name or "contact" in name or "inv_freq" in name for name in missing), missing

    def call(aatype: Tensor, mask: Tensor) -> Tensor:
        tokens = tokens_of(stem, aatype, mask)
        there = None if bool(mask.all()) else tokens.ne(1).long()
        hidden = model(tokens, attention_mask=there, output_hidden_states=True).hidden_states
        return torch.stack(hidden, dim=2)[:, 1:-1]

    return model, call


def kept(call: Callable[[], Tensor], model: nn.Module) -> float:
    """Megabytes that autograd keeps beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        held.append(storage)  # so that no later tensor gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(found.values()) / 2**20


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(ESM2_SHAPES), default=["esm2_t6_8M", "esm2_t12_35M"])
    parser.add_argument("--weights", default="", help="of the one model (default: random ones)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--padded", action="store_true", help="half of the last chain is padding")
    parser.add_argument("--passes", nargs="+", choices=["forward", "training"], default=["forward", "training"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    print(
        f"{'model':<14}{'residues':>9}{'batch':>6} {'pass':<9}{'ours ms':>9}   times as long, and kept MB: "
        + ", ".join(RIVALS)
    )
    for name in options.models:
        source = StemConfig(name, "pretrained", options.weights) if options.weights else StemConfig(name, "random")
        stem = build_stem(source, 0).eval()
        models = {"ours": (stem, stem), "fair-esm": fair_esm(stem), "transformers": in_transformers(stem)}
        for length in options.lengths:
            for batch in options.batches:
                generator = torch.Generator().manual_seed(length)
                aatype, mask = torch.randint(0, 20, (batch, length), generator=generator), torch.ones(batch, length)
                if options.padded:
                    mask[-1, length // 2 :] = 0
                for kind in options.passes:
                    row = measure(models, aatype, mask, kind, options.rounds)
                    rows.append({"model": name, "length": length, "batch": batch, "pass": kind} | row)
                    times = ", ".join(f"{row['times'][rival]:.2f} ({row['kept_mb'][rival]:.0f})" for rival in RIVALS)
                    own = f"{1000 * row['seconds']:>9.1f} ({row['kept_mb']['ours']:.0f})"
                    print(f"{name:<14}{length:>9}{batch:>6} {kind:<9}{own}   {times}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def measure(models: dict[str, tuple[nn.Module, Call]], aatype: Tensor, mask: Tensor, kind: str, rounds: int) -> dict:
    """Seconds of ours, how many times as long the others take, megabytes kept. SystemExit where they disagree."""
    with torch.no_grad():
        hidden = {name: call(aatype, mask)[mask.bool()] for name, (_, call) in models.items()}
    largest = hidden["fair-esm"].abs().max()
    differ = {name: float((states - hidden["fair-esm"]).abs().max() / largest) for name, states in hidden.items()}
    if max(differ.values()) > CLOSE:
        raise SystemExit(f"hidden states differ from fair-esm's, relative to the largest: {differ}")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    memory = {}
    for turn in range(rounds):
        for name in list(models)[:: -1 if turn % 2 else 1]:
            model, call = models[name]
            start = time.process_time()
            if kind == "forward":
                with torch.no_grad():
                    call(aatype, mask)
            else:
                model.zero_grad()
                call(aatype, mask)[mask.bool()].square().mean().backward()
            seconds[name].append(time.process_time() - start)
    for name, (model, call) in models.items():
        memory[name] = kept(lambda call=call: call(aatype, mask), model) if kind == "training" else 0.0
    ratios = {n: statistics.median(a / b for a, b in zip(seconds[n], seconds["ours"], strict=True)) for n in RIVALS}
    return {"seconds": statistics.median(seconds["ours"]), "times": ratios, "kept_mb": memory, "differ": differ}


if __name__ == "__main__":
    main()
