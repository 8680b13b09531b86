"""Triangle updates and the ways from single to pair, against reference cases and naive formulas."""

import pytest
import torch

from pipeline.folding.triangle import OuterProductMean, ProductDifference, TriangleAttention, TriangleMultiplication
from pipeline.folding.trunk import ResidueMLP
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


def run(case, module, name="z"):
    module.load_state_dict(case.weights())
    module.to(case.dtype)
    x = case.input(name)
    x = (x if name == "m" else x[None]).requires_grad_()
    mask = case.input("mask")
    out = module(x, mask if name == "m" else mask[None])[0]
    pair_mask = mask[0][:, None] * mask[0][None, :] if name == "m" else mask
    case.check("out", out, gap=3e-7, mask=pair_mask)
    (out * case.input("cotangent")).sum().backward()
    case.check(f"grad_{name}", x.grad if name == "m" else x.grad[0], gap=4e-7)


@golden.cases("tri_mul_out", "tri_mul_in")
def test_triangle_multiplication(case):
    run(case, TriangleMultiplication(16, 16, outgoing="tri_mul_out" in case.path.name))


@golden.cases("tri_att_start", "tri_att_end")
def test_triangle_attention(case):
    run(case, TriangleAttention(16, 8, 2, starting="tri_att_start" in case.path.name))


@golden.cases("outer_product_mean")
def test_outer_product_mean(case):
    width, hidden = case.input("m").shape[-1], case.weights()["linear_1.bias"].shape[0]
    run(case, OuterProductMean(width, case.weights()["linear_out.bias"].shape[0], hidden), name="m")


@golden.cases("pair_transition")
def test_pair_transition(case):
    """The reference has no residual connection and masks its output; ours adds to its input."""
    weights = case.weights()
    channels = weights["layer_norm.weight"].shape[0]
    module = ResidueMLP(channels, dropout=0.0)
    names = {"layer_norm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"}
    module.load_state_dict(
        {f"{names[name.rsplit('.', 1)[0]]}.{name.rsplit('.', 1)[1]}": value for name, value in weights.items()}
    )
    module.to(case.dtype)
    z = case.input("z").requires_grad_()
    mask = case.input("mask")[..., None]
    out = (module(z) - z) * mask
    case.check("out", out, gap=3e-7)
    (out * case.input("cotangent")).sum().backward()
    case.check("grad_z", z.grad, gap=4e-7)


@pytest.mark.parametrize("module", [OuterProductMean(12, 8, 4), ProductDifference(12, 4, 8)])
def test_single_to_pair_equals_the_formula_written_out(module):
    """Every pair from its own two residues, without the factorisation."""
    torch.manual_seed(0)
    module = module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    s, mask = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0.0]])
    out = module(s, mask)
    for b, i, j in ((0, 1, 4), (1, 2, 0), (0, 3, 3)):
        if isinstance(module, OuterProductMean):
            x = module.layer_norm(s[b])
            outer = torch.outer(module.linear_1(x[i]), module.linear_2(x[j])).flatten()
            expected = module.linear_out(outer) / (1 + 1e-3)
        else:
            x = module.proj(module.layernorm(s[b]))
            (q, _), (_, k) = x[j].chunk(2), x[i].chunk(2)
            expected = module.o_proj(torch.cat([q * k, q - k]))
        torch.testing.assert_close(out[b, i, j], expected)


def test_padding_does_not_reach_real_pairs():
    torch.manual_seed(0)
    z = torch.randn(1, 6, 6, 16)
    mask = torch.zeros(1, 6, 6)
    mask[:, :4, :4] = 1
    noisy = z + 100 * (1 - mask[..., None])
    modules = [TriangleMultiplication(16, 8, outgoing=flag) for flag in (True, False)]
    modules += [TriangleAttention(16, 8, 2, starting=flag) for flag in (True, False)]
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        torch.testing.assert_close(module(z, mask)[:, :4, :4], module(noisy, mask)[:, :4, :4])
