import pytest
import torch
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from torch import nn

import lorta
from lorta import find_sites
from lorta.sites import features


def test_every_projection_of_every_block(model, case):
    sites = find_sites(model)
    assert [(site.layer, site.role) for site in sites] == [(layer, role) for layer in range(3) for role in "qkvo"]
    for site in sites:
        shape = features(model.get_submodule(site.module), site.module)
        if site.rows is None:
            assert shape == (site.in_features, site.out_features)
        else:
            assert shape[1] == 3 * site.out_features
        groups = case.groups if site.role in "kv" else 1
        assert (site.residual_width, site.head_width, site.heads) == (case.width, case.inner // groups, case.heads)
        assert (site.own_heads, site.head_dim) == (case.heads // groups, case.inner // case.heads)


def test_every_linear_map_of_every_layer(model, case):
    if not case.feed_forward:
        with pytest.raises(ValueError, match=r"no feed-forward of a known name beside blocks\.0; target the attention"):
            find_sites(model, "all-linear")
        return
    sites = find_sites(model, "all-linear")
    roles = [*"qkvo", *case.feed_forward.split()]
    assert [(site.layer, site.role) for site in sites] == [(layer, role) for layer in range(3) for role in roles]
    assert [site for site in sites if site.role in "qkvo"] == find_sites(model)
    for site in sites:
        if site.role not in "qkvo":
            shape = features(model.get_submodule(site.module), site.module)
            assert shape == (site.in_features, site.out_features * (1 if site.rows is None else 2))
            assert (site.residual_width, site.head_width, site.own_heads) == (case.width, case.inner, case.heads)
            assert case.inner * (site.slices - 1) < site.far_width <= case.inner * site.slices
            assert site.shape in ((case.width, case.inner), (case.inner, case.width))


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


def test_layers_that_share_their_weights_are_one(hf):
    """ALBERT: one layer of weights, however often it is run; T5: its feed-forward reads weights directly."""
    albert = hf("Albert", embedding_size=8)
    assert [site.role for site in find_sites(albert, "all-linear")] == [*"qkvo", "up", "down"]
    t5 = hf("T5", d_model=24, d_kv=8, d_ff=48, num_decoder_layers=2, num_heads=4)
    assert [site.role for site in find_sites(t5)] == [*"qkvo"] * (3 + 2 * 2)
    assert (find_sites(t5)[0].heads, find_sites(t5)[0].head_dim) == (4, 8)
    asked = {"input_ids": torch.arange(4, 13)[None], "decoder_input_ids": torch.arange(5, 10)[None]}
    with torch.no_grad():
        before = t5.eval()(**asked).last_hidden_state
        assert len(lorta.attach(t5, r=2).modules_adapted) == 28
        assert torch.equal(t5(**asked).last_hidden_state, before)
    lorta.detach(t5)
    with pytest.raises(ValueError, match="no feed-forward of a known name beside encoder"):
        find_sites(t5, "all-linear")


@pytest.mark.parametrize(
    ("kind", "settings", "targets", "roles"),
    [
        ("Phi", {"hidden_size": 32}, "all-linear", 6),
        ("Phi3", {"pad_token_id": 0}, "all-linear", 7),
        ("DebertaV2", {}, "all-linear", 6),
        ("MPNet", {}, "all-linear", 6),
        ("Albert", {"embedding_size": 8}, "all-linear", 6),
        ("GPTJ", {"rotary_dim": 4}, "all-linear", 6),
        ("Bloom", {}, "all-linear", 6),
        ("DistilBert", {}, "all-linear", 6),
        ("Bart", {"d_model": 24, "encoder_attention_heads": 4, "decoder_attention_heads": 4}, "all-linear", 6),
        ("T5", {"d_model": 24, "d_kv": 8, "d_ff": 48, "num_heads": 4}, ("q", "k", "v", "o"), 4),
    ],
)
def test_every_map_of_a_family_reaches_the_output(hf, tokens, kind, settings, targets, roles):
    """One role after the other off zero: each changes the output, as its merged weight does."""
    torch.manual_seed(0)
    model = hf(kind, **settings).eval()
    whole = {"input_ids": tokens, "decoder_input_ids": tokens} if kind == "T5" else {"input_ids": tokens}
    adapter = lorta.attach(model, method="lora", r=2, targets=targets, seed=0)
    with torch.no_grad():
        before = model(**whole).last_hidden_state
        assert len({site.role for site in adapter.sites.values()}) == roles
        for site in adapter.sites.values():
            adapter.tensors[site.key].B.normal_(std=0.3)
            after = model(**whole).last_hidden_state
            assert not torch.equal(after, before), site.name
            before = after
        lorta.merge(model)
        torch.testing.assert_close(model(**whole).last_hidden_state, before, rtol=1e-4, atol=1e-4)


def test_a_model_is_adapted_whole_or_not_at_all(hf):
    led = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "attention_window": 4}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    place = "encoder.layers.0.self_attn.longformer_self_attn of LEDEncoderSelfAttention"
    assert _refusal(hf("LED", **led, **heads)).startswith(f"{place} mixes its tokens by modules of unknown names")
    minimax = hf("MiniMax", num_key_value_heads=2, num_local_experts=2, head_dim=6)
    assert _refusal(minimax).startswith("layers.1 of MiniMaxDecoderLayer mixes its tokens by modules of unknown names")


def test_original_esm_c():
    """Names and order of the package esm: LayerNorm and projections in one Sequential, SwiGLU's gate first."""

    class MultiHeadAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.n_heads = 4
            self.layernorm_qkv = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 72))
            self.out_proj = nn.Linear(24, 24)

    layer = nn.Module()
    layer.attn = MultiHeadAttention()
    layer.ffn = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 128), nn.SiLU(), nn.Linear(64, 24))
    sites = {site.role: site for site in find_sites(nn.ModuleList([layer]), "all-linear")}
    assert [site.name for site in sites.values()] == [
        *(f"0.attn.layernorm_qkv.1:{role}" for role in "qkv"),
        *("0.attn.out_proj", "0.ffn.1:up", "0.ffn.1:gate", "0.ffn.3"),
    ]
    starts = {role: site.rows.start for role, site in sites.items() if site.rows}
    assert starts == {"q": 0, "k": 24, "v": 48, "gate": 0, "up": 64}


