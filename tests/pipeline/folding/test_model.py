"""The whole model: gradient reaches the adapter, batching, parameter counts, adapters."""

import dataclasses

import pytest
import torch

from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import RunConfig
from pipeline.folding.adapters import PAPER_ALPHA, adapter_alpha
from pipeline.folding.model import build_model, sinusoidal_positions
from pipeline.training.gradient_check import GradientPathError, check_gradient_path, count_parts, frozen_checksums

SMALL = {
    "trunk": {"blocks": 1, "c_s": 32, "c_z": 16, "structure_module": {"c_s": 32, "c_z": 16, "heads": 2, "blocks": 2}}
}


def config_of(method: str = "lorta", **adapter) -> RunConfig:
    return resolve(preset_layer("tiny"), SMALL, {"adapter": {"method": method, "rank": 2, **adapter}})


def inputs(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 20, (1, n), generator=generator), torch.ones(1, n), torch.arange(n)[None]


def loss_of(model):
    def loss():
        torch.manual_seed(0)
        out = model(*inputs(), num_recycles=0)
        return out.structure.states.square().sum() + out.pair.square().sum() + out.single.square().sum()

    return loss


@pytest.mark.parametrize(("method", "count"), [("lorta", 2 * (64 + 16 + 4 + 3 + 4)), ("lora", 2 * 2 * 64 * 12)])
def test_adapter_parameters_and_gradient_path(method, count):
    model = build_model(config_of(method))
    parts = {part.part: part for part in count_parts(model)}
    assert parts["adapter"].trainable == parts["adapter"].total == count
    assert parts["stem"].trainable == 0
    assert parts["trunk"].trainable == parts["trunk"].total
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    proofs = check_gradient_path(model, loss_of(model), seed=0)
    assert sum(torch.Size(proof.shape).numel() for proof in proofs) == count
    for proof in proofs:
        assert (proof.gradient_at_start > 0) == proof.starts_at_zero
        assert proof.gradient_off_zero > 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), f"the proof changed {name}"
        assert parameter.grad is None


def test_the_proof_fails_where_the_stem_is_detached(monkeypatch):
    """What the published ports do: an adapter that can never move."""
    model = build_model(config_of())
    forward = model.stem.forward
    monkeypatch.setattr(model.stem, "forward", lambda *a: forward(*a).detach())
    with pytest.raises(GradientPathError, match="it cannot train"):
        check_gradient_path(model, loss_of(model), seed=0)


def test_checksums_see_every_change_however_it_is_written():
    model = build_model(config_of("none"))
    before = frozen_checksums(model)
    assert before.keys() == {name for name, p in model.named_parameters() if not p.requires_grad}
    weight = model.stem.esm.layers[1].fc1.weight
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1.0)
    assert frozen_checksums(model) == before
    weight.data[3, 4] += 1e-6  # past autograd's version counter
    changed = frozen_checksums(model)
    assert {name for name in before if before[name] != changed[name]} == {"stem.esm.layers.1.fc1.weight"}


