"""Every method but LoRTA and LoRA: dense reconstruction from the published formula, counts, starts.

The reconstructions build whole tensors with einsum, in float64, where the code multiplies thin factors site by site.
"""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import lorta
from lorta.layer import WeightAdapter
from lorta.pairs import contract, modes_of

WIDTH, HEADS, LAYERS = 24, 4, 3
FLOAT32 = (torch.device("cpu"), torch.float32)


def factors_of(adapter: WeightAdapter, key: str) -> dict[str, Tensor]:
    state = adapter.tensors[key]
    return {name: value.detach().double() for name, value in [*state.named_parameters(), *state.named_buffers()]}


def place(site: lorta.Site, cores: Tensor) -> Tensor:
    """[heads, residual, head_dim] -> dW [out, in]: heads on the input of o and down, on the output of the others."""
    if site.role in ("o", "down"):
        return cores.permute(1, 0, 2).flatten(1)
    return cores.permute(0, 2, 1).flatten(0, 1)


def lora_fa(f, config, site, where):
    return f["B"] @ f["A"]


def vera(f, config, site, where):
    key = f"layer{site.layer}_{site.role}"
    a, b = f["A"][:, : site.in_features], f["B"][: site.out_features]
    return torch.diag(f[f"b.{key}"]) @ b @ torch.diag(f[f"d.{key}"]) @ a


def nola(f, config, site, where):
    key = f"layer{site.layer}_{site.role}"
    down = sum(f[f"a.{key}"][i] * f["A"][i] for i in range(config.bases))
    up = sum(f[f"b.{key}"][i] * f["B"][i] for i in range(config.bases))
    return up @ down


def fact_tt(f, config, site, where):
    return torch.einsum("ia,nab,ob->noi", f["U"], f["S"], f["V"])[where["row"]]


def fact_tk(f, config, site, where):
    return torch.einsum("ia,abc,nc,ob->noi", f["U"], f["C"], f["P"], f["V"])[where["row"]]


def metatt_4d(f, config, site, where):
    whole = torch.einsum("ia,lab,mbc,oc->lmoi", f["G_in"], f["G_L"], f["G_M"], f["G_out"])
    return whole[site.layer, where["role"]]


def metatt_5d(f, config, site, where):
    whole = torch.einsum("ia,lab,mbc,hcd,od->lmhio", f["G_in"], f["G_L"], f["G_M"], f["G_H"], f["G_out"])
    return place(site, whole[site.layer, where["role"]])


def tenslora(f, config, site, where):
    """The absent modes have one entry, 1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    h, m, layers = (f.get(name, one) for name in ("F_H", "F_M", "F_L"))
    core = f["C"]
    for axis, factor in ((2, "F_H"), (3, "F_M"), (4, "F_L")):
        core = core if factor in f else core.unsqueeze(axis)
    whole = torch.einsum("abcde,ia,ob,hc,md,le->lmhio", core, f["U"], f["V"], h, m, layers)
    return place(site, whole[site.layer if "F_L" in f else 0, where["role"] if "F_M" in f else 0])


def cara(f, config, site, where):
    if site.role not in "qkv":
        return place(site, torch.einsum("k,nk,ik,ok->nio", f["w"], f["S"], f["A"], f["B"])[where["row"]][None])
    whole = torch.einsum("k,nk,ik,hk,ok->nhio", f["w"], f["S"], f["A"], f["C_H"], f["B"])
    return place(site, whole[where["row"]])


def loretta_rep(f, config, site, where):
    trains = []
    for name, width in (("A", site.in_features), ("B", site.out_features)):
        g = [f[f"{name}.{i}"] for i in range(4)]
        trains.append(torch.einsum("aib,bjc,ckd,dre->ijkr", *g).reshape(width, config.r))
    return trains[1] @ trains[0].T


def tt_lora(f, config, site, where):
    g = [f[f"G.{i}"] for i in range(6)]
    train = torch.einsum("zia,ajb,bkc,cld,dme,eny->ijklmn", *g)
    return train.reshape(site.in_features, site.out_features).T


def lorta_axis(f, config, site, where):
    """A diag(c) KR^T at all four for the input, its transpose for the output."""
    whole = torch.einsum("lk,mk,hk,ok,ik->lmiho", f["C_L"], f["C_M"], f["C_H"], f["B"], f["A"]).flatten(3)
    update = whole[site.layer, where["role"]] / 0.02**4 / (3 * WIDTH) ** 0.5  # the gain of the default start
    return update if config.axis == "input" else update.T


DEFINITIONS = {
    "lora-fa": lora_fa,
    "vera": vera,
    "nola": nola,
    "lotr": fact_tt,
    "fact-tt": fact_tt,
    "fact-tk": fact_tk,
    "metatt-4d": metatt_4d,
    "metatt-5d": metatt_5d,
    "tenslora": tenslora,
    "cara": cara,
    "loretta-rep": loretta_rep,
    "tt-lora": tt_lora,
    "lorta": lorta_axis,
}


PAIRS = ("lora", "lora-fa", "vera", "nola", "loretta-rep", "tt-lora")
"""These take a matrix of any shape as it is; the others in slices of the attention's."""


