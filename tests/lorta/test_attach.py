"""The suite that every method passes on every model."""

import copy
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import lorta
from lorta.layer import AdaptedLinear, AdapterSet


def train(model: nn.Module, tokens, run, steps: int = 3, lr: float = 1e-2) -> list[float]:
    """A few Adam steps on all parameters that train; the losses before each."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr)
    target = torch.randn(run(model, tokens).shape, generator=torch.Generator().manual_seed(5))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (run(model, tokens).float() - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_output_at_the_start_is_bit_equal(model, config, tokens, run):
    before = run(model, tokens)
    lorta.attach(model, config)
    assert torch.equal(run(model, tokens), before)


def test_drawn_again_it_is_the_base_again(model, config, tokens, run, perturb):
    before = run(model, tokens)
    adapter = lorta.attach(model, config)
    perturb(adapter)
    assert not torch.equal(run(model, tokens), before)
    adapter.reset_parameters()
    assert torch.equal(run(model, tokens), before)
    assert f"{config.method}, r={config.r}" in repr(adapter)


def test_factored_is_dense_is_merged(model, config, tokens, run, perturb):
    model.double()
    adapter = lorta.attach(model, config)
    perturb(adapter)
    base, factored = copy.deepcopy(model), run(model, tokens)
    with torch.no_grad():  # the reconstruction is held to the definition in test_factors.py
        for path, module in base.named_modules():
            if isinstance(module, AdaptedLinear) and path in adapter.modules_adapted:
                delta = torch.zeros(module.out_features, module.in_features, dtype=torch.float64)
                for site in adapter.sites.values():
                    if site.module == path:
                        rows = slice(None) if site.rows is None else site.rows.index(site.out_features, "cpu")
                        delta[rows] = adapter.update(site).dense()
                weight = module.base_layer.weight
                weight += delta if isinstance(module.base_layer, nn.Linear) else delta.T  # GPT-2's Conv1D
    lorta.set_active(base)
    torch.testing.assert_close(factored, run(base, tokens), rtol=1e-9, atol=1e-11)
    lorta.merge(model)
    torch.testing.assert_close(run(model, tokens), factored, rtol=1e-9, atol=1e-11)


def test_merge_in_float32_and_back_exactly(model, config, tokens, run, perturb):
    adapter = lorta.attach(model, config)
    perturb(adapter)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    factored = run(model, tokens)
    lorta.merge(model)
    merged = run(model, tokens)
    assert (merged - factored).norm() <= 1e-5 * factored.norm()
    assert not torch.equal(
        model.state_dict()[f"{adapter.modules_adapted[0]}.base_layer.weight"],
        weights[f"{adapter.modules_adapted[0]}.base_layer.weight"],
    )
    lorta.unmerge(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(run(model, tokens), factored)


def test_disabled_is_the_base(model, config, tokens, run, perturb):
    before = run(model, tokens)
    perturb(lorta.attach(model, config))
    adapted = run(model, tokens)
    assert not torch.allclose(adapted, before, atol=1e-4)
    with lorta.disabled(model):
        assert torch.equal(run(model, tokens), before)
        with lorta.disabled(model):
            pass
        assert torch.equal(run(model, tokens), before)
    assert torch.equal(run(model, tokens), adapted)
    lorta.merge(model)
    merged = run(model, tokens)
    with lorta.disabled(model):
        assert torch.equal(run(model, tokens), before)
    assert torch.equal(run(model, tokens), merged)


def test_detach_gives_the_base_model_back(model, config, tokens, run, perturb):
    names, before = list(model.state_dict()), run(model, tokens)
    perturb(lorta.attach(model, config))
    lorta.detach(model)
    assert list(model.state_dict()) == names
    assert torch.equal(run(model, tokens), before)
    assert not any(isinstance(module, (AdaptedLinear, AdapterSet)) for module in model.modules())


def test_detach_keeps_a_merged_update(model, config, tokens, run, perturb):
    perturb(lorta.attach(model, config))
    lorta.merge(model)
    merged = run(model, tokens)
    lorta.detach(model)
    assert torch.equal(run(model, tokens), merged)


def test_only_the_factors_move_and_all_of_them_do(model, config, tokens, run):
    adapter = lorta.attach(model, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, tokens, run)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {f"lorta.default.{name}" for name in adapter.factors()}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == moved


def test_gradient_reaches_the_zero_factors_first(model, config, tokens, run):
    adapter = lorta.attach(model, config)
    for step in range(2):
        model.zero_grad()
        run(model, tokens).pow(3).mean().backward()
        with_gradient = {name for name, p in adapter.factors().items() if p.grad is not None and p.grad.abs().max() > 0}
        assert with_gradient == (set(adapter.zero_factors) if step == 0 else set(adapter.factors()))
        with torch.no_grad():
            for name in adapter.zero_factors:
                adapter.factors()[name].sub_(adapter.factors()[name].grad.sign() * 1e-2)


def test_training_lowers_the_loss(model, config, tokens, run):
    lorta.attach(model, config)
    losses = train(model, tokens, run, steps=15, lr=2e-3)
    assert losses[-1] < losses[0]


def test_factors_are_registered_once(model, config):
    adapter = lorta.attach(model, config)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False) if "base_layer" not in name]
    inside = [name for name in names if name.startswith("lorta.default.")]
    assert len(inside) == len(list(adapter.named_parameters())) == len(set(inside))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter.num_parameters()


def test_deepcopy_is_independent(model, config, tokens, run, perturb):
    perturb(lorta.attach(model, config))
    twin = copy.deepcopy(model)
    before = run(model, tokens)
    assert torch.equal(run(twin, tokens), before)
    perturb(lorta.adapter_set(twin)["default"])
    assert torch.equal(run(model, tokens), before)
    assert not torch.allclose(run(twin, tokens), before, atol=1e-4)
    train(twin, tokens, run)
    assert torch.equal(run(model, tokens), before)


def test_bfloat16_base_with_float32_factors(model, config, tokens, run):
    model.bfloat16()
    before = run(model, tokens)
    adapter = lorta.attach(model, config)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert torch.equal(run(model, tokens), before)
    train(model, tokens, run)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.factors().values())
    factored = run(model, tokens).float()
    lorta.merge(model)
    merged = run(model, tokens).float()
    assert (merged - factored).norm() <= 0.03 * factored.norm()  # bfloat16 has 8 bits
    lorta.unmerge(model)
    assert torch.equal(run(model, tokens).float(), factored)


def test_autocast(model, config, tokens, run, perturb):
    perturb(lorta.attach(model, config))
    full = run(model, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(model, tokens)
    assert (half.float() - full).norm() <= 0.05 * full.norm()


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(plain, config, tokens, run, perturb, kind):
    adapter = lorta.attach(plain.double(), config)
    perturb(adapter)
    gradients = []
    for checkpointing in (None, kind):
        plain.checkpointing = checkpointing
        plain.zero_grad()
        run(plain, tokens).pow(2).mean().backward()
        gradients.append([parameter.grad.clone() for parameter in adapter.factors().values()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_gradient_checkpointing_of_all_linear_maps(layers, tokens, run, perturb, kind):
    settings = lorta.LortaConfig(r=3, alpha=4.5, seed=7, targets="all-linear")
    test_gradient_checkpointing_gives_the_same_gradients(layers, settings, tokens, run, perturb, kind)


def test_dropout_acts_in_training_only(plain, tokens, perturb):
    adapter = lorta.attach(plain, r=3, dropout=0.5, seed=0)
    perturb(adapter)
    assert torch.equal(plain(tokens), plain(tokens))
    plain.train()
    assert not torch.equal(plain(tokens), plain(tokens))
    plain.eval()
    with lorta.disabled(plain):
        base = plain(tokens)
    plain.train()
    with lorta.disabled(plain):
        assert torch.equal(plain(tokens), base)


def test_two_adapters_side_by_side(plain, tokens, perturb):
    base = plain(tokens)
    perturb(lorta.attach(plain, r=3, seed=0))
    first = plain(tokens)
    other = lorta.attach(plain, method="lora", r=2, targets=("q", "v"), name="other", seed=1)
    assert torch.equal(plain(tokens), base)  # the new one is active, and fresh
    perturb(other)
    second = plain(tokens)
    assert not torch.allclose(first, second, atol=1e-4)
    lorta.set_active(plain, "default")
    assert torch.equal(plain(tokens), first)
    lorta.set_active(plain, "default", "other")
    both = plain(tokens)
    lorta.merge(plain)
    torch.testing.assert_close(plain(tokens), both, rtol=1e-4, atol=1e-5)
    lorta.unmerge(plain)
    lorta.set_active(plain)
    assert torch.equal(plain(tokens), base)
    lorta.set_active(plain, "other")
    lorta.delete(plain, "default")
    assert torch.equal(plain(tokens), second)
    lorta.delete(plain, "other")
    assert torch.equal(plain(tokens), base)


def test_a_containing_model_reaches_the_adapter(plain, tokens, perturb):
    outer = nn.ModuleDict({"stem": plain, "head": nn.Linear(24, 2)})
    perturb(lorta.attach(plain, r=2, seed=0))
    assert all(parameter.requires_grad for parameter in outer["head"].parameters())
    adapted = plain(tokens)
    lorta.merge(outer)
    torch.testing.assert_close(plain(tokens), adapted, rtol=1e-4, atol=1e-5)
    lorta.detach(outer)
    assert not hasattr(plain, "lorta")


def test_model_of_the_state_dict_round_trip(plain, config, tokens, perturb):
    perturb(lorta.attach(plain, config))
    torch.manual_seed(9)
    twin = type(plain)().eval()
    lorta.attach(twin, config)
    twin.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(twin(tokens), plain(tokens))


class Quantised(nn.Linear):
    """A Linear that keeps int8 and one scale, as the quantised layers of the usual packages do."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.bias = layer.bias
        self.scale = layer.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


