"""Blocks, trunk with recycling, relative positions: against reference cases, and batching."""

import pytest
import torch

from pipeline.config.schema import StructureModuleConfig, TrunkConfig
from pipeline.folding.kernels import common
from pipeline.folding.kernels.common import BLOCK_NUMBERS, Plan
from pipeline.folding.trunk import FoldingTrunk, RelativePosition, TrunkBlock, dropout_mask, recycle_distogram
from tests.pipeline import golden
from tests.pipeline.folding.test_structure_module import config_of

pytest_generate_tests = golden.parametrize


@golden.cases("esmfold_block")
def test_esmfold_block(case):
    c_s, c_z, sequence_width, pair_width = case.input("hyper").tolist()
    config = TrunkConfig(
        c_s=c_s,
        c_z=c_z,
        sequence_head_width=sequence_width,
        pair_head_width=pair_width,
        pair_update="product_difference",
        triangle_attention=True,
    )
    block = TrunkBlock(config)
    block.load_state_dict(case.weights())
    block.to(case.dtype)
    s, z, mask = case.input("s").requires_grad_(), case.input("z").requires_grad_(), case.input("mask")
    s_out, z_out = block(s, z, mask)
    pair_mask = mask[:, :, None] * mask[:, None, :]
    case.check("s_out", s_out, gap=1e-7, mask=mask)
    case.check("z_out", z_out, gap=4e-7, mask=pair_mask)
    ((s_out * case.input("cotangent_s")).sum() + (z_out * case.input("cotangent_z")).sum()).backward()
    case.check("grad_s", s.grad, gap=3e-7, mask=mask)
    case.check("grad_z", z.grad, gap=3e-7, mask=pair_mask)


@golden.cases("esmfold_trunk")
def test_esmfold_trunk_with_recycling(case):
    blocks, c_s, c_z, sequence_width, pair_width, bins, _ = case.input("hyper_trunk").tolist()
    config = TrunkConfig(
        blocks=blocks,
        c_s=c_s,
        c_z=c_z,
        sequence_head_width=sequence_width,
        pair_head_width=pair_width,
        position_bins=bins,
        pair_update="product_difference",
        triangle_attention=True,
        structure_module=config_of(case.input("hyper_sm")),
    )
    trunk = FoldingTrunk(config)
    trunk.load_state_dict(case.weights())
    trunk.to(case.dtype).eval()
    mask = case.input("mask")
    pair_mask = mask[:, :, None] * mask[:, None, :]
    features = case.input("seq_feats").requires_grad_()
    pair = features.new_zeros(*mask.shape, mask.shape[1], c_z)
    for recycles in (0, 1, 2):
        s, z, structure = trunk(
            features, pair, case.input("aatype"), case.input("residue_index"), mask.to(case.dtype), recycles
        )
        positions = structure.positions * mask[None, :, :, None, None]
        case.check(f"positions_recycles{recycles}", positions, gap=5e-7)
        case.check(f"s_s_recycles{recycles}", s, gap=3e-7, mask=mask)
        case.check(f"s_z_recycles{recycles}", z, gap=4e-7, mask=pair_mask)
        bins = recycle_distogram(structure.positions[-1][:, :, :3])
        case.check(f"recycle_bins_after{recycles}", bins * pair_mask)
        if recycles == 1:
            (structure.positions * case.input("cotangent_positions_recycles1")).sum().backward()
            case.check("grad_s_recycles1", features.grad, gap=2e-6, mask=mask)