def slices_of(site: lorta.Site, config: lorta.LortaConfig) -> int:
    """Rounded up from the widths; 76 / 24 gives 4."""
    return 1 if site.role in "qkvo" or config.method in PAIRS else -(-max(site.in_features, site.out_features) // WIDTH)


@pytest.mark.only("others")
def test_update_is_the_definition(model, config, perturb):
    adapter = lorta.attach(model.double(), config)
    perturb(adapter)
    rows, first, row = {}, {}, 0
    for site in adapter.sites.values():  # of the first layer: the row of each role in a factor over matrices
        if site.layer == 0:
            first[site.role], row = row, row + slices_of(site, config)
    for site in adapter.sites.values():
        key = adapter._group_of[site.name]
        factors, blocks = factors_of(adapter, key), []
        spans = "matrices" in (config.modes or ("matrices",))
        for number in range(slices_of(site, config)):
            where = {"row": rows.get(key, 0), "role": (first[site.role] if spans else 0) + number}
            rows[key] = where["row"] + 1
            whole = site if slices_of(site, config) == 1 else dataclasses.replace(site, in_features=24, out_features=24)
            blocks.append(DEFINITIONS[config.method](factors, config, whole, where))
        axis = 1 if site.role == "down" else 0
        wide = (site.out_features, site.in_features)[axis]
        expected = config.alpha / config.r * torch.cat(blocks, axis).narrow(axis, 0, wide)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(adapter.update(site).dense(), expected, rtol=1e-11, atol=1e-13)


def attention(width: int, heads: int, layers: int) -> nn.Module:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = heads
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self.add_module(name, nn.Linear(width, width, device="meta"))

    return nn.ModuleList(Block() for _ in range(layers))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # RoBERTa-base: d = 768, H = 12, L = 12, four matrices unless said
        ({"method": "lora-fa", "r": 8}, 768 * 8 * 48),
        ({"method": "vera", "r": 1024, "targets": ("q", "v")}, 24 * (768 + 1024)),  # 43,008: the paper's 0.043M
        ({"method": "nola", "bases": 100}, 48 * 200),
        ({"method": "lotr", "r": 2, "targets": ("q", "v")}, 3168),  # the authors' own figure
        ({"method": "fact-tt", "r": 4}, 2 * 768 * 4 + 48 * 16),
        ({"method": "fact-tk", "r": 4}, 2 * 768 * 4 + 48 * 4 + 64),
        ({"method": "metatt-4d", "r": 8}, 2 * 768 * 8 + (12 + 4) * 64),
        ({"method": "metatt-5d", "r": 8}, (768 + 64) * 8 + (12 + 4 + 12) * 64),
        ({"method": "tenslora", "r": 4}, 4 * (768 + 64 + 12 + 4 + 12) + 4**5),
        ({"method": "tenslora", "r": 8}, 8 * (768 + 64 + 12 + 12) + 4 * 4 + 8**4 * 4),  # four matrices: rank 4
        (
            {"method": "tenslora", "r": 4, "ranks": {"out": 16, "heads": 2}},
            4 * (768 + 4 + 12) + 64 * 16 + 12 * 2 + 64 * 32,
        ),
        ({"method": "tenslora", "r": 4, "modes": ("matrices",)}, 12 * (4 * (2 * 768 + 4) + 64)),
        ({"method": "tenslora", "r": 4, "modes": ("heads", "layers")}, 4 * (4 * (768 + 64 + 12 + 12) + 256)),
        ({"method": "cara", "r": 4}, 4 * (36 + 768 + 12 + 64 + 1) + 4 * (12 + 2 * 768 + 1)),
        ({"method": "loretta-rep", "r": 8}, 48 * 2 * (8 * 5 + 5 * 8 * 5 + 5 * 12 * 5 + 5 * 8)),
        ({"method": "tt-lora", "r": 5}, 48 * (8 * 5 + 8 * 25 + 12 * 25 + 8 * 25 + 8 * 25 + 12 * 5)),
        ({"axis": "input", "r": 4}, 3440),
    ],
)
def test_counts(settings, expected):
    assert lorta.attach(attention(768, 12, 12), **settings).num_parameters() == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"r": 4}, 4 * (768 + 64 + 12 + 12 + 12)),
        ({"method": "lora", "r": 8}, 12 * 8 * (4 * 2 * 768 + 2 * 5 * 768)),
        ({"method": "lora-fa", "r": 8}, 12 * 8 * (4 * 768 + 5 * 768)),
        ({"method": "vera", "r": 256}, 12 * (6 * 256 + 5 * 768 + 3072)),
        ({"method": "nola", "bases": 100}, 72 * 200),
        ({"method": "lotr", "r": 2}, 2 * 768 * 2 + 144 * 4),
        ({"method": "fact-tt", "r": 16}, 2 * 768 * 16 + 144 * 256),  # 12 L matrices, as in its paper
        ({"method": "fact-tk", "r": 32}, 2 * 768 * 32 + 144 * 32 + 32**3),
        ({"method": "metatt-4d", "r": 8}, 2 * 768 * 8 + (12 + 12) * 64),
        ({"method": "metatt-5d", "r": 8}, (768 + 64) * 8 + (12 + 12 + 12) * 64),
        ({"method": "tenslora", "r": 4}, 4 * (768 + 64 + 12 + 12 + 12) + 4**5),
        ({"method": "cara", "r": 32}, 32 * (12 * 12 + 3 * 768 + 12 + 64 + 2)),
        ({"method": "loretta-rep", "r": 8}, 12 * (10 * (40 + 200 + 300 + 40) + 2 * (60 + 400 + 400 + 40))),
    ],
)
def test_counts_of_all_linear(settings, expected):
    """RoBERTa-base and ViT-B: 12 L matrices of 768 x 768, 3,072 being four of them; 3,072 is 12 x 16 x 16."""
    model = nn.ModuleList()
    for block in attention(768, 12, 12):
        layer = nn.Module()
        layer.self_attn = block
        layer.fc1, layer.fc2 = nn.Linear(768, 3072, device="meta"), nn.Linear(3072, 768, device="meta")
        model.append(layer)
    assert lorta.attach(model, targets="all-linear", **settings).num_parameters() == expected


