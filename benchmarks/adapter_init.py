"""Starts of LoRTA compared: size of the first step, how well a planted update is found, and each part of the default.

    python -m benchmarks.adapter_init                    # all tables, a few minutes on one core
    python -m benchmarks.adapter_init --only first-step  # seconds
    python -m benchmarks.adapter_init --only parts       # the default, and the default with one part of it changed
    python -m benchmarks.adapter_init --out results.json

First step: RMS of an element of dW after one Adam step of size 1e-3, for every start, rank and width, and the relative
change of a random network's output, for every depth. Adam moves each element of the zero factor by its step size
whatever the gradient, so the RMS needs no data; the change of the output does, and uses the gradient's own signs.

Recovery: a frozen random network and a copy with an update planted in it; an adapter on the first learns to give the
second's outputs (AdamW, warm-up, linear decay). Reported is the final loss over the first. ``cp``: the update is a CP
tensor of rank 4, which LoRTA of that rank holds exactly; ``independent``: rank 2 at every matrix by itself, which no
small CP tensor does. LoRA is run at rank 1, the nearest that it comes to LoRTA's parameters, and at the larger ranks.

Parts: recovery of independent updates from noisy targets at one learning rate, 1e-3, in a wider network, over seeds;
the default, the default with the other factor at zero, with signs in place of normal numbers, with larger elements.
Real data are in ``benchmarks.adapter_real``.
"""

import argparse
import copy
import json
import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import lorta
from lorta.cp import BALANCED

STARTS = {
    "balanced": {"init": "balanced"},
    "unit": {"init": "unit"},
    "official": {"init": "official"},
    "lora": {"method": "lora"},
}


class Block(nn.Module):
    """Attention and feed-forward, pre-norm."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (
            projection(y).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = x + self.o_proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.feed(self.norm2(x))


class Network(nn.Module):
    """Blocks and a norm; one module that an adapter can be registered at."""

    def __init__(self, width: int, num_heads: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def network(width: int, num_heads: int, depth: int) -> Network:
    """Seeded, frozen; weights 1.7 times torch's, so that attention is not uniform."""
    torch.manual_seed(0)
    model = Network(width, num_heads, depth).requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(1.7)
    return model


def first_step(width: int, num_heads: int, depth: int, rank: int, start: dict, eta: float = 1e-3) -> dict[str, float]:
    """RMS of dW over all sites, and the relative change of the output, after one Adam step on a squared error."""
    model = network(width, num_heads, depth)
    x = torch.randn(8, 16, width)
    before = model(x)
    adapter = lorta.attach(model, r=rank, seed=0, **start)
    (model(x) - torch.randn(before.shape)).square().mean().backward()
    with torch.no_grad():
        for name in adapter.zero_factors:
            factor = adapter.factors()[name]
            factor.sub_(eta * factor.grad.sign())
        squares = [adapter.update(site).dense().square().mean() for site in adapter.sites.values()]
        change = (model(x) - before).norm() / before.norm()
    return {"rms": torch.stack(squares).mean().sqrt().item(), "output_change": change.item()}