@golden.cases("relpos")
def test_relative_positions(case):
    weight = case.input("weight")
    module = RelativePosition((len(weight) - 2) // 2, weight.shape[1])
    module.load_state_dict({"embedding.weight": weight})
    case.check("out", module.to(case.dtype)(case.input("residue_index"), case.input("mask")))


@golden.cases("recycle_distogram")
def test_recycle_distogram(case):
    limits = case.scalar("min_bin"), case.scalar("max_bin"), int(case.scalar("no_bins"))
    case.check("bins", recycle_distogram(case.input("backbone_n_ca_c"), *limits))


def small_trunk(pair_update: str, triangle_attention: bool) -> FoldingTrunk:
    config = TrunkConfig(
        blocks=2,
        c_s=16,
        c_z=8,
        sequence_head_width=8,
        pair_head_width=4,
        c_outer_product=4,
        pair_update=pair_update,
        triangle_attention=triangle_attention,
        structure_module=StructureModuleConfig(c_s=16, c_z=8, heads=2, blocks=2),
    )
    torch.manual_seed(0)
    trunk = FoldingTrunk(config).double().eval()
    for parameter in trunk.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return trunk


@pytest.mark.parametrize("pair_update", ["outer_product_mean", "product_difference"])
@pytest.mark.parametrize("triangle_attention", [True, False])
def test_batch_equals_single_and_padding_changes_nothing(pair_update, triangle_attention):
    trunk = small_trunk(pair_update, triangle_attention)
    lengths = (7, 4)
    single = torch.randn(2, 7, 16, dtype=torch.float64)
    mask = torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3], dtype=torch.float64)
    aatype = torch.randint(0, 20, (2, 7))
    index = torch.arange(7).expand(2, 7)
    pair = torch.zeros(2, 7, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        s, z, structure = trunk(single, pair, aatype, index, mask, 1)
        for b, n in enumerate(lengths):
            alone = slice(b, b + 1)
            arguments = (single[alone, :n], pair[alone, :n, :n], aatype[alone, :n], index[alone, :n], mask[alone, :n])
            s1, z1, structure1 = trunk(*arguments, 1)
            torch.testing.assert_close(s[b, :n], s1[0])
            torch.testing.assert_close(z[b, :n, :n], z1[0])
            torch.testing.assert_close(structure.positions[:, b, :n], structure1.positions[:, 0])


def test_checkpointed_blocks_give_the_same_gradients():
    gradients = []
    for checkpointed in (False, True):
        trunk = small_trunk("outer_product_mean", True)
        object.__setattr__(trunk.config, "checkpoint_blocks", checkpointed)
        generator = torch.Generator().manual_seed(1)
        single = torch.randn(1, 6, 16, dtype=torch.float64, generator=generator)
        pair = torch.zeros(1, 6, 6, 8, dtype=torch.float64)
        mask = torch.ones(1, 6, dtype=torch.float64)
        out = trunk(single, pair, torch.zeros(1, 6, dtype=torch.int64), torch.arange(6)[None], mask, 0)[2]
        out.positions.square().sum().backward()
        gradients.append([p.grad.clone() for p in trunk.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def fold(trunk: FoldingTrunk, n: int = 9, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(2)
    single = torch.randn(1, n, 16, generator=generator, dtype=dtype)
    pair = torch.zeros(1, n, n, 8, dtype=dtype)
    aatype = torch.randint(0, 20, (1, n), generator=generator)
    return trunk(single, pair, aatype, torch.arange(n)[None], torch.ones(1, n, dtype=dtype), 1)


@pytest.mark.parametrize("size", [1, 4])
def test_chunked_equals_unchunked(size):
    """With gradients, and without, where the pair representation is updated in place."""
    trunk = small_trunk("product_difference", True)
    assert trunk.chunk_size_for(9) == 9
    s, z, structure = fold(trunk)
    trunk.set_chunk_size(size)
    assert trunk.chunk_size_for(9) == size
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            chunked = fold(trunk)
        torch.testing.assert_close(chunked[0], s)
        torch.testing.assert_close(chunked[1], z)
        torch.testing.assert_close(chunked[2].positions, structure.positions)
    trunk.set_chunk_size(None)
    assert trunk.chunk_size_for(9) == 9
    with pytest.raises(ValueError, match="chunk size -1"):
        trunk.set_chunk_size(-1)


def test_inputs_are_left_alone_without_gradients():
    block = small_trunk("product_difference", True).blocks[0]
    s, z = torch.randn(1, 6, 16, dtype=torch.float64), torch.randn(1, 6, 6, 8, dtype=torch.float64)
    before = s.clone(), z.clone()
    with torch.no_grad():
        block(s, z, torch.ones(1, 6, dtype=torch.float64))
    assert torch.equal(s, before[0]) and torch.equal(z, before[1])


def test_structure_module_is_float32_under_autocast():
    """bfloat16 blocks move the atoms a little; coordinates themselves are float32, and the rotations orthogonal."""
    trunk = small_trunk("product_difference", True).float()
    exact = fold(trunk, dtype=torch.float32)[2]
    with torch.autocast("cpu", torch.bfloat16):
        structure = fold(trunk, dtype=torch.float32)[2]
    assert structure.positions.dtype == structure.frames.rot.dtype == torch.float32
    rot = structure.frames.rot
    identity = torch.eye(3).expand_as(rot)
    torch.testing.assert_close(rot @ rot.transpose(-1, -2), identity, atol=1e-5, rtol=0)
    change = (structure.positions - exact.positions).norm() / exact.positions.norm()
    assert 0 < change < 0.05


def test_shared_dropout_drops_whole_lines_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(2, 50, 50, 4)
    for axis in (1, 2):
        lines = dropout_mask(x, 0.25, axis).expand_as(x)
        assert lines.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert torch.equal(lines, lines.narrow(axis, 0, 1).expand_as(lines))
        assert lines.mean() == pytest.approx(1.0, abs=0.1)
    assert dropout_mask(x, 0.0, 1) is None


@pytest.mark.parametrize("pair_update", ["outer_product_mean", "product_difference"])
def test_pair_representation_stays_float32_under_autocast(pair_update):
    """With gradients as without: what blocks add up would lose its last digits in bfloat16, block after block."""
    block = small_trunk(pair_update, True).blocks[0].float()
    generator = torch.Generator().manual_seed(1)
    s, z = torch.randn(1, 6, 16, generator=generator), torch.randn(1, 6, 6, 8, generator=generator)
    mask = torch.ones(1, 6)
    with torch.autocast("cpu", torch.bfloat16):
        trained = block(s, z, mask)
        with torch.no_grad():
            predicted = [block(s, z, mask), block(s, z.clone(), mask, Plan(overwrite=True))]
    for results in (trained, *predicted):
        assert results[0].dtype is results[1].dtype is torch.float32
        assert (results[1] - trained[1]).norm() <= 0.01 * trained[1].norm()  # PyTorch's attention differs by so much


@pytest.mark.parametrize("gradients", [True, False])
def test_kernels_save_only_for_a_backward_pass(gradients, monkeypatch):
    """Weights that require gradients do not tell whether there will be one."""
    saving = []
    monkeypatch.setattr(common.Saved, "store", lambda saved, *_: saving.append(saved.saves))
    block = small_trunk("product_difference", True).blocks[0].float()
    with torch.set_grad_enabled(gradients):
        for overwrite in (False, True):
            block(torch.randn(1, 6, 16), torch.randn(1, 6, 6, 8), None, Plan(overwrite=overwrite))
    assert saving == [gradients] * 2 * 6


def test_a_sample_of_padding_alone_is_finite():
    """In bfloat16 too, where the lowest number of float32 would be infinite."""
    block = small_trunk("product_difference", True).blocks[0].float()
    s, z = torch.randn(1, 6, 16), torch.randn(1, 6, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for tensor in block(s, z, torch.zeros(1, 6)):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("pair_update", ["outer_product_mean", "product_difference"])
def test_no_mask_is_a_mask_of_ones(pair_update):
    block = small_trunk(pair_update, True).blocks[0]
    s, z = torch.randn(2, 6, 16, dtype=torch.float64), torch.randn(2, 6, 6, 8, dtype=torch.float64)
    ones = torch.ones(2, 6)
    for found, expected in zip(block(s, z, None), block(s, z, ones), strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(block(s, z, ones.bool()), block(s, z, ones), strict=True):
        assert torch.equal(found, expected)


def test_trunk_masks_nothing_where_nothing_is_padding():
    trunk, masks = small_trunk("product_difference", False), []
    for block in trunk.blocks:
        block.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[2]))
    fold(trunk)
    assert masks == [None] * 4


def test_kernels_are_left_out_of_compilation(monkeypatch):
    """Compiled as a whole, with several rows at a time in place, a block was off by a third without any error."""
    monkeypatch.setitem(BLOCK_NUMBERS, "cpu", 2**9)
    block = small_trunk("product_difference", True).blocks[0].eval()
    generator = torch.Generator().manual_seed(0)
    s, z = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((1, 20, 16), (1, 20, 20, 8)))
    with torch.no_grad():
        expected = block(s.clone(), z.clone(), None, Plan(overwrite=True))
        block.compile(backend="aot_eager")
        for found, right in zip(block(s.clone(), z.clone(), None, Plan(overwrite=True)), expected, strict=True):
            torch.testing.assert_close(found, right)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_block_on_a_gpu_is_that_of_a_cpu(precision):
    """Outputs and gradients, with padding; saved for the backward pass and computed again."""
    block = TrunkBlock(TrunkConfig(c_s=64, c_z=64, triangle_attention=True)).train()
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    s, z = torch.randn(2, 70, 64, generator=generator), torch.randn(2, 70, 70, 64, generator=generator)
    mask = (torch.arange(70) < torch.tensor([[70], [51]])).float()
    results = []
    for device, waiting in (("cpu", 1), ("cuda", 1), ("cuda", common.SAVED)):
        block.to(device)
        inputs = [t.to(device).requires_grad_() for t in (s, z)]
        on, short = mask.to(device), precision is torch.bfloat16
        with torch.autocast(device, torch.bfloat16, enabled=short):
            s_out, z_out = block(*inputs, on, Plan(waiting=waiting))
        s_out, z_out = s_out * on[..., None], z_out * (on[:, :, None] * on[:, None])[..., None]
        gradients = torch.autograd.grad(s_out.square().sum() + z_out.square().sum(), [*inputs, *block.parameters()])
        results.append([t.detach().cpu() for t in (s_out, z_out, *gradients)])
    largest = max(t.norm() for t in results[0][2:])
    for found in results[1:]:
        for one, right in zip(found, results[0], strict=True):
            error = 0.1 if precision is torch.bfloat16 else 1e-3
            assert (one - right).norm() <= error * max(right.norm(), 1e-3 * largest)
