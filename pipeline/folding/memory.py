"""How much memory a pass of the trunk takes beside its weights, from shapes alone."""

import torch

from pipeline.config.schema import TrunkConfig
from pipeline.folding.kernels import common
from pipeline.folding.kernels.multiplication import LONG

KEPT = {False: {False: 6, True: 10}, True: {False: 28, True: 42}}
"""Tensors of the size of z that the kernels of a block keep for the backward pass: by whether they save more than they
need (``Plan.saves``), and by whether there is triangle attention."""


def waiting_blocks(config: TrunkConfig) -> int:
    """Blocks of a trunk whose kernels wait for their backward pass at one time."""
    return 1 if config.checkpoint_blocks else config.blocks


def peak_bytes(
    config: TrunkConfig,
    batch: int,
    length: int,
    *,
    chunk_size: int = 0,
    training: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> int:
    """Peak of the tensors of one forward pass, or with ``training`` of a forward and a backward pass.

    An estimate in units of the pair representation [B, N, N, c_z], z, which everything else is small beside; tests hold
    it to what is measured within 30%. Without gradients: z, the sum of a triangle multiplication, and its projections
    a and b, of a quarter of the channels for long chains; or z and its two copies in the structure module. With
    gradients: what the kernels of each block keep, and the temporaries of the largest backward pass.

    Args:
        config: shape of the trunk.
        batch: samples.
        length: residues, padding included.
        chunk_size: rows of the pair representation at a time; 0: automatic.
        training: with gradients.
        dtype: of the representations.
        device: ``cpu`` or the kind of accelerator.
    """
    sm, c_z = config.structure_module, config.c_z
    pairs = batch * length * length
    widest = max(length, 4 * c_z) if config.triangle_attention else 4 * c_z
    block = common.BLOCK_NUMBERS.get(device, common.BLOCK_NUMBERS_ELSEWHERE)
    buffers = 4 * (min(chunk_size, length) * length * widest if chunk_size else max(block, length * widest))
    heads = config.c_s // config.sequence_head_width
    pair = pairs * c_z
    structure = pairs * (2 * sm.c_z + 6 * sm.heads)
    attention = 3 * pairs * heads
    if not training:
        projections = 2 * length**2 * (c_z if length < LONG else -(-c_z // 4))
        numbers = pair + max(pair + projections, attention, structure)
    else:
        plan = common.Plan(waiting=waiting_blocks(config))
        kept = KEPT[plan.saves(pair)][config.triangle_attention]
        each = kept * pair + attention
        passes = config.blocks * pair + each if config.checkpoint_blocks else config.blocks * each
        # The backward pass of a block holds three more; while it runs, those of later blocks are gone.
        numbers = pair + passes + max(3 * pair, pairs * (3 * sm.blocks * sm.heads + 3 * sm.c_z))
    single = 20 * batch * length * config.c_s * (1 + (config.blocks if training else 0))
    return (numbers + single + buffers) * dtype.itemsize
