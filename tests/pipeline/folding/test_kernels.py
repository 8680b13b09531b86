"""Kernels of the pair representation: gradients, cache blocks, dropout, masks, in-place results, number formats."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pipeline.folding.kernels import common, multiplication
from pipeline.folding.kernels.common import ADDED, UPDATE, Plan
from pipeline.folding.triangle import TriangleAttention, TriangleMultiplication
from pipeline.folding.trunk import PairMLP, PairToSequence, dropout_mask

N, C = 5, 4
KERNELS = {
    "multiplication outgoing": lambda c: TriangleMultiplication(c, c - 1, outgoing=True),
    "multiplication incoming": lambda c: TriangleMultiplication(c, c - 1, outgoing=False),
    "attention starting": lambda c: TriangleAttention(c, c // 2, 2, starting=True),
    "attention ending": lambda c: TriangleAttention(c, c // 2, 2, starting=False),
    "transition": lambda c: PairMLP(c, dropout=0.0),
    "pair bias": lambda c: PairToSequence(c, 2),
}


def random_module(name: str, channels: int) -> nn.Module:
    """A kernel's module in float64 with random weights, none of them zero."""
    torch.manual_seed(0)
    module = KERNELS[name](channels).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=1.4 / channels**0.5)
    return module


@pytest.fixture(params=KERNELS)
def kernel(request) -> nn.Module:
    return random_module(request.param, C)


def arguments(module: nn.Module, channels: int = C, batch: int = 2) -> tuple[torch.Tensor, tuple]:
    """Pair representation, and what the module takes besides: a mask and dropout where it knows them."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, N, N, channels, generator=generator, dtype=torch.float64)
    if not isinstance(module, (TriangleAttention, TriangleMultiplication)):
        return z, ()
    mask = torch.ones(batch, N, N, dtype=torch.float64)  # no line without any pair: its softmax would be of 1e9s
    mask[0, ::2, 3:] = 0
    mask[0, 3:, ::2] = 0
    return z, (mask, dropout_mask(z, 0.5, 1))


def test_gradients(kernel):
    """Of the input and of every parameter, against finite differences."""
    z, rest = arguments(kernel)
    names, values = zip(*kernel.named_parameters(), strict=True)

    def function(z, *parameters):
        return functional_call(kernel, dict(zip(names, parameters, strict=True)), (z, *rest))

    assert torch.autograd.gradcheck(function, (z.requires_grad_(), *values), fast_mode=True)


def with_gradients(module: nn.Module, z: torch.Tensor, rest: tuple, plan: Plan) -> list[torch.Tensor]:
    z = z.clone().requires_grad_()
    module.zero_grad()
    out = module(z, *rest, plan=plan)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    return [out.detach(), z.grad, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("long", [False, True])
def test_saved_and_computed_again_are_the_same_numbers(kernel, rows, long, monkeypatch):
    """In several blocks, with the channels of a long chain in groups, and in a second backward pass over one graph."""
    z, rest = arguments(kernel)
    z.requires_grad_()
    monkeypatch.setattr(multiplication, "LONG", 1 if long else 512)
    results, saved = [], []
    for small in (z.numel(), z.numel() - 1):
        monkeypatch.setattr(common, "SAVED", small)
        out = kernel(z, *rest, plan=Plan(rows))
        saved.append(len(out.grad_fn.saved_tensors))
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        for last in (False, True):
            gradients = torch.autograd.grad(out, (z, *kernel.parameters()), cotangent, retain_graph=not last)
            results.append((out, *gradients))
    assert saved[0] > saved[1]
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_blocks_of_any_size_give_the_same(kernel, rows):
    z, rest = arguments(kernel)
    whole, blocked = (with_gradients(kernel, z, rest, Plan(rows=r)) for r in (N, rows))
    for one, other in zip(whole, blocked, strict=True):
        torch.testing.assert_close(one, other)


def test_added_update_and_result_over_the_input(kernel):
    if isinstance(kernel, PairToSequence):
        pytest.skip("its result is no update of the pair representation")
    z, rest = arguments(kernel)
    update, added = (with_gradients(kernel, z, rest, plan) for plan in (UPDATE, ADDED))
    torch.testing.assert_close(z + update[0], added[0])
    weights = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view(z.shape)
    torch.testing.assert_close(weights + update[1], added[1])
    with torch.no_grad():
        own = z.clone()
        out = kernel(own, *rest, plan=Plan(add=True, overwrite=True))
    torch.testing.assert_close(out, added[0])
    assert out.data_ptr() == own.data_ptr()


def test_long_chains_take_the_channels_in_groups(monkeypatch):
    module = random_module("multiplication outgoing", C)
    z, rest = arguments(module)
    whole = module(z, *rest)
    monkeypatch.setattr(multiplication, "LONG", 1)
    torch.testing.assert_close(module(z, *rest), whole)


def test_no_mask_is_a_mask_of_ones(kernel):
    z, rest = arguments(kernel)
    if not rest:
        pytest.skip("takes no mask")
    ones = torch.ones(z.shape[:3], dtype=z.dtype)
    torch.testing.assert_close(kernel(z, None), kernel(z, ones))


@pytest.mark.parametrize("name", KERNELS)
def test_autocast_changes_the_products_alone(name):
    """In bfloat16 with float32 input: results and gradients are float32 and near those of float32."""
    kernel = random_module(name, 32).float()
    z, rest = arguments(kernel, 32)
    z, rest = z.float(), tuple(t.float() for t in rest)
    exact = with_gradients(kernel, z, rest, UPDATE)
    with torch.autocast("cpu", torch.bfloat16):
        short = with_gradients(kernel, z, rest, UPDATE)
    for a, b in zip(exact, short, strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() <= 0.1 * a.norm()  # a ReLU whose input changes its sign changes single gradients


def test_automatic_rows_fit_the_block():
    assert common.automatic_rows("cpu", 256, 256 * 512) == 4
    assert common.automatic_rows("cpu", 3, 16) == 3
    assert common.automatic_rows("cpu", 4000, 4000 * 4000) == 1
