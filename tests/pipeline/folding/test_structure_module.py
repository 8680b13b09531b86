"""The structure module against reference cases, and its symmetries."""

import torch

from pipeline.config.schema import StructureModuleConfig
from pipeline.folding.frames import Rigid
from pipeline.folding.structure_module import InvariantPointAttention, StructureModule
from tests.pipeline import golden
from tests.pipeline.rigid_forms import from_tensor_7, to_tensor_4x4, to_tensor_7

pytest_generate_tests = golden.parametrize

HYPER = (
    "c_s", "c_z", "c_ipa", "c_resnet", "heads", "qk_points", "v_points", "blocks", "transition_layers", "resnet_blocks",
)  # fmt: skip


def config_of(hyper: torch.Tensor) -> StructureModuleConfig:
    values = dict(zip(HYPER, hyper[:10].tolist(), strict=True))
    return StructureModuleConfig(**values, trans_scale=float(hyper[11]), dropout=0.0)


@golden.cases("ipa")
def test_invariant_point_attention(case):
    c_s, c_z, c_hidden, heads, qk_points, v_points = case.input("hyper").tolist()
    module = InvariantPointAttention(c_s, c_z, c_hidden, heads, qk_points, v_points)
    module.load_state_dict(case.weights())
    module.to(case.dtype)
    s, z, mask, cotangent = case.batch("s", "z", "mask", "cotangent")
    s.requires_grad_(), z.requires_grad_()
    out = module(s, z, from_tensor_7(case.batch("rigid_tensor_7")[0]), mask)
    case.check("out", out[0], gap=4e-7, mask=mask[0])
    (out * cotangent).sum().backward()
    case.check("grad_s", s.grad[0], gap=3e-7)
    case.check("grad_z", z.grad[0], gap=2e-7)


@golden.cases("structure_module")
def test_structure_module(case):
    module = StructureModule(config_of(case.input("hyper")))
    module.load_state_dict(case.weights())
    module.to(case.dtype).eval()
    single, pair, mask = case.batch("single", "pair", "mask")
    single.requires_grad_(), pair.requires_grad_()
    out = module(single, pair, case.input("aatype")[None], mask)

    def masked(tensor):  # [K, 1, N, ...] -> [K, N, ...]
        tensor = tensor[:, 0]
        return tensor * mask[0].reshape(1, -1, *(1,) * (tensor.dim() - 2)).to(tensor.dtype)

    case.check("positions", masked(out.positions), gap=4e-7)
    case.check("states", masked(out.states), gap=4e-7)
    case.check("angles", masked(out.angles), gap=1e-5)
    case.check("unnormalized_angles", masked(out.unnormalized_angles), gap=2e-7)
    case.check("sidechain_frames", masked(to_tensor_4x4(out.sidechain_frames)), gap=4e-7)
    frames = to_tensor_7(out.frames)
    # q and -q are the same rotation: take the reference's sign.
    expected = case.expected("frames").to(frames.dtype)
    sign = torch.where((frames[:, 0, :, :4] * expected[..., :4]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    frames = torch.cat([frames[..., :4] * sign[:, None], frames[..., 4:]], dim=-1)
    case.check("frames", masked(frames), gap=3e-7)
    (out.positions[:, 0] * case.input("cotangent_positions")).sum().backward()
    case.check("grad_single", single.grad[0], gap=1e-6)
    case.check("grad_pair", pair.grad[0], gap=2e-6)


def test_attention_does_not_depend_on_the_frame_of_the_laboratory():
    torch.manual_seed(0)
    module = InvariantPointAttention(8, 6, 4, 2, 3, 5).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    s, z = torch.randn(1, 7, 8, dtype=torch.float64), torch.randn(1, 7, 7, 6, dtype=torch.float64)
    mask = torch.ones(1, 7, dtype=torch.float64)
    update = torch.randn(1, 7, 6, dtype=torch.float64)
    rigids = Rigid.identity((1, 7), dtype=torch.float64).compose_q_update(update)
    move = Rigid.identity((1, 1), dtype=torch.float64).compose_q_update(torch.randn(1, 1, 6, dtype=torch.float64))
    torch.testing.assert_close(module(s, z, rigids, mask), module(s, z, move.compose(rigids), mask))
    mirrored = Rigid(rigids.rot, rigids.trans * torch.tensor([-1.0, 1, 1]))
    assert (module(s, z, rigids, mask) - module(s, z, mirrored, mask)).abs().max() > 1e-3


def test_initial_structure_is_all_frames_at_the_origin():
    """The backbone update starts at zero (AlphaFold's initialisation), so nothing has moved."""
    module = StructureModule(StructureModuleConfig(c_s=16, c_z=8, blocks=2)).eval()
    out = module(torch.randn(1, 5, 16), torch.randn(1, 5, 5, 8), torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5))
    assert torch.equal(out.frames.trans, torch.zeros(2, 1, 5, 3))
    assert torch.equal(out.frames.rot, torch.eye(3).expand(2, 1, 5, 3, 3))
