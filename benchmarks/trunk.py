"""The trunk's blocks against transformers' port of ESMFold, same weights, in one process.

    python -m benchmarks.trunk                                         # one block of ESMFold's widths
    python -m benchmarks.trunk --lengths 64 128 256 --components       # and every part of a block beside its rival
    python -m benchmarks.trunk --lengths 256 --blocks 12 --checkpoint both --rounds 1      # 4 GB
    python -m benchmarks.trunk --lengths --curve 256 512 1000 2000     # memory of inference
    python -m benchmarks.trunk --device cuda --lengths 256 --blocks 12

Both take turns, and CPU time is measured (on CUDA: time between synchronisations), so that other work on the machine
falls on both alike; the speed-up is the median over rounds of the port's time to ours in the same round.

Before anything is timed, both must compute the same, gradients included:

* in float64, all blocks over 32 residues and one block over up to 128, within 1e-9 (they agree within 1e-13);
* in float32 both are compared with float64: our error may be twice the port's, in the median over all tensors and over
  five draws of one block's input.

What is timed must agree in float32 too: outputs within 1e-4, gradients within 1e-2. The last bound is wide, and one
draw is not enough above, because a ReLU whose input rounds to the other side of 0 switches a unit for one residue, in
float32 of either: 12 blocks have hundreds of millions of them, and the gradients of two runs differ by some 1e-3 of
their norm while the outputs agree within 1e-6.

``share`` is how near to the floor we are: the time that the multiply-adds of the formulas would take at the rate of a
large matrix product on this machine (forward as many as our matrix products, backward twice that; what is recomputed
does not count), to the time taken. ``peak MB`` is the growth of the peak resident size over the first pass. The port's
activations of 12 blocks at 256 residues are 27 GB: ``--checkpoint port`` recomputes each of its blocks in the backward
pass, as its own configuration cannot, and ``--checkpoint both`` ours too, as ``trunk.checkpoint_blocks`` does; the time
of this is measured, and the speed-up is said without it too. The port attends over all rows at once unless
--chunk-size is given.

Allocation is much of the time of large pair representations: MALLOC_* variables of the environment are in the JSON.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peak import Peak
from pipeline.config.schema import TrunkConfig
from pipeline.folding.kernels.common import ADDED, Plan
from pipeline.folding.trunk import FoldingTrunk, TrunkBlock

Inputs = tuple[Tensor, Tensor, Tensor]
"""s [1, N, c_s], z [1, N, N, c_z] and residue mask [1, N]."""
Call = Callable[[], list[Tensor]]
"""A pass; gives its outputs, then the gradients that it made, those of a model in the order of its names."""

SHORT, LONG = 32, 128
"""Residues for which all blocks, and up to which one block is compared in float64."""
EXACT = 1e-9
"""Greatest difference in float64: rounding gives 1e-13, a weight that is used wrongly at least 1e-3 of itself."""
ERRORS, DRAWS, DRAWN = 2.0, 5, 64
"""Most of our error in float32 to the port's, median over tensors and over so many draws of up to so many residues."""
OUTPUTS, GRADIENTS = 1e-4, 1e-2
"""Greatest differences of what is timed."""


