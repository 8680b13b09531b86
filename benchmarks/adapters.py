"""What an adapter costs: forward and backward through the attention of an ESM-2, ratios against named rivals.

    python -m benchmarks.adapters                          # ESM-2 35M's shape, batch 4 x 256
    python -m benchmarks.adapters --layers 1 --rounds 40   # many short rounds: steadier on a busy machine
    python -m benchmarks.adapters --out results.json

All variants live in one process and take turns, and CPU time is measured, so that other work on the machine falls on
all alike; a variant's ratio is the median over rounds of its time to that of ``frozen`` in the same round. Rivals:

- ``frozen``: no adapter, but gradients with respect to activations; the floor for anything below the first layer.
- ``lorta-dense``: the same tensor by way of a dense dW = W + s KR diag(c) A^T in every forward, as the authors' code.
- ``lora``: this package's LoRA. ``peft-lora``, ``peft-dora``, ``peft-vera`` (rank 256): PEFT's, if it is installed.
- ``lorta-all``, ``lora-all``, ``peft-lora-all``: on the feed-forward too.
- ``full``: every weight trains.

``saved MB`` is what autograd keeps for the backward of one step, each storage once, without the model's own weights.
The second table has the size of the saved tensors and the time to save and to load (onto a fresh base; for ``lorta``
and ``lora`` with the check of every frozen weight).
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from esm.model.esm2 import ESM2
from torch import Tensor, nn
from torch.nn import functional

import lorta
from lorta.layer import AdaptedLinear


class DenseUpdate(nn.Module):
    """The rival formulation: reconstruct dW [out, in] and use W + dW as the weight."""

    def __init__(self, layer: AdaptedLinear):
        super().__init__()
        self.base_layer = layer.base_layer
        self.__dict__["layer"] = layer  # the adapter stays registered at the root alone

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base_layer.weight
        for adapter in self.layer.adapters.active_adapters():
            weight = weight + adapter.update(adapter.sites[self.layer.name]).dense()
        return functional.linear(x, weight, self.base_layer.bias)


def variants(base: nn.Module, rank: int) -> dict[str, nn.Module]:
    """Copies of ``base`` under each adapter, by name; factors are moved off zero so that no product is trivial."""

    def adapted(**settings) -> nn.Module:
        model = copy.deepcopy(base)
        adapter = lorta.attach(model, r=rank, seed=0, **settings)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn_like(parameter) * 1e-3)
        return model

    dense = adapted()
    for path, module in list(dense.named_modules()):
        if isinstance(module, AdaptedLinear):
            dense.set_submodule(path, DenseUpdate(module))
    models = {
        "frozen": copy.deepcopy(base).requires_grad_(False),
        "lorta": adapted(),
        "lora": adapted(method="lora"),
        "lorta-all": adapted(targets="all-linear"),
        "lora-all": adapted(method="lora", targets="all-linear"),
        "lorta-dense": dense,
        "full": copy.deepcopy(base),
    }
    return models | peft_rivals(base, rank)


TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


def peft_rivals(base: nn.Module, rank: int) -> dict[str, nn.Module]:
    """PEFT's LoRA, DoRA and VeRA on the same four matrices; none where PEFT is not installed."""
    try:
        from peft import LoraConfig, VeraConfig, get_peft_model
    except ImportError:
        print("PEFT is not installed: its rivals are left out")
        return {}
    configs = {
        "peft-lora": LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS),
        "peft-lora-all": LoraConfig(r=rank, lora_alpha=rank, target_modules=[*TARGETS, "fc1", "fc2"]),
        "peft-dora": LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, use_dora=True),
        "peft-vera": VeraConfig(r=256, target_modules=TARGETS, save_projection=True),
    }
    return {name: get_peft_model(copy.deepcopy(base), config) for name, config in configs.items()}


def saved_megabytes(model: nn.Module, call: Callable[[], None]) -> float:
    """Memory that autograd keeps between forward and backward, each storage once, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(sizes.values()) / 2**20


def files(base: nn.Module, models: dict[str, nn.Module], repeats: int = 3) -> dict[str, dict[str, float]]:
    """Bytes of the tensor file and seconds to save and to load it, best of ``repeats``."""
    rows = {}
    for name, model in models.items():
        if name not in ("lorta", "lora", "lorta-all") and not name.startswith("peft"):
            continue
        best: dict[str, float] = {}
        for _ in range(repeats):
            fresh = copy.deepcopy(base)
            with tempfile.TemporaryDirectory() as directory:
                times = [time.perf_counter()]
                if name.startswith("peft"):
                    from peft import PeftModel

                    model.save_pretrained(directory)
                    times.append(time.perf_counter())
                    PeftModel.from_pretrained(fresh, directory)
                else:
                    lorta.save(model, directory)
                    times.append(time.perf_counter())
                    lorta.load(fresh, directory)
                times.append(time.perf_counter())
                size = (Path(directory) / "adapter_model.safetensors").stat().st_size
            row = {"bytes": size, "save_s": times[1] - times[0], "load_s": times[2] - times[1]}
            best = {key: min(value, best.get(key, value)) for key, value in row.items()}
        rows[name] = best
    return rows


def step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """One forward and backward through all layers, from activations that need a gradient."""

    def call() -> None:
        hidden = x.detach().requires_grad_()
        for layer in model.layers:
            hidden, _ = layer(hidden)
        hidden.square().mean().backward()
        model.zero_grad(set_to_none=True)

    return call


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds per variant and round; the order turns by one from round to round."""
    calls = {name: step(model, x) for name, model in models.items()}
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    base = ESM2(options.layers, options.width, options.heads, alphabet="ESM-1b")
    base.contact_head, base.lm_head = nn.Identity(), nn.Identity()  # the layers alone are measured
    models = variants(base, options.rank)
    x = torch.randn(options.length, options.batch, options.width)
    seconds = measure(models, x, options.rounds)

    rows = {}
    for name, model in models.items():
        ratios = [own / floor for own, floor in zip(seconds[name], seconds["frozen"], strict=True)]
        rows[name] = {
            "seconds": statistics.median(seconds[name]),
            "ratio_to_frozen": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            "saved_mb": saved_megabytes(model, step(model, x)),
        }
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    result = {
        "settings": settings | {"torch": torch.__version__, "machine": platform.machine()},
        "variants": rows,
        "files": files(base, models),
    }
    print(f"{'variant':<12}{'median s':>10}{'/ frozen':>10}{'range':>16}{'trainable':>12}{'saved MB':>10}")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["ratio_to_frozen"]):
        low, high = row["ratio_range"]
        spread = f"{low:.3f}-{high:.3f}"
        text = f"{name:<12}{row['seconds']:>10.3f}{row['ratio_to_frozen']:>10.3f}{spread:>16}{row['trainable']:>12,}"
        print(f"{text}{row['saved_mb']:>10.1f}")
    print(f"\n{'saved':<12}{'bytes':>12}{'save s':>10}{'load s':>10}")
    for name, row in sorted(result["files"].items(), key=lambda item: item[1]["bytes"]):
        print(f"{name:<12}{row['bytes']:>12,}{row['save_s']:>10.3f}{row['load_s']:>10.3f}")
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