def test_mamba_is_not_said_to_have_attention(hf):
    assert "no attention projections found in MambaModel" in _refusal(hf("Mamba", state_size=4))


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

    message = _refusal(nn.ModuleDict({"attention": Fused()}))
    assert message == "attention.c_attn of Fused holds q, k and v in one matrix in an order that is not known here"


@pytest.mark.parametrize("width", [9, 18, 3])
def test_grouped_queries_that_do_not_divide(plain, width):
    """Four query heads of width 6: key heads must be whole and divide them, so 18 = 3 heads is wrong too."""
    plain.blocks[1].k_proj = nn.Linear(24, width)
    assert f"blocks.1: k_proj has {width} outputs for k, which is no whole number of heads of width 6" in _refusal(
        plain
    )


def test_unknown_heads(plain):
    del plain.blocks[0].num_heads
    assert "blocks.0 does not state its number of heads" in _refusal(plain)


def test_heads_by_their_width(plain):
    for block in plain.blocks:
        del block.num_heads
        block.head_dim = 6
    assert {site.heads for site in lorta.find_sites(plain)} == {4}
    plain.blocks[0].head_dim = 7  # no whole number of them
    assert "blocks.0 does not state its number of heads" in _refusal(plain)


def test_interleaved_heads_with_fewer_keys():
    class BloomAttention(nn.Module):
        """The order by head of this class is known for as many key heads as query heads alone."""

        def __init__(self):
            super().__init__()
            self.num_heads = 4
            self.query_key_value, self.dense = nn.Linear(24, 24 + 2 * 12), nn.Linear(24, 24)

    message = _refusal(nn.ModuleDict({"attention": BloomAttention()}))
    assert message == "attention: query_key_value is interleaved by head, but k and v have fewer heads than q"


def test_heads_that_do_not_divide(plain):
    plain.blocks[2].num_heads = 5
    assert "blocks.2 has 5 heads, which do not divide its query width 24" in _refusal(plain)


def test_not_a_linear(plain):
    plain.blocks[0].v_proj = nn.Sequential(nn.Linear(24, 24))
    assert "blocks.0.v_proj is a Sequential; only torch.nn.Linear and Conv1D" in _refusal(plain)


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


def test_cross_attention_of_gpt2(needs_transformers):
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, add_cross_attention=True))
    assert "h.0.crossattention is cross-attention: c_attn holds k and v alone" in _refusal(model)


@pytest.mark.parametrize("role", ["q", "k", "v"])
@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Phi3", "Mistral"])
def test_each_role_reaches_its_own_tensor(hf, monkeypatch, kind, role, tokens, perturb):
    """What the model itself hands to its attention function, before and after adapting one role.

    The difference of v is x dW^T head by head; those of q and k are rotated by their positions, which keeps lengths.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = {}

    def spy(module, query, key, value, *args, **kwargs):
        if not seen:
            seen.update(q=query.detach(), k=key.detach(), v=value.detach())
        return torch.zeros_like(query).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "spy", spy)
    settings = {"num_key_value_heads": 2} if kind in ("Phi3", "Mistral") else {}
    torch.manual_seed(0)
    model = hf(kind, bos_token_id=2, eos_token_id=3, **settings).eval()
    model.config._attn_implementation = "spy"
    adapter = lorta.attach(model, r=3, targets=(role,), seed=0)
    site = next(iter(adapter.sites.values()))
    inputs = []
    model.get_submodule(site.module).register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    model(tokens)
    before = dict(seen)
    seen.clear()
    perturb(adapter)
    model(tokens)
    delta = inputs[0] @ adapter.update(site).dense().T
    expected = delta.unflatten(-1, (site.own_heads, -1)).transpose(1, 2)  # [batch, heads, length, head_dim]
    for name in "qkv":
        moved = seen[name] - before[name]
        if name != role:
            assert moved.abs().max() == 0
        elif role == "v" or kind == "GPT2":
            torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(moved.norm(dim=-1), expected.norm(dim=-1), rtol=1e-4, atol=1e-5)
            assert expected.norm() > 0.1


def test_bloom_splits_as_its_layout_says(needs_transformers):
    """BLOOM's own method takes the fused output apart; number the outputs and see where they go."""
    from transformers import BloomConfig, BloomModel

    model = BloomModel(BloomConfig(vocab_size=33, hidden_size=24, n_layer=1, n_head=4))
    parts = model.h[0].self_attention._reshape(torch.arange(72.0).view(1, 1, 72))  # [batch, heads, length, head_dim]
    for site, part in zip(find_sites(model, ("q", "k", "v")), parts, strict=True):
        assert part.flatten().tolist() == site.rows.index(24, "cpu").tolist()