class Blocks(nn.Module):
    """Several blocks in a row, ours or the port's."""

    def __init__(self, blocks: Sequence[nn.Module], checkpointed: bool = False, **options: object) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.checkpointed = checkpointed
        self.options = options
        self.spent: list[float] = []
        """Seconds of every run of a checkpointed block since the forward pass began, recomputation included."""

    def forward(self, s: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.spent.clear()
        for block in self.blocks:
            if self.checkpointed and torch.is_grad_enabled():
                s, z = checkpoint(self._timed, block, s, z, mask, use_reentrant=False)
            else:
                s, z = block(s, z, **{"mask": mask} | self.options)
        return s, z

    def _timed(self, block: nn.Module, s: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        start = clock()
        try:
            return block(s, z, **{"mask": mask} | self.options)
        finally:  # recomputation ends by an exception when it has what the backward pass needs
            self.spent.append(clock() - start)

    def recomputation(self) -> float:
        """Seconds that the last backward pass recomputed for."""
        return sum(self.spent[len(self.blocks) :])


def pair_of_models(
    config: TrunkConfig, chunk_size: int | None, checkpointed: Collection[str] = (), device: str = "cpu"
) -> dict[str, nn.Module]:
    """``ours`` and ``port`` with the same weights, all of them away from zero so that no product is trivial.

    ``checkpointed`` names those whose blocks are recomputed in the backward pass.
    """
    from transformers.models.esm.configuration_esm import TrunkConfig as PortConfig
    from transformers.models.esm.modeling_esmfold import EsmFoldTriangularSelfAttentionBlock

    shape = PortConfig(
        sequence_state_dim=config.c_s,
        pairwise_state_dim=config.c_z,
        sequence_head_width=config.sequence_head_width,
        pairwise_head_width=config.pair_head_width,
    )
    blocks = [TrunkBlock(config) for _ in range(config.blocks)]
    plan = Plan(waiting=1 if "ours" in checkpointed else config.blocks)
    ours = Blocks(blocks, "ours" in checkpointed, mask=None, plan=plan).to(device)  # as the trunk calls them
    with torch.device("meta"):
        port_blocks = [EsmFoldTriangularSelfAttentionBlock(shape) for _ in range(config.blocks)]
    port = Blocks(port_blocks, "port" in checkpointed, chunk_size=chunk_size)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    port.load_state_dict(ours.state_dict(), assign=True)  # the same memory; gradients are each one's own
    return {"ours": ours, "port": port}


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


def forward_call(model: nn.Module, data: Inputs) -> Call:
    """A forward pass as in prediction."""

    def call() -> list[Tensor]:
        with torch.no_grad():
            return list(model.eval()(*data))

    return call


def training_call(model: nn.Module, data: Inputs) -> Call:
    """Forward and backward, with gradients of the weights and of both inputs."""
    parameters = [parameter for _, parameter in sorted(model.named_parameters())]

    def call() -> list[Tensor]:
        s, z = model.train()(*data)
        loss = s.square().mean() + z.square().mean()
        return [s.detach(), z.detach(), *torch.autograd.grad(loss, (*data[:2], *parameters))]

    return call


NAMES = ("ours", "port")
CHECKPOINTED = {"none": (), "port": ("port",), "both": NAMES}
CALLS = {"forward": forward_call, "forward + backward": training_call}
OUTPUT_TENSORS = 2
"""The first of what a call gives."""


def differences(own: Sequence[Tensor], other: Sequence[Tensor]) -> list[float]:
    """Norm of the difference of every output and gradient, relative to the norm of the other's.

    A gradient that is all rounding noise (that of a bias which shifts all logits of a softmax alike is 0 in theory) is
    compared with 1e-5 of the largest one.
    """
    norms = [float(tensor.double().norm()) for tensor in other]
    floor = 1e-5 * max(norms[OUTPUT_TENSORS:], default=0.0)
    floors = [0.0] * OUTPUT_TENSORS + [floor] * (len(norms) - OUTPUT_TENSORS)
    return [
        float((a.double() - b.double()).norm()) / max(norm, smallest)
        for a, b, norm, smallest in zip(own, other, norms, floors, strict=True)
    ]


def require(condition: bool, what: str) -> None:
    """SystemExit unless the condition holds."""
    if not condition:
        raise SystemExit(f"{what}: ours and the port do not compute the same, and no time means anything")


def agreement(models: dict[str, nn.Module], config: TrunkConfig, length: int, device: str) -> dict[str, float]:
    """Compares both in float64, and the errors of both in float32. Raises SystemExit where ours is wrong."""

    def gradients(blocks: int, data: Inputs) -> dict[str, list[Tensor]]:
        return {
            name: training_call(Blocks(model.blocks[:blocks], **model.options), data)()
            for name, model in models.items()
        }

    def wide(data: Inputs) -> Inputs:
        s, z, mask = (tensor.detach().double() for tensor in data)
        return s.requires_grad_(), z.requires_grad_(), mask

    one = inputs(config, min(length, LONG), device)
    draws = [inputs(config, min(length, DRAWN), device) for _ in range(DRAWS)]
    rounded = [gradients(1, draw) for draw in draws]
    for model in models.values():
        model.double()
    exact, deep = gradients(1, wide(one)), gradients(config.blocks, wide(inputs(config, SHORT, device)))
    worst = max(max(differences(results["ours"], results["port"])) for results in (exact, deep))
    require(worst < EXACT, f"{length} residues: they differ by {worst:.2g} in float64, allowed {EXACT:g}")
    ratios = []
    for draw, found in zip(draws, rounded, strict=True):
        truth = training_call(Blocks(models["port"].blocks[:1]), wide(draw))()
        own, port = (differences(found[name], truth) for name in NAMES)
        ratios.append(statistics.median(a / b for a, b in zip(own, port, strict=True)))
    for model in models.values():
        model.float()
    ratio = statistics.median(ratios)
    require(ratio < ERRORS, f"{length} residues: in float32 our error is {ratio:.2g} times the port's")
    return {"float64_difference": worst, "float32_error_to_ports": ratio}


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


def operations(call: Callable[[], object]) -> int:
    """Floating point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@dataclass
class Passes:
    """What was measured of one of them."""

    seconds: list[float] = field(default_factory=list)
    """CPU seconds of every round."""
    peak_mb: float = 0.0
    """Growth of the peak memory over the first one."""
    result: list[Tensor] = field(default_factory=list)
    """Of the last one."""


def measure(calls: dict[str, Call], rounds: int, device: str) -> dict[str, Passes]:
    """Every call once per round; the first goes first in even rounds, the other in odd ones."""
    passes = {name: Passes() for name in calls}
    for turn in range(rounds):
        for name in sorted(calls, reverse=bool(turn % 2)):
            one = passes[name]
            one.result = []

            def timed(one: Passes = one, call: Call = calls[name]) -> None:
                start = clock()
                one.result = call()
                one.seconds.append(clock() - start)

            if turn == 0:
                one.peak_mb = growth(timed, device)
            else:
                timed()
    return passes


def row(passes: dict[str, Passes], floor: float, **what: object) -> dict:
    """Medians, speed-up and share of the floor."""
    ratios = [port / own for own, port in zip(passes["ours"].seconds, passes["port"].seconds, strict=True)]
    median = statistics.median(passes["ours"].seconds)
    return what | {
        "ours_s": median,
        "port_s": statistics.median(passes["port"].seconds),
        "speed_up": statistics.median(ratios),
        "speed_up_range": [min(ratios), max(ratios)],
        "floor_s": floor,
        "share_of_floor": floor / median,
        "peak_mb": {name: one.peak_mb for name, one in passes.items()},
    }


def compare(config: TrunkConfig, length: int, options: argparse.Namespace, rate: float) -> Iterator[dict]:
    """A row per kind of pass, each when it is there. Raises SystemExit when the two do not compute the same."""
    checkpointed = CHECKPOINTED[options.checkpoint]
    models = pair_of_models(config, options.chunk_size, checkpointed, options.device)
    agreed = agreement(models, config, length, options.device)
    data = inputs(config, length, options.device)
    one_block = operations(forward_call(Blocks(models["ours"].blocks[:1]), data))
    floor = config.blocks * one_block / rate
    for kind in options.passes:
        passes = measure(
            {name: CALLS[kind](model, data) for name, model in models.items()}, options.rounds, options.device
        )
        found = differences(passes["ours"].result, passes["port"].result)
        outputs, gradients = max(found[:OUTPUT_TENSORS]), max(found[OUTPUT_TENSORS:], default=0.0)
        require(
            outputs < OUTPUTS and gradients < GRADIENTS,
            f"{length} residues: outputs differ by {outputs:.2g} and gradients by {gradients:.2g}, "
            f"allowed {OUTPUTS:g} and {GRADIENTS:g}",
        )
        work = floor if kind == "forward" else 3 * floor
        entry = row(passes, work, length=length, what=kind, outputs_differ=outputs, gradients_differ=gradients) | agreed
        if kind != "forward" and checkpointed:
            again = {name: models[name].recomputation() for name in NAMES}  # of the last round
            once = {name: passes[name].seconds[-1] - again[name] for name in NAMES}
            entry |= {"recomputation_s": again, "speed_up_without": once["port"] / once["ours"]}
        yield entry


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
        calls["seq_attention"] = lambda: block.seq_attention(s, None, bias_first)
        calls["sequence_to_pair"] = lambda: block.sequence_to_pair(s, None).add_(z)
        calls |= {name: lambda name=name: getattr(block, name)(z, None, plan=ADDED) for name in triangles}
    return calls


def components(config: TrunkConfig, length: int, options: argparse.Namespace, rate: float) -> Iterator[dict]:
    """A row per part of a block and kind of pass."""
    models = pair_of_models(config, None, device=options.device)
    data = inputs(config, length, options.device)
    parts = {name: component_calls(model.blocks[0], data, name == "port") for name, model in models.items()}

    def forward(call: Callable[[], Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [call()]

    def training(call: Callable[[], Tensor]) -> list[Tensor]:
        out = call()
        out.backward(out.detach())
        return [out.detach()]

    for part in parts["ours"]:
        with torch.no_grad():
            floor = operations(lambda part=part: parts["ours"][part]()) / rate
        for kind, run, work in (("forward", forward, 1), ("forward + backward", training, 3)):
            calls = {name: lambda run=run, call=own[part]: run(call) for name, own in parts.items()}
            for call in calls.values():
                call()
            passes = measure(calls, options.rounds, options.device)
            yield row(passes, work * floor, length=length, what=f"{part}, {kind}")


def curve_point(config: TrunkConfig, length: int, options: argparse.Namespace) -> dict:
    """Memory and time of our whole trunk, structure module included, for one chain of ``length``."""
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
    gc.collect()
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory, which the call would find without growing
    peak = Peak(torch.device(device))
    peak.reset()
    before = peak.now()
    call()
    return (peak.read() - before) / 2**20


def show(entry: dict) -> None:
    low, high = entry["speed_up_range"]
    times = f"{entry['ours_s']:>9.3f}{entry['port_s']:>9.3f}{entry['speed_up']:>10.2f}"
    memory = " / ".join(f"{value:.0f}" for value in entry["peak_mb"].values())
    rest = f"{f'{low:.2f}-{high:.2f}':>13}{entry['floor_s']:>9.3f}{entry['share_of_floor']:>7.0%}{memory:>15}"
    print(f"{entry['length']:>5} {entry['what']:<36}{times}{rest}", flush=True)
    if "recomputation_s" in entry:
        ours, port = (entry["recomputation_s"][name] for name in NAMES)
        text = f"without recomputation (ours {ours:.3f} s, the port {port:.3f} s): speed-up"
        print(f"      {text} {entry['speed_up_without']:.2f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--c-s", type=int, default=1024)
    parser.add_argument("--c-z", type=int, default=128)
    parser.add_argument("--head-width", type=int, default=32, help="of both representations")
    parser.add_argument("--chunk-size", type=int, help="rows of the port's triangle attention at a time (default: all)")
    parser.add_argument(
        "--checkpoint", choices=list(CHECKPOINTED), default="none", help="whose blocks to recompute backward"
    )
    parser.add_argument("--components", action="store_true", help="also time each part of a block")
    parser.add_argument("--curve", type=int, nargs="+", default=[], metavar="LENGTH", help="memory of our inference")
    parser.add_argument("--passes", nargs="+", choices=list(CALLS), default=list(CALLS), help="default: both")
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
            rows.append(entry)
            show(entry)
        for entry in components(config, length, options, rate) if options.components else ():
            rows.append(entry)
            show(entry)
    for length in options.curve:
        curve.append(curve_point(config, length, options))
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
