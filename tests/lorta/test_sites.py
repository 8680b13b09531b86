import pytest
import torch
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from torch import nn

from lorta import find_sites


def test_every_projection_of_every_block(model, case):
    sites = find_sites(model)
    assert [(site.layer, site.role) for site in sites] == [(layer, role) for layer in range(3) for role in "qkvo"]
    for site in sites:
        linear = model.get_submodule(site.name)
        assert isinstance(linear, nn.Linear)
        assert (linear.in_features, linear.out_features) == (site.in_features, site.out_features)
        assert (site.residual_width, site.head_width, site.heads) == (case.width, case.inner, case.heads)


def test_names_of_fair_esm():
    model = ESM2(num_layers=2, embed_dim=8, attention_heads=2, alphabet="ESM-1b")
    assert [site.name for site in find_sites(model)[4:]] == [
        f"layers.1.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]


def test_only_targets(plain):
    assert [site.role for site in find_sites(plain, ("v", "q"))] == ["q", "v"] * 3


def test_layers_count_in_numeric_order():
    """Eleven blocks: sorted as text, block 10 would come before block 2."""
    blocks = nn.ModuleList(TransformerLayer(8, 8, 2, add_bias_kv=False, use_rotary_embeddings=True) for _ in range(11))
    assert [site.name for site in find_sites(blocks, ("q",)) if site.layer == 10] == ["10.self_attn.q_proj"]


def _refusal(model: nn.Module) -> str:
    with pytest.raises(ValueError) as error:
        find_sites(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_to_adapt():
    assert "no attention projections found in Sequential; known names are" in _refusal(nn.Sequential(nn.Linear(2, 2)))


def test_torch_multihead_attention():
    assert "reads its weights directly" in _refusal(nn.TransformerEncoderLayer(8, 2))


def test_fair_esm_without_rotary_embeddings():
    layer = TransformerLayer(8, 8, 2, add_bias_kv=False, use_rotary_embeddings=False)
    message = _refusal(layer)
    assert message.startswith("self_attn has no rotary embeddings and reads weights directly")


def test_fused_projection(plain):
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(8, 24)

    assert "c_attn holds q, k and v in one matrix" in _refusal(Fused())


def test_grouped_queries(plain):
    plain.blocks[1].k_proj = nn.Linear(24, 12)
    assert "blocks.1 has grouped queries: k_proj has 12 outputs and q_proj 24" in _refusal(plain)


def test_unknown_heads(plain):
    del plain.blocks[0].num_heads
    assert "blocks.0 does not state its number of heads" in _refusal(plain)


def test_heads_that_do_not_divide(plain):
    plain.blocks[2].num_heads = 5
    assert "blocks.2 has 5 heads, which do not divide its query width 24" in _refusal(plain)


def test_not_a_linear(plain):
    plain.blocks[0].v_proj = nn.Sequential(nn.Linear(24, 24))
    assert "blocks.0.v_proj is a Sequential; only torch.nn.Linear" in _refusal(plain)


def test_esm1_is_refused_and_would_otherwise_ignore_the_adapter():
    """What the refusal protects from: the ESM-1 block gives the same output whatever its q_proj module computes."""
    layer = TransformerLayer(8, 8, 2, add_bias_kv=False, use_rotary_embeddings=False).eval()
    x = torch.randn(5, 1, 8)
    before, _ = layer(x)
    layer.self_attn.q_proj.register_forward_hook(lambda module, args, output: output + 1e3)
    after, _ = layer(x)
    assert torch.equal(before, after)


def test_names_of_transformers(needs_transformers):
    """The modules of the real library; where it is installed, the whole suite runs on them."""
    from transformers import RobertaConfig, RobertaModel

    shape = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = RobertaModel(RobertaConfig(**shape, intermediate_size=8))
    assert [site.name for site in find_sites(model)[4:]] == [
        f"encoder.layer.1.attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")
    ]
