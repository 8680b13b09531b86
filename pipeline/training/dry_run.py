"""What a run will take (``pipeline.train --dry-run``): from its shapes alone, and from some steps at the largest crop.

Every kind of layer is run once on torch's meta device, where tensors have a shape and no memory: that gives the
multiply-adds of its matrix products, and the bytes that autograd keeps of it for the backward pass. Layers that repeat
are multiplied. Weights are not needed. The steps that are measured have random weights and made-up chains, since what a
step takes depends on shapes alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPE_ATOM37_MASK, RESTYPES, sequence_to_aatype
from pipeline.config.device import free_bytes, is_out_of_memory, memory_in_use
from pipeline.config.progress import duration
from pipeline.config.schema import RunConfig
from pipeline.folding.kernels.common import Plan
from pipeline.folding.model import FoldingModel
from pipeline.folding.stem import Stem
from pipeline.losses.distogram import distogram_loss
from pipeline.losses.reduce import binned_cross_entropy
from pipeline.runs.directory import freeze
from pipeline.training.data import StepBatches, TrainingChains
from pipeline.training.gradient_check import PartCount, count_parts
from pipeline.training.processes import Processes
from pipeline.training.step import Trainer

FLOAT = 4
"""Bytes of a float32, in which weights, gradients, moments and averages are."""

SIDECHAIN_PAIRS = 28
"""Pairs of rigid group and atom that exist, per pair of residues: about a quarter of 8 x 14."""
FLOATS_PER_PAIR = 7
"""That FAPE keeps of one: a difference, its square, distance and mask."""

THROUGHPUTS = (1.0, 10.0, 50.0, 200.0)
"""Sustained TFLOP/s for which the time is said; what a device sustains is a part of what its maker states."""

GPU_SIZES = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)
"""GB of memory that GPUs are sold with."""
SHARE = 0.9
"""Of it, for what is estimated here; operators need the rest for the time of a call."""
NIGHT = 8
"""Hours."""

MICRO_BATCHES = 2
"""Of a step that are taken at most: the second has gradients in memory to add to, and more are alike."""

CPU_TERAFLOP = 0.3
"""In matrix products that are tried on a CPU: about half a minute of a core."""

ROOM = 1.2
"""How many times the estimate of its memory has to be free for a step to be tried."""

SPREAD = 10.0
"""angstrom, of the made-up atoms."""


@dataclass(frozen=True)
class Cost:
    """Of running something once, forward."""

    flops: float
    """Floating-point operations of matrix products, two per multiply-add."""
    kept: int
    """Bytes that autograd keeps for the backward pass, weights left out."""


@dataclass(frozen=True)
class Estimate:
    """What a step of a run takes; memory in bytes, for one process without sharding, in float32."""

    parts: Sequence[PartCount]
    adapter_bytes: int
    weights: int
    gradients: int
    """Clipped by sample, of the sample and of the step."""
    optimizer: int
    """Adam's two moments."""
    averages: int
    activations: int
    """At the largest crop, as ``trunk.checkpoint_blocks`` says."""
    activations_kept: int
    """Without checkpointing."""
    activations_checkpointed: int
    """With checkpointing of every block."""
    flops: float
    """Of a step on average: all samples, recycles, forward and backward."""
    crop: int
    micro_batch: int
    """Samples that are in memory at once."""
    samples: int
    """In a step."""

    @property
    def memory(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations

    @property
    def gpu(self) -> int | None:
        """The smallest of ``GPU_SIZES`` that has room for it; None if none has."""
        return next((size for size in GPU_SIZES if self.memory <= SHARE * size * 1e9), None)


def cost_of(run: Callable[[], Any], parameters: Sequence[nn.Parameter]) -> Cost:
    """Cost of ``run()``, which works on meta tensors of which some require gradients."""
    own = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        run()
    return Cost(float(counter.get_total_flops()), sum(storage.nbytes() for storage in kept.values()))


def estimate(config: RunConfig) -> Estimate:
    """The estimate of a run; nothing is read or allocated. Raises ConfigError for adapters that do not fit."""
    with torch.device("meta"):
        model = FoldingModel(config, Stem(config.stem.name))
        model.set_trainable()
        freeze(model, config.training.freeze)
        samples = config.data.batch_size
        by_sample = config.optimizer.clip == "sample"
        micro = 1 if by_sample else min(config.training.micro_batch or samples, samples)
        costs = _costs(model, config, micro)
    parts = count_parts(model)
    total = sum(part.total for part in parts)
    trainable = sum(part.trainable for part in parts)
    blocks, crop = config.trunk.blocks, config.data.crop_size
    block_inputs = crop * (config.trunk.c_s + crop * config.trunk.c_z) * FLOAT
    outside = costs["stem"].kept + costs["rest"].kept
    kept = micro * (outside + blocks * costs["block"].kept)
    checkpointed = micro * (outside + blocks * block_inputs + costs["block alone"].kept)
    return Estimate(
        parts=parts,
        adapter_bytes=sum(p.numel() * p.element_size() for p in model.adapter_parameters()),
        weights=total * FLOAT,
        gradients=trainable * FLOAT * (2 if by_sample else 1),
        optimizer=2 * trainable * FLOAT,
        averages=trainable * FLOAT,
        activations=checkpointed if config.trunk.checkpoint_blocks else kept,
        activations_kept=kept,
        activations_checkpointed=checkpointed,
        flops=samples * _flops_of_sample(config, costs, model),
        crop=crop,
        micro_batch=micro,
        samples=samples,
    )


def _flops_of_sample(config: RunConfig, costs: dict[str, Cost], model: FoldingModel) -> float:
    """Forward, recycles (half of the most, on average) and backward: for inputs, and for weights where they train."""
    stem_backward = {"none": 0, "full": 2}.get(config.adapter.method, 1) if model.stem_trains else 0
    trunk_backward = 2 if config.trunk_adapter.method == "full" else 1
    again = 1 if config.trunk.checkpoint_blocks else 0
    trunk = config.trunk.blocks * costs["block"].flops
    return (
        costs["stem"].flops * (1 + stem_backward)
        + trunk * (1 + again + trunk_backward + config.data.max_recycles / 2)
        + costs["rest"].flops * (3 + config.data.max_recycles / 2)
    )


def _costs(model: FoldingModel, config: RunConfig, micro: int) -> dict[str, Cost]:
    """Of one sample, among ``micro`` that are in memory at once."""
    n, trunk = config.data.crop_size, config.trunk
    c_stem = model.stem.embed_dim
    parameters = list(model.parameters())
    mask, aatype, index = torch.ones(1, n), torch.zeros(1, n, dtype=torch.int64), torch.zeros(1, n, dtype=torch.int64)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, requires_grad=True)

    tokens = leaf(n + 2, 1, c_stem)  # with start and end; fair-esm's layers have the length first
    layer = cost_of(
        lambda: model.stem.esm.layers[0](tokens, self_attn_padding_mask=None, need_head_weights=False), parameters
    )
    layers = model.stem.num_layers
    stem = Cost(layers * layer.flops, layers * layer.kept if model.stem_trains else 0)
    representations = leaf(micro, n, trunk.c_s), leaf(micro, n, n, trunk.c_z)

    def block(waiting: int) -> Cost:
        """Samples at once, because what kernels save depends on all of them."""
        plan = Plan(waiting=waiting)
        together = cost_of(lambda: model.trunk.blocks[0](*representations, mask.expand(micro, n), plan), parameters)
        return Cost(together.flops / micro, together.kept // micro)

    def rest() -> None:
        hidden = torch.zeros(1, n, layers + 1, c_stem, requires_grad=model.stem_trains)
        weights = torch.softmax(model.esm_s_combine, dim=0)
        single = model.esm_s_mlp(torch.einsum("l,bnle->bne", weights, hidden)) + model.embedding(aatype)
        pair = leaf(1, n, n, trunk.c_z)
        pair = pair + model.trunk.recycle_z_norm(pair) + model.trunk.pairwise_positional_embedding(index, mask)
        structure = model.trunk.structure_module(
            model.trunk.trunk2sm_s(single), model.trunk.trunk2sm_z(pair), aatype, mask
        )
        model.lddt_head(structure.states[-1])
        distogram_loss(model.distogram_head(pair), torch.zeros(1, n, 3), mask)
        if model.ptm_head is not None and config.loss.pae:
            binned_cross_entropy(model.ptm_head(pair), torch.zeros(1, n, n, dtype=torch.int64))
        if model.lm_head is not None:
            model.lm_head(single)

    once = cost_of(rest, parameters)
    # FAPE drops what does not exist before it forms pairs, which shapes alone do not tell.
    pairs = n**2 * (trunk.structure_module.blocks + SIDECHAIN_PAIRS)
    rest_cost = replace(once, kept=once.kept + pairs * FLOATS_PER_PAIR * FLOAT)
    return {"stem": stem, "block": block(trunk.blocks), "block alone": block(1), "rest": rest_cost}


def night(seconds: float, max_steps: int) -> str:
    """Say how many steps of ``seconds`` fit into a night, and what the run takes."""
    steps = float(f"{3600 * NIGHT / seconds:.2g}")
    whole = duration(seconds * max_steps)
    return f"a night ({NIGHT} h) is about {steps:,.0f} steps, max_steps = {max_steps:,} takes {whole}"


def report(e: Estimate, config: RunConfig, console: Console) -> None:
    """The estimate for people."""
    table = Table("part", "parameters", "train", title=f"{config.trunk.blocks} blocks over {config.stem.name}")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in e.parts:
        table.add_row(part.part, f"{part.total:,}", f"{part.trainable:,}")
    table.add_row("together", *(f"{sum(getattr(p, key) for p in e.parts):,}" for key in ("total", "trainable")))
    console.print(table)
    if e.adapter_bytes:
        console.print(f"Adapters alone: {e.adapter_bytes / 1e6:.3f} MB")
    what = f"{e.micro_batch} of {e.samples} samples at once, crops of {e.crop}"
    memory = Table("memory, float32", "GB", title=f"One process without sharding: {what}")
    memory.columns[1].justify = "right"
    for name in ("weights", "gradients", "optimizer", "averages", "activations"):
        memory.add_row(name, f"{getattr(e, name) / 1e9:.2f}")
    memory.add_row("together", f"{e.memory / 1e9:.2f}")
    console.print(memory)
    console.print(
        f"Activations without checkpoint_blocks {e.activations_kept / 1e9:.2f} GB, with "
        f"{e.activations_checkpointed / 1e9:.2f} GB. What operators need for the time of a call comes on top."
    )
    if e.gpu is None:
        console.print(
            f"No GPU has as much: training.micro_batch = 1 has one sample in memory at a time instead of "
            f"{e.micro_batch}, trunk.checkpoint_blocks one block's activations, and data.crop_size counts squared."
        )
    else:
        console.print(f"Fits a GPU of {e.gpu} GB, a tenth of which is left to operators.")
    console.print(f"A step: {e.flops / 1e12:.3g} TFLOP in matrix products (recycles: half of the most).")
    for throughput in THROUGHPUTS:
        seconds = e.flops / 1e12 / throughput
        words = night(seconds, config.training.max_steps)
        console.print(f"  at {throughput:g} TFLOP/s sustained: {seconds:.3g} s a step; {words}")


def why_not(estimate: Estimate, device: torch.device) -> str:
    """Why steps are not tried on ``device``; empty if they can be."""
    free = free_bytes(device)
    if ROOM * estimate.memory > free:
        return f"{free / 1e9:.1f} GB are free on {device}"
    share = min(1.0, MICRO_BATCHES * estimate.micro_batch / estimate.samples)
    if device.type == "cpu" and share * estimate.flops > CPU_TERAFLOP * 1e12:
        return "a CPU would take too long: try it where the training will run"
    return ""


class MadeUpChains(TrainingChains):
    """Ten random chains of one length, with all their atoms."""

    def __init__(self, length: int) -> None:
        self.lengths = np.full(10, length)
        self.weights = np.full(10, 0.1)

    def load(self, chain: int) -> tuple[ProteinRecord, bool]:
        """The record of a chain."""
        rng, n = np.random.default_rng(chain), int(self.lengths[chain])
        sequence = "".join(rng.choice(list(RESTYPES), n))
        record = ProteinRecord(
            id=str(chain),
            chain_id="A",
            sequence=sequence,
            residue_index=np.arange(n, dtype=np.int32),
            atom37_positions=(SPREAD * rng.standard_normal((n, 37, 3))).astype(np.float32),
            atom37_mask=RESTYPE_ATOM37_MASK[sequence_to_aatype(sequence)].astype(bool),
            b_factors=np.zeros((n, 37), dtype=np.float32),
            auth_seq_id=np.arange(n, dtype=np.int32),
            insertion_code=np.full(n, ""),
        )
        return record, False


def measure(config: RunConfig, processes: Processes) -> float | None:
    """Seconds of a step on this process's device, on average over the recycles; None where the memory ends.

    Of three steps the first is not counted, the second has no recycles and the third the most, so that the mean of the
    two is that of all.
    """
    try:
        model = FoldingModel(config, Stem(config.stem.name))
        model.set_trainable()
        freeze(model, config.training.freeze)
        trainer = Trainer(config, MadeUpChains(config.data.crop_size), processes, model)
        trainer.start()
        whole = trainer.feed.load(max(1, config.training.max_steps))  # when crops have grown
        part = whole.micro_batches[:MICRO_BATCHES]
        seconds = []
        for recycles in (0, 0, config.data.max_recycles):
            batches = StepBatches(whole.plan, tuple(replace(micro, num_recycles=recycles) for micro in part))
            started = time.perf_counter()
            trainer.train_step(batches)
            if trainer.device.type != "cpu":
                torch.accelerator.synchronize()
            seconds.append(time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
    return sum(seconds[1:]) / 2 * len(whole.micro_batches) / len(part)


def dry_run(config: RunConfig, processes: Processes, console: Console) -> bool:
    """Print what a run will take, by its shapes and by steps where they fit; whether the memory sufficed for these."""
    expected = estimate(config)
    report(expected, config, console)
    reason = why_not(expected, processes.device)
    if processes.any(bool(reason)):  # all or none: the steps are taken together
        console.print(f"Not measured here: {reason or 'another process has no room for it'}.")
        return True
    seconds = measure(config, processes)
    if seconds is None:
        console.print(f"Measured on {processes.device}: the memory does not suffice for a step.")
        return False
    memory = memory_in_use(processes.device) / 1024
    console.print(
        f"Measured on {processes.device}, {processes.count} process(es), {config.training.precision}: "
        f"{seconds:.3g} s a step on average over the recycles, {memory:.2f} GB at most; "
        f"{night(seconds, config.training.max_steps)}, validation not counted."
    )
    return True
