"""The trunk's blocks against transformers' port of ESMFold, same weights, in one process.

    python -m benchmarks.trunk                                         # one block of ESMFold's widths
    python -m benchmarks.trunk --lengths 64 128 256 --components       # and every part of a block beside its rival
    python -m benchmarks.trunk --lengths 256 --blocks 12 --checkpoint-port --rounds 1      # 4 GB
    python -m benchmarks.trunk --lengths --curve 256 512 1000 2000     # memory of inference
    python -m benchmarks.trunk --device cuda --lengths 256 --blocks 12

Both take turns, and CPU time is measured (on CUDA: time between synchronisations), so that other work on the machine
falls on both alike; the speed-up is the median over rounds of the port's time to ours in the same round. Before
anything is timed, outputs and gradients of both must agree.

``share`` is how near to the floor we are: the time that the multiply-adds of the formulas would take at the rate of a
large matrix product on this machine (forward as many as our matrix products, backward twice that; what is recomputed
does not count), to the time taken. ``peak MB`` is the growth of the peak resident size over one pass, in a process
of its own. The port's activations of 12 blocks at 256 residues are 27 GB: --checkpoint-port recomputes each of its
blocks in the backward pass, as its own configuration cannot. It attends over all rows at once unless --chunk-size is
given.

Allocation is much of the time of large pair representations: MALLOC_* variables of the environment are in the JSON.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import TrunkConfig
from pipeline.folding.kernels.common import ADDED
from pipeline.folding.trunk import FoldingTrunk, TrunkBlock

Inputs = tuple[Tensor, Tensor, Tensor]
"""s [1, N, c_s], z [1, N, N, c_z] and residue mask [1, N]."""


class Blocks(nn.Module):
    """Several blocks in a row, ours or the port's."""

    def __init__(self, blocks: list[nn.Module], checkpointed: bool = False, **options: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.checkpointed = checkpointed
        self.options = options

    def forward(self, s: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            if self.checkpointed and torch.is_grad_enabled():
                s, z = checkpoint(block, s, z, mask=mask, use_reentrant=False, **self.options)
            else:
                s, z = block(s, z, mask=mask, **self.options)
        return s, z


def pair_of_models(
    config: TrunkConfig, chunk_size: int | None, checkpoint_port: bool = False, device: str = "cpu"
) -> dict[str, nn.Module]:
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
    port_blocks = [EsmFoldTriangularSelfAttentionBlock(shape) for _ in range(config.blocks)]
    port = Blocks(port_blocks, checkpoint_port, chunk_size=chunk_size)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    port.load_state_dict(ours.state_dict())
    return {"ours": ours.to(device), "port": port.to(device)}


def inputs(config: TrunkConfig, length: int, device: str = "cpu") -> Inputs:
    """Random representations of one chain; both carry gradients, as in a trunk that trains."""
    s = torch.randn(1, length, config.c_s, device=device, requires_grad=True)
    z = torch.randn(1, length, length, config.c_z, device=device, requires_grad=True)
    return s, z, torch.ones(1, length, device=device)


def clock() -> float:
    """Seconds: of CPU time, or on a GPU when it has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


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


NAMES = ("ours", "port")
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


def matmul_rate(device: str = "cpu", repeats: int = 30) -> float:
    """Floating point operations per second of a square float32 matrix product, the best of ``repeats``."""
    size = 1024 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        a @ b
        best = min(best, clock() - start)
    return 2 * size**3 / best


def operations(call: Callable[[], None]) -> int:
    """Floating point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds per call and round; the first goes first in even rounds, the other in odd ones."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in sorted(calls, reverse=bool(turn % 2)):
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return seconds


def row(seconds: dict[str, list[float]], floor: float, **what: object) -> dict:
    """Medians, speed-up and share of the floor."""
    ratios = [port / own for own, port in zip(seconds["ours"], seconds["port"], strict=True)]
    median = statistics.median(seconds["ours"])
    return what | {
        "ours_s": median,
        "port_s": statistics.median(seconds["port"]),
        "speed_up": statistics.median(ratios),
        "speed_up_range": [min(ratios), max(ratios)],
        "floor_s": floor,
        "share_of_floor": floor / median,
    }


def compare(config: TrunkConfig, length: int, options: argparse.Namespace, rate: float) -> Iterator[dict]:
    """A row per kind of pass, each when it is there. Raises SystemExit when the two do not compute the same."""
    models = pair_of_models(config, options.chunk_size, options.checkpoint_port, options.device)
    data = inputs(config, length, options.device)
    difference = greatest_difference(models, data)  # runs each twice, so that nothing is timed that runs first
    if not difference < 1e-3:
        raise SystemExit(f"{length} residues: ours and the port differ by {difference:.2g}: nothing was timed")
    floor = operations(forward_call(models["ours"], data)) / rate
    for kind, make in CALLS.items():
        seconds = measure({name: make(model, data) for name, model in models.items()}, options.rounds)
        work = floor if kind == "forward" else 3 * floor
        yield row(seconds, work, length=length, what=kind, greatest_difference=difference)


def component_calls(block: nn.Module, data: Inputs, port: bool) -> dict[str, Callable[[], Tensor]]:
    """The parts of a block, each with its residual connection where the block adds one at once."""
    s, z, mask = data
    heads = block.seq_attention.num_heads
    bias = torch.zeros(1, *z.shape[1:3], heads, device=z.device, requires_grad=True)
    calls: dict[str, Callable[[], Tensor]] = {
        "pair_to_sequence": lambda: block.pair_to_sequence(z),
        "mlp_seq": lambda: block.mlp_seq(s),
        "mlp_pair": lambda: block.mlp_pair(z),
    }
    triangles = ("tri_mul_out", "tri_mul_in", "tri_att_start", "tri_att_end")
    if port:
        pair_mask = mask[:, :, None] * mask[:, None, :]
        calls["seq_attention"] = lambda: block.seq_attention(s, mask=mask, bias=bias)[0]
        calls["sequence_to_pair"] = lambda: z + block.sequence_to_pair(s)
        calls |= {name: lambda name=name: z + getattr(block, name)(z, mask=pair_mask) for name in triangles}
    else:
        bias_first = bias.detach().permute(0, 3, 1, 2).requires_grad_()
        calls["seq_attention"] = lambda: block.seq_attention(s, mask, bias_first)
        calls["sequence_to_pair"] = lambda: block.sequence_to_pair(s, mask).add_(z)
        calls |= {name: lambda name=name: getattr(block, name)(z, None, plan=ADDED) for name in triangles}
    return calls


def components(config: TrunkConfig, length: int, options: argparse.Namespace, rate: float) -> Iterator[dict]:
    """A row per part of a block and kind of pass."""
    models = pair_of_models(config, None, False, options.device)
    data = inputs(config, length, options.device)
    parts = {name: component_calls(model.blocks[0], data, name == "port") for name, model in models.items()}

    def forward(call: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            call()

    def training(call: Callable[[], Tensor]) -> None:
        out = call()
        out.backward(out.detach())

    for part in parts["ours"]:
        with torch.no_grad():
            floor = operations(lambda part=part: parts["ours"][part]()) / rate
        for kind, run, work in (("forward", forward, 1), ("forward + backward", training, 3)):
            calls = {name: lambda run=run, call=own[part]: run(call) for name, own in parts.items()}
            for call in calls.values():
                call()
            yield row(measure(calls, options.rounds), work * floor, length=length, what=f"{part}, {kind}")


def peak_megabytes(model: str, config: TrunkConfig, length: int, kind: str, options: argparse.Namespace) -> float:
    """Growth of the peak memory over one pass; run it in a process of its own."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    blocks = pair_of_models(config, options.chunk_size, options.checkpoint_port, options.device)[model]
    return growth(CALLS[kind](blocks, inputs(config, length, options.device)), options.device)


def curve_point(config: TrunkConfig, length: int, options: argparse.Namespace) -> dict:
    """Memory and time of our whole trunk, structure module included, for one chain of ``length``; in a process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    trunk = FoldingTrunk(config).to(options.device).eval()
    single = torch.randn(1, length, config.c_s, device=options.device)
    pair = single.new_zeros(()).expand(1, length, length, config.c_z)
    index = torch.arange(length, device=options.device)[None]
    mask = torch.ones(1, length, device=options.device)

    @torch.no_grad()
    def call() -> None:
        trunk(single, pair, torch.zeros_like(index), index, mask, 0)

    start = clock()
    peak = growth(call, options.device)
    return {"length": length, "peak_mb": peak, "seconds": clock() - start}


def growth(call: Callable[[], None], device: str) -> float:
    """Megabytes by which the peak of this process (of the GPU's memory) grows while ``call`` runs."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now; getrusage's is the parent's too
    before = resident_megabytes()
    call()
    return resident_megabytes() - before


def resident_megabytes() -> float:
    """Peak resident size of this process on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def alone(function: Callable, *arguments: object) -> object:
    """The result of ``function`` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def show(entry: dict, peaks: dict[str, float]) -> None:
    low, high = entry["speed_up_range"]
    times = f"{entry['ours_s']:>9.3f}{entry['port_s']:>9.3f}{entry['speed_up']:>10.2f}"
    memory = " / ".join(f"{value:.0f}" for value in peaks.values())
    rest = f"{f'{low:.2f}-{high:.2f}':>13}{entry['floor_s']:>9.3f}{entry['share_of_floor']:>7.0%}{memory:>15}"
    print(f"{entry['length']:>5} {entry['what']:<36}{times}{rest}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--c-s", type=int, default=1024)
    parser.add_argument("--c-z", type=int, default=128)
    parser.add_argument("--head-width", type=int, default=32, help="of both representations")
    parser.add_argument("--chunk-size", type=int, help="rows of the port's triangle attention at a time (default: all)")
    parser.add_argument("--checkpoint-port", action="store_true", help="recompute each block of the port")
    parser.add_argument("--components", action="store_true", help="also time each part of a block")
    parser.add_argument("--curve", type=int, nargs="+", default=[], metavar="LENGTH", help="memory of our inference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device != "cpu":
        torch.cuda.init()
    config = TrunkConfig(
        blocks=options.blocks,
        c_s=options.c_s,
        c_z=options.c_z,
        sequence_head_width=options.head_width,
        pair_head_width=options.head_width,
        pair_update="product_difference",
        triangle_attention=True,
    )
    rate = matmul_rate(options.device)  # per second of CPU time, as all times here, whatever the number of threads
    rows, curve = [], []
    if options.lengths:
        heads = f"{'ours s':>9}{'port s':>9}{'speed-up':>10}{'range':>13}{'floor s':>9}{'share':>7}{'peak MB':>15}"
        print(f"{'N':>5} {'pass':<36}{heads}")
    for length in options.lengths:
        for entry in compare(config, length, options, rate):
            peaks = {name: alone(peak_megabytes, name, config, length, entry["what"], options) for name in NAMES}
            rows.append(entry | {"peak_mb": peaks})
            show(entry, peaks)
        for entry in components(config, length, options, rate) if options.components else ():
            rows.append(entry)
            show(entry, {})
    for length in options.curve:
        curve.append(alone(curve_point, config, length, options))
        print(f"{length:>5} residues, inference: {{peak_mb:.0f}} MB, {{seconds:.1f}} s".format(**curve[-1]), flush=True)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    versions = {"torch": torch.__version__, "machine": platform.machine(), "allocator": allocator}
    result = {"settings": settings | versions, "matmul_gflops": rate / 1e9, "rows": rows, "curve": curve}
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
