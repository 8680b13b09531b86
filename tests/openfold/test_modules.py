"""Network modules with the same weights: structure module, triangle updates, outer product mean, transition."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import StructureModuleConfig
from pipeline.folding.kernels.common import UPDATE
from pipeline.folding.structure_module import InvariantPointAttention, StructureModule
from pipeline.folding.triangle import OuterProductMean, TriangleAttention, TriangleMultiplication
from pipeline.folding.trunk import PairMLP
from tests.openfold.inputs import BATCH, RESIDUES, UNKNOWN, Random, protein, residue_mask
from tests.openfold.reference import (
    assert_agree,
    assert_same_gradients,
    outer_product_mean,
    pair_transition,
    residue_tables,
    rigid_of,
    share_weights,
    structure_module,
    triangular_attention,
    triangular_multiplicative_update,
)
from tests.pipeline.rigid_forms import to_tensor_4x4, to_tensor_7

C_S, C_Z, HEADS, WIDTH, QK_POINTS, V_POINTS = 20, 12, 3, 8, 4, 5


def pairs(mask: Tensor) -> Tensor:
    """[B, N, N] of residues that both exist."""
    return mask[:, :, None] * mask[:, None, :]


def single_and_pair(rng: Random) -> tuple[Tensor, Tensor]:
    single, pair = rng.normal(BATCH, RESIDUES, C_S), rng.normal(BATCH, RESIDUES, RESIDUES, C_Z)
    return single.requires_grad_(), pair.requires_grad_()


def assert_same_update(ours: nn.Module, theirs: nn.Module, outputs: tuple[Tensor, Tensor], x: Tensor, mask: Tensor):
    """Values under the mask, gradients of the input and of all parameters, which both modules share."""
    assert_agree(*outputs, mask)
    assert_same_gradients(*outputs, [x, *ours.parameters()], mask, looser=10)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


def test_invariant_point_attention(seed):
    rng, mask = Random(seed), residue_mask()
    sizes = (C_S, C_Z, WIDTH, HEADS, QK_POINTS, V_POINTS)
    ours, theirs = InvariantPointAttention(*sizes), structure_module.InvariantPointAttention(*sizes)
    share_weights(ours, theirs, rng)
    (single, pair), rigids = single_and_pair(rng), rng.rigid(BATCH, RESIDUES, spread=2.0)
    frames = [rigids.rot.requires_grad_(), rigids.trans.requires_grad_()]
    outputs = ours(single, pair, rigids, mask), theirs(single, pair, rigid_of(rigids), mask)
    assert_agree(*outputs, mask)
    # softmax does not see the bias of the pair term
    seen = [parameter for name, parameter in ours.named_parameters() if name != "linear_b.bias"]
    assert_same_gradients(*outputs, [single, pair, *frames, *seen], mask, looser=10)


def test_structure_module(seed):
    """Every output of every iteration, and gradients of all of them."""
    rng, mask, aatype = Random(seed), residue_mask(), protein(seed)["aatype"]
    config = StructureModuleConfig(
        c_s=C_S, c_z=C_Z, c_ipa=WIDTH, c_resnet=16, heads=HEADS, qk_points=QK_POINTS, v_points=V_POINTS, blocks=3,
        transition_layers=2, resnet_blocks=2,
    )  # fmt: skip
    ours = StructureModule(config)
    theirs = structure_module.StructureModule(
        c_s=C_S, c_z=C_Z, c_ipa=WIDTH, c_resnet=16, no_heads_ipa=HEADS, no_qk_points=QK_POINTS, no_v_points=V_POINTS,
        dropout_rate=0.1, no_blocks=3, no_transition_layers=2, no_resnet_blocks=2, no_angles=7,
        trans_scale_factor=10, epsilon=1e-8, inf=1e5,
    )  # fmt: skip
    for name, table in residue_tables().items():
        theirs.register_buffer(name, table)
    share_weights(ours, theirs, rng)
    single, pair = single_and_pair(rng)
    out, reference = ours(single, pair, aatype, mask), theirs({"single": single, "pair": pair}, aatype, mask)
    frames = to_tensor_7(out.frames)
    sign = (frames[..., :4] * reference["frames"][..., :4]).sum(-1, keepdim=True).sign()  # q and -q are one rotation
    outputs = {
        "frames": torch.cat((sign * frames[..., :4], frames[..., 4:]), dim=-1),
        "sidechain_frames": to_tensor_4x4(out.sidechain_frames),
        "unnormalized_angles": out.unnormalized_angles,
        "angles": out.angles,
        "positions": out.positions,
        "states": out.states,
    }
    assert reference.keys() == outputs.keys() | {"single"}
    mask = mask.expand(config.blocks, -1, -1)
    known = mask * (aatype != UNKNOWN)
    for name, value in outputs.items():
        # for an unknown residue OpenFold's frame has a rotation of zeros, see test_geometry
        assert_agree(value, reference[name], known if name == "sidechain_frames" else mask, looser=10)
    assert_agree(out.states[-1], reference["single"], mask[-1], looser=10)
    everything = [torch.cat([x[name].flatten(3) for name in outputs], dim=-1) for x in (outputs, reference)]
    leaves = [single, pair, *(x for name, x in ours.named_parameters() if name != "ipa.linear_b.bias")]
    assert_same_gradients(*everything, leaves, known, looser=100)


@pytest.mark.parametrize("outgoing", [True, False], ids=["outgoing", "incoming"])
@pytest.mark.parametrize("c_hidden", [C_Z, 2 * C_Z])
def test_triangle_multiplication(seed, outgoing, c_hidden):
    """Under a mask that is not one of residues."""
    rng = Random(seed)
    name = "TriangleMultiplicationOutgoing" if outgoing else "TriangleMultiplicationIncoming"
    ours = TriangleMultiplication(C_Z, c_hidden, outgoing=outgoing)
    theirs = getattr(triangular_multiplicative_update, name)(C_Z, c_hidden)
    share_weights(ours, theirs, rng)
    (_, pair), mask = single_and_pair(rng), rng.chance(0.8, BATCH, RESIDUES, RESIDUES)
    everywhere = torch.ones_like(mask)
    assert_same_update(ours, theirs, (ours(pair, mask), theirs(pair, mask)), pair, everywhere)
    assert_same_update(ours, theirs, (ours(pair, None), theirs(pair)), pair, everywhere)


@pytest.mark.parametrize("starting", [True, False], ids=["starting", "ending"])
def test_triangle_attention(seed, starting):
    rng, mask = Random(seed), pairs(residue_mask())
    ours = TriangleAttention(C_Z, WIDTH, HEADS, starting=starting)
    theirs = triangular_attention.TriangleAttention(C_Z, WIDTH, HEADS, starting=starting)
    share_weights(ours, theirs, rng)
    _, pair = single_and_pair(rng)
    assert_same_update(ours, theirs, (ours(pair, mask), theirs(pair, mask)), pair, mask)
    assert_same_update(ours, theirs, (ours(pair, None), theirs(pair)), pair, torch.ones_like(mask))
    holes = rng.chance(0.8, BATCH, RESIDUES, RESIDUES)
    holes.diagonal(dim1=1, dim2=2).fill_(1)  # no row without a key
    assert_same_update(ours, theirs, (ours(pair, holes), theirs(pair, holes)), pair, torch.ones_like(mask))


def test_outer_product_mean(seed):
    """OpenFold's of one sequence."""
    rng, mask = Random(seed), residue_mask()
    ours, theirs = OuterProductMean(C_S, C_Z, 5), outer_product_mean.OuterProductMean(C_S, C_Z, 5)
    share_weights(ours, theirs, rng)
    single, _ = single_and_pair(rng)
    outputs = ours(single, mask), theirs(single[:, None], mask[:, None])
    assert_same_update(ours, theirs, outputs, single, pairs(mask))
    outputs = ours(single, None), theirs(single[:, None])
    assert_same_update(ours, theirs, outputs, single, torch.ones_like(pairs(mask)))


def test_pair_transition(seed):
    """OpenFold's masks its output, as AlphaFold does not; nor does ours."""
    rng = Random(seed)
    ours, theirs = PairMLP(C_Z, dropout=0.0), pair_transition.PairTransition(C_Z, 4)
    share_weights(ours, theirs, rng, {"mlp.0": "layer_norm", "mlp.1": "linear_1", "mlp.3": "linear_2"})
    (_, pair), mask = single_and_pair(rng), rng.chance(0.8, BATCH, RESIDUES, RESIDUES)
    assert_same_update(ours, theirs, (ours(pair, UPDATE), theirs(pair, mask)), pair, mask)
    assert_same_update(ours, theirs, (ours(pair) - pair, theirs(pair)), pair, torch.ones_like(mask))