@pytest.mark.parametrize("owner", ["project", "transformers"])
def test_trunk_attention_splits_as_its_layout_says(owner, perturb):
    """One role adapted: the block with that role's dW added to its own rows of ``proj``, taken apart head by head."""
    torch.manual_seed(0)
    if owner == "project":
        from pipeline.folding.trunk import SequenceAttention

        block = nn.ModuleDict({"seq_attention": SequenceAttention(24, 4)})
        call = (torch.randn(2, 5, 24), torch.ones(2, 5), torch.randn(2, 4, 5, 5))
        run = lambda model: model["seq_attention"](*call)  # noqa: E731
    else:
        port = pytest.importorskip("transformers.models.esm.modeling_esmfold", reason="needs the lm extra")
        block = nn.ModuleDict({"seq_attention": port.EsmFoldSelfAttention(24, 4, 6, gated=True)})
        x = torch.randn(2, 5, 24)
        run = lambda model: model["seq_attention"](x, mask=torch.ones(2, 5), bias=torch.randn(2, 5, 5, 4) * 0)[0]  # noqa: E731
    nn.init.normal_(block["seq_attention"].o_proj.weight, std=0.2)
    before = run(block)
    for index, role in enumerate("qkv"):
        adapter = lorta.attach(block, r=3, seed=0, targets=(role,))
        perturb(adapter)
        adapted = run(block)
        assert not torch.allclose(adapted, before, atol=1e-4)
        delta = adapter.update(next(iter(adapter.sites.values()))).dense()
        lorta.detach(block)
        weight = block["seq_attention"].proj.weight
        with torch.no_grad():
            rows = weight.view(4, 3, 6, 24)  # heads, roles, head_dim, in
            rows[:, index] += delta.view(4, 6, 24)
            torch.testing.assert_close(adapted, run(block), rtol=1e-4, atol=1e-5)
            rows[:, index] -= delta.view(4, 6, 24)


def test_both_kinds_of_attention_of_the_trunk_are_found():
    """Of different shapes: one tensor spans those of one kind (``pipeline.folding.adapters``)."""
    from pipeline.folding.trunk import TrunkBlock, TrunkConfig

    config = {"c_s": 24, "c_z": 16, "sequence_head_width": 6, "pair_head_width": 8}
    blocks = nn.ModuleList(TrunkBlock(TrunkConfig(**config, triangle_attention=third)) for third in (False, True))
    sequence = ("proj:q", "proj:k", "proj:v", "o_proj")
    triangle = ("linear_q", "linear_k", "linear_v", "linear_o")
    assert [site.name for site in find_sites(blocks)] == [
        *(f"0.seq_attention.{name}" for name in sequence),
        *(f"1.seq_attention.{name}" for name in sequence),
        *(f"1.tri_att_start.mha.{name}" for name in triangle),
        *(f"1.tri_att_end.mha.{name}" for name in triangle),
    ]
    assert {(site.heads, site.residual_width) for site in find_sites(blocks)} == {(4, 24), (2, 16)}


def test_adapted_key_heads_stand_for_their_group(hf):
    """With equal rows of C_H in each group, a key head moves as that row says, times the root of the group's size."""
    torch.manual_seed(0)
    model = hf("Mistral", num_key_value_heads=2)
    adapter = lorta.attach(model, r=3, seed=0)
    factors = adapter.tensors["all"]
    with torch.no_grad():
        factors.B.normal_()
        factors.C_H.copy_(torch.tensor([2.0, 2.0, -1.0, -1.0])[:, None].expand(4, 3))
    update = adapter.update(adapter.sites["layers.1.self_attn.k_proj"]).dense().unflatten(0, (2, 6))
    torch.testing.assert_close(update[0], -2 * update[1])
    plain = (factors.B * factors.C_L[1] * factors.C_M[1]) @ factors.A.T
    torch.testing.assert_close(update[0], 2 * 2**0.5 * plain)
