"""Peak memory of the trunk: what is estimated against every tensor that lives during a pass."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.schema import StructureModuleConfig, TrunkConfig
from pipeline.folding.kernels import common
from pipeline.folding.trunk import FoldingTrunk, peak_bytes


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators made and nobody has dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in known:
                storage = t.untyped_storage()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.drop, storage.nbytes())
        return out

    def drop(self, size: int) -> None:
        self.now -= size


def peak(config: TrunkConfig, length: int, training: bool) -> int:
    torch.manual_seed(0)
    trunk = FoldingTrunk(config)
    single = torch.randn(1, length, config.c_s)
    pair = single.new_zeros(()).expand(1, length, length, config.c_z)
    index = torch.arange(length)[None]
    with LiveBytes() as live, torch.set_grad_enabled(training):
        out = trunk(single, pair, torch.zeros_like(index), index, torch.ones(1, length), 0 if training else 1)
        if training:
            (out[1].square().mean() + out[2].positions.square().mean()).backward()
    return live.peak


@pytest.mark.parametrize("triangle_attention", [True, False])
@pytest.mark.parametrize(
    ("training", "checkpoint_blocks", "saved"),
    [(False, False, 4), (True, False, 1), (True, True, 0), (True, True, 1), (True, False, 4)],
    ids=["inference", "training", "checkpointed", "checkpointed, saving more", "training, saving more"],
)
def test_estimate_is_near_what_is_measured(training, checkpoint_blocks, saved, triangle_attention, monkeypatch):
    """``saved``: pair representations for which there is room; four blocks wait together, checkpointed ones alone."""
    monkeypatch.setattr(common, "SAVED", saved * 96 * 96 * 64)
    config = TrunkConfig(
        blocks=4,
        c_s=64,
        c_z=64,
        sequence_head_width=16,
        pair_head_width=32,
        pair_update="product_difference",
        triangle_attention=triangle_attention,
        checkpoint_blocks=checkpoint_blocks,
        chunk_size=2,
        structure_module=StructureModuleConfig(c_s=32, c_z=32, heads=4, blocks=2),
    )
    measured = peak(config, 96, training)
    estimated = peak_bytes(config, 1, 96, chunk_size=2, training=training)
    assert 0.7 < estimated / measured < 1.3, (estimated, measured)