class TestQuantised:
    @pytest.fixture
    def quantised(self, plain):
        plain.blocks[1].k_proj = Quantised(plain.blocks[1].k_proj)
        return plain

    @pytest.mark.parametrize("method", ["lorta", "lora"])
    def test_merge_is_refused_and_touches_nothing(self, quantised, tokens, perturb, method):
        perturb(lorta.attach(quantised, method=method, r=3, seed=0))
        before, output = copy.deepcopy(quantised.state_dict()), quantised(tokens)
        with pytest.raises(ValueError) as error:
            lorta.merge(quantised)
        assert str(error.value) == "blocks.1.k_proj is quantised (torch.int8); its adapter cannot be merged"
        assert all(torch.equal(value, before[name]) for name, value in quantised.state_dict().items())
        assert not any(layer.merged for layer in quantised.modules() if isinstance(layer, AdaptedLinear))
        assert torch.equal(quantised(tokens), output)

    def test_it_trains_all_the_same(self, quantised, tokens, run):
        base = quantised(tokens)
        adapter = lorta.attach(quantised, method="lora", r=2, seed=0)
        assert torch.equal(quantised(tokens), base)
        start = adapter.tensors["layer1_k"].B.clone()
        losses = train(quantised, tokens, run, steps=10)
        assert losses[-1] < losses[0]
        assert not torch.equal(adapter.tensors["layer1_k"].B, start)

    def test_on_a_model_that_is_quantised_from_the_first_matrix_on_factors_are_float32(self, plain):
        plain.blocks[0].q_proj = Quantised(plain.blocks[0].q_proj)
        assert {factor.dtype for factor in lorta.attach(plain, r=2).parameters()} == {torch.float32}