def test_full_and_none():
    full, none = build_model(config_of("full")), build_model(config_of("none"))
    assert not none.stem_trains
    assert all(not p.requires_grad for p in none.stem.parameters())
    loss_of(full)().backward()
    missing = [n for n, p in full.stem.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert sum(p.numel() for p in full.stem.parameters() if p.requires_grad) > 100_000
    assert check_gradient_path(none, loss_of(none), seed=0) == []


def test_every_parameter_that_trains_gets_a_gradient():
    """Otherwise it would have no optimizer state, and a run could not be resumed."""
    model = build_model(resolve(preset_layer("tiny"), SMALL, {"heads": {"pae": True}}))
    out = model(*inputs(), num_recycles=1)
    structure = out.structure
    loss = structure.positions.square().sum() + structure.angles.sum() + structure.unnormalized_angles.square().sum()
    loss = loss + out.distogram_logits.square().sum() + out.plddt_logits.square().sum()
    (loss + out.pae_logits.square().sum()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert {part for part, name, _ in model.named_parts() if name.startswith("ptm_head.")} == {"heads"}


def test_same_seed_same_model_and_adapter_starts_as_base():
    first, again, base = build_model(config_of()), build_model(config_of()), build_model(config_of("none"))
    with torch.no_grad():
        outs = [m.eval()(*inputs(), num_recycles=1) for m in (first, again, base)]
    assert torch.equal(outs[0].structure.positions, outs[1].structure.positions)
    assert torch.equal(outs[0].structure.positions, outs[2].structure.positions)


def test_what_is_shown_and_what_is_built():
    """Shown residues decide the representations, true ones only which side chains are built."""
    model = build_model(config_of()).eval()
    aatype, mask, index = inputs()
    other = (aatype + 3) % 20
    with torch.no_grad():
        plain = model(aatype, mask, index, 0)
        same = model(aatype, mask, index, 0, aatype)
        shown = model(aatype, mask, index, 0, other)
        built = model(other, mask, index, 0, other)
    assert torch.equal(plain.structure.positions, same.structure.positions)
    assert torch.equal(shown.single, built.single)
    assert not torch.equal(shown.single, plain.single)
    assert not torch.equal(shown.structure.positions, built.structure.positions)


def test_batch_equals_single():
    model = build_model(config_of()).eval()
    for parameter in model.trunk.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    aatype, _, index = inputs(9)
    aatype = torch.cat([aatype, aatype.flip(1)])
    mask = torch.ones(2, 9)
    mask[1, 5:] = 0
    with torch.no_grad():
        both = model(aatype, mask, index.expand(2, 9), 1)
        alone = model(aatype[1:, :5], mask[1:, :5], index[:, :5], 1)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(both.structure.positions[:, 1, :5], alone.structure.positions[:, 0], **close)
    torch.testing.assert_close(both.distogram_logits[1, :5, :5], alone.distogram_logits[0], **close)
    torch.testing.assert_close(both.plddt_logits[1, :5], alone.plddt_logits[0], **close)


def test_esm2_35m_has_540_adapter_parameters_per_rank():
    """LoRTA paper, appendix D.4: r (d + d/H + H + L + 4) with d = 480, H = 20, L = 12."""
    config = resolve(
        preset_layer("tiny"), SMALL, {"stem": {"name": "esm2_t12_35M", "init": "random"}, "adapter": {"rank": 8}}
    )
    assert {part.part: part.total for part in count_parts(build_model(config))}["adapter"] == 540 * 8


@pytest.mark.parametrize(("method", "rank"), PAPER_ALPHA)
def test_paper_alpha(method, rank):
    config = config_of(method, rank=rank, alpha="paper")
    assert adapter_alpha(config.adapter) == PAPER_ALPHA[method, rank]
    assert build_model(config).adapter.config.alpha == PAPER_ALPHA[method, rank]


@pytest.mark.parametrize("method", ["none", "full"])
def test_alpha_is_nothing_without_an_adapter(method):
    assert adapter_alpha(dataclasses.replace(config_of().adapter, method=method, alpha="paper")) is None


def test_sinusoidal_positions():
    out = sinusoidal_positions(torch.tensor([[0, 3]]), 4)
    expected = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.14112, 0.029996, -0.98999, 0.99955]]])  # sin, sin, cos, cos
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    odd = sinusoidal_positions(torch.tensor([[0, 3]]), 5)
    assert odd.shape == (1, 2, 5)
    assert odd[0, 0].tolist() == [0, 0, 0, 1, 1]


def test_the_trunk_starts_from_zeros_that_take_no_memory(monkeypatch):
    model = build_model(config_of())
    seen = []
    forward = model.trunk.forward

    def watched(single, pair, *rest):
        seen.append(pair)
        return forward(single, pair, *rest)

    monkeypatch.setattr(model.trunk, "forward", watched)
    with torch.no_grad():
        model(*inputs(), num_recycles=1)
    (pair,) = seen
    assert pair.shape == (1, 6, 6, 16) and not pair.any()
    assert pair.untyped_storage().nbytes() == pair.itemsize