def test_fixed_factors_are_in_the_file_and_do_not_train(plain, tokens, tmp_path):
    adapter = lorta.attach(plain, method="vera", r=3)
    assert {name for name, value in adapter.named_parameters() if not value.requires_grad} == {
        "tensors.all.A",
        "tensors.all.B",
    }
    assert "tensors.all.A" in adapter.state_dict()
    assert adapter.tensors["all"].d["layer0_q"].tolist() == pytest.approx([0.1] * 3)


def test_bases_come_from_the_seed_and_are_in_no_file(plain):
    adapter = lorta.attach(plain, method="nola", r=3, bases=5, seed=1)
    assert not any(name.endswith((".A", ".B")) for name in adapter.state_dict())
    same, other = (lorta.attach(plain, method="nola", r=3, bases=5, seed=seed, name=str(seed)) for seed in (1, 2))
    key = next(iter(adapter.tensors))
    assert torch.equal(adapter.tensors[key].A, same.tensors[key].A)
    assert not torch.equal(adapter.tensors[key].A, other.tensors[key].A)


@pytest.mark.parametrize(
    "method", ["vera", "nola", "metatt-5d", "tenslora", "cara", "loretta-rep", "tt-lora", "lora-fa"]
)
def test_grouped_queries_and_wide_heads(hf, method, tokens, run, perturb):
    model = hf("Qwen3", num_key_value_heads=2, head_dim=8).eval()
    adapter = lorta.attach(model, method=method, r=3, seed=0)
    perturb(adapter)
    factored = run(model, tokens)
    lorta.merge(model)
    torch.testing.assert_close(run(model, tokens), factored, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lotr", "fact-tt", "fact-tk", "metatt-4d"])
def test_one_pair_for_all_needs_one_shape(hf, method):
    model = hf("Mistral", num_key_value_heads=2)
    with pytest.raises(ValueError, match="one tensor needs the same shape at all its sites"):
        lorta.attach(model, method=method, r=3)


def test_axis_of_the_authors_codes_needs_square_matrices(hf):
    with pytest.raises(ValueError, match="axis 'input' needs square matrices"):
        lorta.attach(hf("Mistral", num_key_value_heads=2), axis="input", r=2)


@pytest.mark.parametrize(
    ("width", "modes"), [(768, (8, 8, 12)), (480, (6, 8, 10)), (1024, (8, 8, 16)), (7, (1, 1, 7)), (1, (1, 1, 1))]
)
def test_modes_of_a_width(width, modes):
    assert modes_of(width) == modes


def test_contraction_of_a_train_of_ones():
    """Ranks 2 and 3: every element is the number of paths, 6."""
    cores = [torch.ones(1, 2, 2), torch.ones(2, 3, 3), torch.ones(3, 4, 1)]
    assert torch.equal(contract(cores), torch.full((6, 4), 6.0))


@pytest.mark.parametrize("method", ["metatt-4d", "metatt-5d", "cara", "lora-fa"])
def test_first_step_is_that_of_lora(method):
    """Starts of our reading: RMS sqrt(r / d) eta s after an Adam step, at two ranks and widths; a factor 2 at most."""
    for width, heads, r in ((64, 4, 4), (256, 8, 16)):
        torch.manual_seed(0)
        model = attention(width, heads, 2).to_empty(device="cpu")
        init = {"init": "unit"} if method == "lora-fa" else {}
        adapter = lorta.attach(model, method=method, r=r, seed=0, **init)
        with torch.no_grad():
            for name in adapter.zero_factors:
                parameter = adapter.factors()[name]
                parameter.copy_(1e-3 * (torch.randint(0, 2, parameter.shape) * 2 - 1))
        step = adapter.update(adapter.sites["1.q_proj"]).dense().pow(2).mean().sqrt().item()
        assert step == pytest.approx((r / width) ** 0.5 * 1e-3, rel=0.3)


class TestFreeze:
    """``freeze``: what a factor's flag means for training and for its count."""

    def test_lora_with_a_frozen_is_lora_fa(self, plain):
        frozen = WeightAdapter(lorta.LortaConfig(method="lora", r=3, freeze=("A",)), lorta.find_sites(plain), *FLOAT32)
        fa = WeightAdapter(lorta.LortaConfig(method="lora-fa", r=3), lorta.find_sites(plain), *FLOAT32)
        assert {name: p.shape for name, p in frozen.factors().items()} == {n: p.shape for n, p in fa.factors().items()}

    def test_a_frozen_factor_keeps_its_start_and_is_in_the_file(self, plain, tokens, tmp_path):
        adapter = lorta.attach(plain, r=3, freeze=("C_H",), seed=0)
        assert not adapter.tensors["all"].C_H.requires_grad
        assert adapter.num_parameters() == 3 * (24 + 6 + 3 + 4)
        before = adapter.tensors["all"].C_H.clone()
        optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            plain(tokens).square().mean().backward()
            optimizer.step()
        assert torch.equal(adapter.tensors["all"].C_H, before)
        lorta.save(plain, tmp_path)
        lorta.detach(plain)
        loaded = lorta.load(plain, tmp_path)
        assert loaded.config.freeze == ("C_H",) and torch.equal(loaded.tensors["all"].C_H, before)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"freeze": ("C_X",)}, "freeze: 'lorta' has no factor 'C_X'; it has A, B, C_H, C_L, C_M"),
            ({"freeze": ("A",)}, r"freeze=\('A',\) holds all that starts at zero"),
            ({"freeze": "B"}, "freeze must be a tuple of names of factors, got 'B'"),
        ],
    )
    def test_what_cannot_train_is_refused(self, plain, settings, message):
        with pytest.raises(ValueError, match=message):
            lorta.attach(plain, r=3, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "tenslora", "ranks": {"depth": 2}},
            "a mode of ranks must be one of in, out, heads, matrices, layers",
        ),
        ({"method": "tenslora", "ranks": {"in": 0}}, "the rank of 'in' must be a whole number of at least 1, got 0"),
        ({"method": "tenslora", "ranks": 3}, "ranks must map modes to ranks"),
        (
            {"method": "tenslora", "ranks": {"layers": 4}},
            "mode 'layers' has 3 entries, so its rank is at most that, got 4",
        ),
        ({"method": "lorta", "ranks": {"in": 2}}, "ranks is a setting of tenslora, not of 'lorta'"),
    ],
)
def test_ranks_that_cannot_be(plain, settings, message):
    with pytest.raises(ValueError, match=message):
        lorta.attach(plain, **settings)
