"""Adapters on the trunk's attention: what trains, gradient paths, merging, every method."""

import pytest
import torch

from pipeline.config.schema import ADAPTER_METHODS, TRUNK_METHODS, ConfigError
from pipeline.folding.model import build_model
from pipeline.runs.directory import load_parameters, trained_parameters
from pipeline.training.gradient_check import check_gradient_path, count_parts, factors_of
from tests.pipeline.folding.test_weights import tiny_config, tiny_model

UPDATES = [method for method in TRUNK_METHODS if method not in ("none", "full")]


@pytest.fixture(scope="module")
def base():
    return tiny_model().state_dict()


def adapted(base, method, stem="none", **trunk):
    config = tiny_config(
        init={"weights": "given"},
        stem={"init": "pretrained"},
        adapter={"method": stem, "rank": 2},
        trunk_adapter={"method": method, "rank": 2, **trunk},
    )
    return build_model(config, base).eval()


def inputs(n: int = 9):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 20, (1, n), generator=generator), torch.ones(1, n), torch.arange(n)[None]


def outcome(model):
    out = model(*inputs(), num_recycles=0)
    return out.structure.states.square().sum() + out.pair.square().sum() + out.structure.positions.abs().sum()


def off_zero(model):
    """Small values in the factors that start at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in factors_of(model).values():
            if not factor.any():
                factor.add_(0.05 * torch.randn(factor.shape, generator=generator))


@pytest.mark.parametrize("method", UPDATES)
def test_every_method_trains_the_trunk_through_its_adapter_alone(base, method):
    model = adapted(base, method)
    before = outcome(model).item()
    plain = outcome(
        build_model(tiny_config(init={"weights": "given"}, stem={"init": "pretrained"}), base).eval()
    ).item()
    assert before == pytest.approx(plain, rel=1e-5)  # the updates start at zero
    proofs = check_gradient_path(model, lambda: outcome(model), seed=0)
    assert {proof.name.split(".")[0] for proof in proofs} == {"sequence", "triangle"}
    assert sum(torch.Size(proof.shape).numel() for proof in proofs) == sum(
        p.numel() for p in factors_of(model).values()
    )
    trains = {part for part, _, p in model.named_parts() if p.requires_grad}
    assert trains == {"trunk adapter", "structure module", "heads"}


TRANSITIONS = {"targets": ["q", "k", "v", "o", "up", "down"]}


@pytest.mark.parametrize("method", ["lorta", "lora"])
def test_transitions_are_adapted_with_their_attention(base, method):
    """Every factor has a gradient, the update starts at zero, and merged it is the same; both transitions move."""
    plain = adapted(base, "none")
    model = adapted(base, method, settings=TRANSITIONS)
    assert outcome(model).item() == pytest.approx(outcome(plain).item(), rel=1e-5)
    roles = {name: {site.role for site in next(iter(part.values())).sites.values()} for name, part in
             model.trunk_adapters.items()}  # fmt: skip
    assert roles == {name: set(TRANSITIONS["targets"]) for name in ("sequence", "triangle")}
    proofs = check_gradient_path(model, lambda: outcome(model), seed=0)
    assert {proof.name.split(".")[0] for proof in proofs} == {"sequence", "triangle"}
    off_zero(model)
    with torch.no_grad():
        before = model(*inputs(), num_recycles=1).structure.positions
        with model.merged():
            inside = model(*inputs(), num_recycles=1).structure.positions
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-4)
    assert (before - plain(*inputs(), num_recycles=1).structure.positions).abs().max() > 1e-3
    for transition in (model.trunk.blocks[0].mlp_seq, model.trunk.blocks[0].mlp_pair):
        assert {type(transition.mlp[i]).__name__ for i in (1, 3)} == {"AdaptedLinear"}


def test_not_all_linear_maps_of_the_trunk_can_be_adapted(base):
    with pytest.raises(ConfigError, match="triangle multiplications and the outer product cannot: give"):
        adapted(base, "lorta", settings={"targets": "all-linear"})


@pytest.mark.parametrize("method", ["lorta", "lora", "vera"])
def test_merged_equals_unmerged_and_comes_back(base, method):
    model = adapted(base, method, stem="lora").eval()
    off_zero(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        before = model(*inputs(), num_recycles=1).structure.positions
        with model.merged():
            inside = model(*inputs(), num_recycles=1).structure.positions
        after = model(*inputs(), num_recycles=1).structure.positions
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-4)
    assert torch.equal(after, before)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    with torch.no_grad():
        base_model = build_model(tiny_config(init={"weights": "given"}, stem={"init": "pretrained"}), base).eval()
        plain = base_model(*inputs(), num_recycles=1).structure.positions
    assert (before - plain).abs().max() > 0.01  # the adapters did something


def test_parts_and_counts(base):
    """LoRTA rank 2 on 2 blocks: sequence, d 32 = 4 heads of 8; triangle, d 16 = 4 heads of 4, starting and ending."""
    parts = {part.part: part for part in count_parts(adapted(base, "lorta", stem="lorta"))}
    sequence = 2 * (32 + 8 + 4 + 2 + 4)
    triangle = 2 * (16 + 4 + 4 + 2 * 2 + 4)
    assert parts["trunk adapter"].total == parts["trunk adapter"].trainable == sequence + triangle
    assert parts["trunk"].trainable == parts["stem to trunk"].trainable == parts["stem"].trainable == 0
    assert parts["structure module"].trainable == parts["structure module"].total
    assert parts["adapter"].trainable == 2 * (64 + 16 + 4 + 3 + 4)
    frozen = {part.part: part for part in count_parts(adapted(base, "none"))}
    assert "trunk adapter" not in frozen and frozen["trunk"].trainable == 0


def test_gradients_of_the_factors_are_those_of_dense_weights(base):
    """The triangle attention takes weights, the sequence attention is called: both reach the same factors."""
    model = adapted(base, "lora").double()
    off_zero(model)

    def outcome() -> torch.Tensor:  # not of the structure module, which stops the gradient of its rotations
        out = model(*inputs(), num_recycles=0)
        return out.pair.square().sum() + out.single.square().sum()

    outcome().backward()
    generator = torch.Generator().manual_seed(2)
    for name, factor in factors_of(model).items():
        direction = torch.randn(factor.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                factor.add_(direction, alpha=sign * 1e-6)
                values.append(outcome().item())
                factor.sub_(direction, alpha=sign * 1e-6)
        slope = (values[0] - values[1]) / 2e-6
        assert (factor.grad * direction).sum().item() == pytest.approx(slope, rel=1e-3, abs=1e-4), name


def test_what_the_trunk_cannot_do_is_refused(base):
    with pytest.raises(ConfigError, match=r"trunk_adapter\.settings\.dropout"):
        adapted(base, "lora", settings={"dropout": 0.1})
    with pytest.raises(ConfigError, match=r"trunk_adapter\.method = 'houlsby'"):
        adapted(base, "houlsby")
    with pytest.raises(ConfigError, match=r"init\.weights = 'given', and base weights were not given"):
        build_model(tiny_config(init={"weights": "given"}, stem={"init": "pretrained"}))


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_every_method_on_the_stem_takes_a_step_and_is_read_back(base, method):
    settings = {"drop": 1} if method == "adapterdrop" else {}
    given = {"init": {"weights": "given"}, "stem": {"init": "pretrained"}}
    config = tiny_config(**given, adapter={"method": method, "rank": 2, "settings": settings})
    model = build_model(config, base).eval()
    plain = build_model(tiny_config(**given), base).eval()
    torch.testing.assert_close(outcome(model), outcome(plain), rtol=1e-5, atol=1e-3)
    proofs = check_gradient_path(model, lambda: outcome(model), seed=0)
    assert bool(proofs) == (method not in ("none", "full"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stem = {n: p for n, p in trained_parameters(model).items() if n.startswith("stem.")}
    assert bool(stem) == (method != "none")
    optimizer = torch.optim.Adam([*stem.values(), model.esm_s_combine], lr=1e-2)
    for _ in range(2):  # a factor that does not start at zero has a gradient from the second step on
        optimizer.zero_grad()
        outcome(model).backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {*stem, "esm_s_combine"}
    again = build_model(config, base).eval()
    load_parameters(again, trained_parameters(model), "here")
    torch.testing.assert_close(outcome(again), outcome(model), rtol=0, atol=0)
