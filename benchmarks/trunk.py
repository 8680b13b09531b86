"""The trunk's blocks against transformers' port of ESMFold, same weights, in one process.

    python -m benchmarks.trunk                                  # ESMFold's widths, one block, 64 and 128 residues
    python -m benchmarks.trunk --lengths 256 --rounds 5         # 3.3 GB
    python -m benchmarks.trunk --chunk-size 128                 # the port as its configuration ships
    python -m benchmarks.trunk --out results.json

Both take turns, and CPU time is measured, so that other work on the machine falls on both alike; the speed-up is the
median over rounds of the port's time to ours in the same round. Before anything is timed, outputs and gradients of
both must agree. ``share`` is the time that the operation counts of our own matrix products would take at the rate of a
large matrix product on this machine, to the time taken: how near to the floor we are. ``saved MB`` is what autograd
keeps for the backward pass. The port attends over all rows at once unless --chunk-size is given.

Allocation is much of the time of large pair representations: MALLOC_* variables of the environment are in the JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.adapters import saved_megabytes
from pipeline.config import TrunkConfig
from pipeline.folding.trunk import TrunkBlock

Inputs = tuple[Tensor, Tensor, Tensor]
"""s [1, N, c_s], z [1, N, N, c_z] and residue mask [1, N]."""


class Blocks(nn.Module):
    """Several blocks in a row, ours or the port's."""

    def __init__(self, blocks: list[nn.Module], **options: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.options = options

    def forward(self, s: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            s, z = block(s, z, mask=mask, **self.options)
        return s, z


def pair_of_models(config: TrunkConfig, chunk_size: int | None) -> dict[str, nn.Module]:
    """``ours`` and ``port`` with the same weights, all of them away from zero so that no product is trivial."""
    from transformers.models.esm.configuration_esm import TrunkConfig as PortConfig
    from transformers.models.esm.modeling_esmfold import EsmFoldTriangularSelfAttentionBlock

    shape = PortConfig(
        sequence_state_dim=config.c_s,
        pairwise_state_dim=config.c_z,
        sequence_head_width=config.sequence_head_width,
        pairwise_head_width=config.pair_head_width,
    )
    ours = Blocks([TrunkBlock(config) for _ in range(config.blocks)])
    port = Blocks([EsmFoldTriangularSelfAttentionBlock(shape) for _ in range(config.blocks)], chunk_size=chunk_size)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    port.load_state_dict(ours.state_dict())
    return {"ours": ours, "port": port}


def inputs(config: TrunkConfig, length: int) -> Inputs:
    """Random representations of one chain; both carry gradients, as in a trunk that trains."""
    s = torch.randn(1, length, config.c_s, requires_grad=True)
    z = torch.randn(1, length, length, config.c_z, requires_grad=True)
    return s, z, torch.ones(1, length)


def forward_call(model: nn.Module, data: Inputs) -> Callable[[], None]:
    """A forward pass as in prediction."""

    def call() -> None:
        with torch.no_grad():
            model.eval()(*data)

    return call


def training_call(model: nn.Module, data: Inputs) -> Callable[[], None]:
    """Forward and backward, with gradients of the weights and of both inputs."""

    def call() -> None:
        model.zero_grad(set_to_none=True)
        data[0].grad = data[1].grad = None
        s, z = model.train()(*data)
        (s.square().mean() + z.square().mean()).backward()

    return call


CALLS = {"forward": forward_call, "forward + backward": training_call}


def greatest_difference(models: dict[str, nn.Module], data: Inputs) -> float:
    """Largest norm of a difference among outputs and gradients, relative to the norm of the tensor.

    Norms, because a ReLU whose input rounds to the other side of 0 changes single gradients. A gradient that is all
    rounding noise (that of a bias which shifts all logits of a softmax alike is 0 in theory) is compared with 1e-5 of
    the largest one.
    """
    outputs, gradients = [], []
    for model in models.values():
        training_call(model, data)()
        weights = [parameter.grad for _, parameter in sorted(model.named_parameters())]
        gradients.append([data[0].grad, data[1].grad, *weights])
        with torch.no_grad():
            outputs.append(model(*data))
    floor = 1e-5 * max(float(gradient.norm()) for gradient in gradients[0])
    worst = 0.0
    for (own, port), smallest in ((outputs, 0.0), (gradients, floor)):
        for a, b in zip(own, port, strict=True):
            worst = max(worst, float((a - b).norm() / b.norm().clamp(min=smallest)))
    return worst


def matmul_rate(size: int = 1024, repeats: int = 30) -> float:
    """Floating point operations per second of a square float32 matrix product, the best of ``repeats``."""
    a, b = torch.randn(2, size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        a @ b
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best


def operations(call: Callable[[], None]) -> int:
    """Floating point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds per call and round; the first goes first in even rounds, the other in odd ones."""
    for call in calls.values():
        call()  # the first call allocates
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in sorted(calls, reverse=bool(turn % 2)):
            start = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def compare(config: TrunkConfig, length: int, rounds: int, chunk_size: int | None, rate: float) -> Iterator[dict]:
    """A row per kind of pass, each when it is there. Raises SystemExit when the two do not compute the same."""
    models = pair_of_models(config, chunk_size)
    data = inputs(config, length)
    difference = greatest_difference(models, data)
    if not difference < 1e-3:
        raise SystemExit(f"{length} residues: ours and the port differ by {difference:.2g}: nothing was timed")
    for kind, make in CALLS.items():
        seconds = measure({name: make(model, data) for name, model in models.items()}, rounds)
        ratios = [port / own for own, port in zip(seconds["ours"], seconds["port"], strict=True)]
        median = statistics.median(seconds["ours"])
        training = kind != "forward"
        yield {
            "length": length,
            "pass": kind,
            "ours_s": median,
            "port_s": statistics.median(seconds["port"]),
            "speed_up": statistics.median(ratios),
            "speed_up_range": [min(ratios), max(ratios)],
            "share_of_floor": operations(make(models["ours"], data)) / rate / median,
            "saved_mb": {name: saved_megabytes(m, make(m, data)) for name, m in models.items()} if training else {},
            "greatest_difference": difference,
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--c-s", type=int, default=1024)
    parser.add_argument("--c-z", type=int, default=128)
    parser.add_argument("--head-width", type=int, default=32, help="of both representations")
    parser.add_argument("--chunk-size", type=int, help="rows of the port's triangle attention at a time (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = TrunkConfig(
        blocks=options.blocks,
        c_s=options.c_s,
        c_z=options.c_z,
        sequence_head_width=options.head_width,
        pair_head_width=options.head_width,
        pair_update="product_difference",
        triangle_attention=True,
    )
    rate = matmul_rate()  # per second of CPU time, as all times here, whatever the number of threads
    rows = []
    print(f"{'N':>5} {'pass':<19}{'ours s':>9}{'port s':>9}{'speed-up':>10}{'range':>13}{'share':>7}{'saved MB':>15}")
    for length in options.lengths:
        for row in compare(config, length, options.rounds, options.chunk_size, rate):
            rows.append(row)
            low, high = row["speed_up_range"]
            saved = " / ".join(f"{value:.0f}" for value in row["saved_mb"].values())
            times = f"{row['ours_s']:>9.3f}{row['port_s']:>9.3f}{row['speed_up']:>10.2f}"
            rest = f"{f'{low:.2f}-{high:.2f}':>13}{row['share_of_floor']:>7.0%}{saved:>15}"
            print(f"{length:>5} {row['pass']:<19}{times}{rest}", flush=True)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    versions = {"torch": torch.__version__, "machine": platform.machine(), "allocator": allocator}
    result = {"settings": settings | versions, "matmul_gflops": rate / 1e9, "rows": rows}
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