@pytest.mark.parametrize("bits", [4, 8])
def test_real_quantised_bases_train_and_refuse_merging(needs_transformers, tmp_path, bits):
    """bitsandbytes on the CPU: start as the base, learn, save, load, export; no merging into packed weights."""
    pytest.importorskip("bitsandbytes", reason="the stand-in above is tested; bitsandbytes is not installed")
    import transformers

    shape = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, intermediate_size=64)).save_pretrained(tmp_path)
    kind = transformers.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)

    def base() -> nn.Module:
        load = transformers.LlamaForCausalLM.from_pretrained
        # train: for inference on a CPU bitsandbytes packs four-bit weights anew, on the first call
        return load(tmp_path, quantization_config=kind, device_map={"": "cpu"}, dtype=torch.float32).train()

    model, tokens = base(), torch.arange(4, 20)[None]
    assert not model.model.layers[0].self_attn.q_proj.weight.is_floating_point()
    with torch.no_grad():
        start = model(tokens).logits
    adapter = lorta.attach(model, r=2, seed=0)
    assert {factor.dtype for factor in adapter.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, start)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(model(tokens, labels=tokens).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"self_attn\.q_proj is quantised"):
        lorta.merge(model)
    lorta.save(model, tmp_path / "adapter")
    twin = base()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lorta.load(twin, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(twin(tokens).logits, model(tokens).logits)


class TestRefusals:
    def test_merge_twice(self, plain):
        lorta.attach(plain, r=2)
        lorta.merge(plain)
        weight = plain.blocks[0].q_proj.base_layer.weight.clone()
        with pytest.raises(ValueError, match=r"blocks.0.q_proj is merged already; unmerge first"):
            lorta.merge(plain)
        assert torch.equal(plain.blocks[0].q_proj.base_layer.weight, weight)

    def test_unmerge_without_merge(self, plain):
        lorta.attach(plain, r=2)
        with pytest.raises(ValueError, match="is not merged"):
            lorta.unmerge(plain)

    def test_merge_of_an_update_that_is_not_finite_leaves_all_weights(self, plain):
        adapter = lorta.attach(plain, method="lora", r=2)
        before = [layer.base_layer.weight.clone() for layer in plain.modules() if isinstance(layer, AdaptedLinear)]
        with torch.no_grad():
            adapter.tensors["layer1_k"].B.fill_(float("nan"))
        with pytest.raises(ValueError, match=r"blocks.1.k_proj: the update is not finite"):
            lorta.merge(plain)
        after = [layer for layer in plain.modules() if isinstance(layer, AdaptedLinear)]
        assert all(torch.equal(layer.base_layer.weight, weight) for layer, weight in zip(after, before, strict=True))
        assert not any(layer.merged for layer in after)

    def test_same_name(self, plain):
        lorta.attach(plain, r=2)
        with pytest.raises(ValueError, match="there is an adapter 'default' already"):
            lorta.attach(plain, r=4)

    def test_config_and_settings(self, plain):
        with pytest.raises(ValueError, match="give a config or settings, not both"):
            lorta.attach(plain, lorta.LortaConfig(), r=2)

    def test_attach_while_merged(self, plain):
        lorta.attach(plain, r=2)
        lorta.merge(plain)
        with pytest.raises(ValueError, match="unmerge it before attaching"):
            lorta.attach(plain, r=2, name="second")
        with pytest.raises(ValueError, match="unmerge before switching"):
            lorta.set_active(plain)

    def test_attach_around_an_adapted_part(self, plain):
        lorta.attach(plain, r=2)
        with pytest.raises(ValueError, match="has an adapter already; attach to that part"):
            lorta.attach(nn.ModuleDict({"stem": plain}), r=2)

    def test_attribute_taken(self, plain):
        plain.lorta = nn.Linear(1, 1)
        with pytest.raises(ValueError, match="has an attribute 'lorta' of its own"):
            lorta.attach(plain, r=2)

    @pytest.mark.parametrize("call", [lorta.merge, lorta.unmerge, lorta.detach, lorta.set_active])
    def test_no_adapter(self, plain, call):
        with pytest.raises(ValueError, match="no adapter is attached to this Plain"):
            call(plain)

    def test_unknown_adapter(self, plain):
        lorta.attach(plain, r=2)
        with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
            lorta.set_active(plain, "x")
        with pytest.raises(ValueError, match="no adapter 'x'"):
            lorta.delete(plain, "x")

    @pytest.mark.parametrize("name", ["", "a.b"])
    def test_bad_name(self, plain, name):
        with pytest.raises(ValueError, match="name must be non-empty and hold no dot"):
            lorta.attach(plain, r=2, name=name)

    def test_a_failed_attach_changes_nothing(self, plain):
        plain.blocks[2].num_heads = 2
        names = list(plain.state_dict())
        with pytest.raises(ValueError, match="same heads"):
            lorta.attach(plain, r=2)
        assert list(plain.state_dict()) == names
        assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize("method", ["lorta", "metatt-5d", "fact-tk"])
def test_compiles_without_a_graph_break(layers, tokens, perturb, method):
    plain = layers
    perturb(lorta.attach(plain, method=method, r=3, seed=0, targets="all-linear"))
    expected = plain(tokens)
    compiled = torch.compile(plain, fullgraph=True, backend="eager")  # fullgraph: a break is an error
    output = compiled(tokens)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    output.pow(2).mean().backward()
    factors = lorta.adapter_set(plain)["default"].factors()
    assert all(factor.grad is not None for factor in factors.values())


DISTRIBUTED = """
import sys, torch, lorta
import torch.distributed as dist
from datetime import timedelta
from esm.model.esm2 import ESM2
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

def train(kind, rank, world):
    torch.manual_seed(0)
    esm = ESM2(num_layers=2, embed_dim=8, attention_heads=2, alphabet="ESM-1b").double()
    adapter = lorta.attach(esm, r=2, seed=0, targets="all-linear")
    model = DistributedDataParallel(esm) if kind == "ddp" else esm
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (world,))
        for layer in esm.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(esm, mesh=mesh)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    tokens = torch.randint(4, 24, (4, 7), generator=torch.Generator().manual_seed(1))
    target = torch.randn(4, 7, 33, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    for _ in range(4):
        optimizer.zero_grad()
        (model(tokens[mine])["logits"] - target[mine]).pow(2).mean().backward()
        optimizer.step()
    state = adapter.state_dict()
    return {key: value.full_tensor() if kind == "fsdp2" else value for key, value in state.items()}

torch.set_num_threads(1)
rank, directory = int(sys.argv[1]), sys.argv[2]
where, patience = f"file://{directory}/rendezvous", timedelta(minutes=4)  # if the peer has died, say so
dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=patience)
states = {kind: train(kind, rank, 2) for kind in ("ddp", "fsdp2")}
if rank == 0:
    torch.save(states | {"one": train("one", 0, 1)}, f"{directory}/states.pt")
dist.barrier()  # a process that leaves first cuts the connection under the other's last transfer
dist.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path):
    """DDP and FSDP2 over gloo, half of the batch each; the factors are shared by all layers and owned by the root."""
    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    paths = [str(Path(lorta.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    # gloo else asks the resolver for the machine's own name, which not every container can answer
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        environment["GLOO_SOCKET_IFNAME"] = loopback
    logs = [tmp_path / "0.log", tmp_path / "1.log"]  # files: a full pipe would stop the process that writes
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, str(script), str(rank), str(tmp_path)]
            with log.open("w") as stream:
                processes.append(subprocess.Popen(command, stdout=stream, stderr=stream, env=environment))
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)  # the reason, not only that it failed
    states = torch.load(tmp_path / "states.pt")
    assert states["one"]["tensors.all.A"].abs().max() > 1e-4
    for kind in ("ddp", "fsdp2"):
        for name, factor in states["one"].items():
            torch.testing.assert_close(states[kind][name], factor, rtol=1e-9, atol=1e-12)