def planted(model: Network, kind: str) -> Network:
    """A copy of ``model`` with the update in it."""
    teacher = copy.deepcopy(model)
    settings = {"r": 4, "init": "unit"} if kind == "cp" else {"r": 2, "method": "lora"}
    adapter = lorta.attach(teacher, seed=9, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, factor in adapter.factors().items():
            thin = name.rpartition(".")[2] in ("A", "B")
            size = (2 if name.endswith("B") else 1) * model.width**-0.5 if thin else 1.0
            factor.copy_(torch.randn(factor.shape, generator=generator) * size)
    return teacher


def recover(model: Network, teacher: Network, settings: dict, lr: float, steps: int) -> tuple[float, int]:
    """Final loss over first loss (means of ten steps against the loss at the start), and the trainable numbers."""
    student = copy.deepcopy(model)
    adapter = lorta.attach(student, seed=0, **settings)
    losses = fit(student, teacher, adapter, lr, steps, seed=1)
    return sum(losses[-10:]) / 10 / losses[0], adapter.num_parameters()


def fit(
    student: Network, teacher: Network, adapter: lorta.Adapter, lr: float, steps: int, seed: int, noise: float = 0.0
) -> list[float]:
    """Train the adapter on the teacher's outputs plus normal noise; the losses."""
    optimizer = torch.optim.AdamW(adapter.factors().values(), lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / (steps // 15)) * (1 - step / steps)
        x = torch.randn(4, 12, student.width, generator=generator)
        with torch.no_grad():
            target = teacher(x)
        if noise:
            target = target + noise * torch.randn(target.shape, generator=generator)
        loss = (student(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


PARTS = {
    "balanced": {},
    "B at zero": {"zero": "B"},
    "signs": {"signs": True},
    "signs, B at zero": {"signs": True, "zero": "B"},
    "elements of 0.2": {"size": 0.2},
}


def redraw(adapter: lorta.Adapter, zero: str = "A", signs: bool = False, size: float = BALANCED) -> None:
    """Other initial factors in the place of ``balanced``'s; the size of the first step is kept."""
    factors = dict(adapter.tensors["all"].named_parameters())
    generator = torch.Generator().manual_seed(adapter.config.seed)
    with torch.no_grad():
        for name, factor in factors.items():
            noise = torch.randn(factor.shape, generator=generator)
            noise = noise.sign() if signs else noise / noise.square().mean(0).sqrt()
            factor.copy_(noise * size * (name != zero))
    adapter.tensors["all"].gain *= (BALANCED / size) ** (len(factors) - 1)


def table_of_parts(steps: int, seeds: int = 3, rate: float = 1e-3) -> list[dict]:
    """Final over first error on clean targets, after training on noisy ones, for the default and its changes."""
    model = network(96, 6, 4)
    teacher = planted(model, "independent")
    held_out = torch.randn(64, 12, model.width, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        truth = teacher(held_out)
        first = (model(held_out) - truth).square().mean()
    rows = []
    print(f"\n{'start':<18}final / first error, r = 8, learning rate {rate:g}, seeds 0 to {seeds - 1}")
    arms = {name: {"init": "balanced", "redraw": change} for name, change in PARTS.items()}
    for name, arm in (arms | {"unit": {"init": "unit"}, "lora": {"method": "lora"}}).items():
        ratios = []
        for seed in range(seeds):
            student = copy.deepcopy(model)
            settings = {key: value for key, value in arm.items() if key != "redraw"}
            adapter = lorta.attach(student, r=8, seed=seed, **settings)
            if arm.get("redraw"):
                redraw(adapter, **arm["redraw"])
            fit(student, teacher, adapter, rate, steps, seed, noise=1.0)
            with torch.no_grad():
                ratios.append(((student(held_out) - truth).square().mean() / first).item())
        rows.append({"start": name, "ratios": ratios})
        print(f"{name:<18}" + "  ".join(f"{ratio:.3f}" for ratio in ratios), flush=True)
    return rows


def table_of_first_steps() -> list[dict]:
    """Ranks at one shape, widths at one rank, depths at one rank."""
    cases = (
        [(64, 4, 3, rank) for rank in (1, 4, 16, 64)] + [(256, 8, 3, 8)] + [(64, 4, depth, 8) for depth in (2, 6, 12)]
    )
    rows = []
    print(f"{'width':>5}{'depth':>6}{'rank':>5}  start      RMS of dW  change of output")
    for width, heads, depth, rank in cases:
        for name, start in STARTS.items():
            row = first_step(width, heads, depth, rank, start)
            rows.append({"width": width, "depth": depth, "rank": rank, "start": name} | row)
            print(f"{width:>5}{depth:>6}{rank:>5}  {name:<10} {row['rms']:.2e}  {row['output_change']:.2e}")
    return rows


def table_of_recoveries(ranks: list[int], rates: list[float], depth: int, steps: int) -> list[dict]:
    """Every start at every rank and learning rate, for both planted updates."""
    width, heads = 32, 4
    model = network(width, heads, depth)
    rows = []
    print(
        f"\n{'planted':<12}{'start':<10}{'rank':>4}{'numbers':>9}   final / first loss at "
        + "  ".join(f"{r:g}" for r in rates)
    )
    for kind in ("cp", "independent"):
        teacher = planted(model, kind)
        for rank in ranks:
            for name, start in STARTS.items():
                own = 1 if name == "lora" and rank == min(ranks) else rank
                settings = {"r": own} | start
                results = [recover(model, teacher, settings, rate, steps) for rate in rates]
                ratios = {f"{rate:g}": ratio for rate, (ratio, _) in zip(rates, results, strict=True)}
                rows.append({"planted": kind, "start": name, "rank": own, "numbers": results[0][1], "ratios": ratios})
                text = "  ".join(f"{ratio:.3f}" for ratio in ratios.values())
                print(f"{kind:<12}{name:<10}{own:>4}{results[0][1]:>9,}   {text}", flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["first-step", "parts", "recovery"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "only")}
    result: dict = {"settings": settings | {"torch": torch.__version__, "machine": platform.machine()}}
    if options.only in (None, "first-step"):
        result["first_step"] = table_of_first_steps()
    if options.only in (None, "parts"):
        result["parts"] = table_of_parts(options.steps)
    if options.only in (None, "recovery"):
        result["recovery"] = table_of_recoveries(options.ranks, options.rates, options.depth, options.steps)
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
