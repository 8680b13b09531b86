"""cuEquivariance in place of our kernels: its signatures, the trunk through a stand-in, and what chooses it.

There is no GPU where the tests usually run, and the real kernels are for CUDA alone: a stand-in with the same
signatures, written from the formulas, takes the calls. The last test compares the real ones, where there is a GPU.
"""

import inspect
import warnings

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import ConfigError, StructureModuleConfig, TrunkConfig
from pipeline.folding import kernel_choice, trunk
from pipeline.folding.kernel_choice import OWN, KernelError, Selection, compare, require, select
from pipeline.folding.kernels import common, cuequivariance
from pipeline.folding.kernels.common import UPDATE, Plan
from pipeline.folding.triangle import TriangleAttention, TriangleMultiplication
from pipeline.folding.trunk import FoldingTrunk, TrunkBlock, dropout_mask
from tests.pipeline.folding import cuequivariance_standin as standin

N, C = 7, 32
CUDA = torch.device("cuda", 0)
CONFIG = TrunkConfig(
    blocks=2,
    c_s=16,
    c_z=C,
    sequence_head_width=8,
    pair_head_width=16,
    triangle_attention=True,
    pair_update="product_difference",
    structure_module=StructureModuleConfig(c_s=16, c_z=8, heads=2, blocks=1),
)

SIGNATURES = {
    "triangle_attention": (
        "q", "k", "v", "bias", ("mask", None), ("scale", None), ("return_aux", False), "*", ("kv_lengths", None),
    ),
    "triangle_multiplicative_update": (
        "x", ("direction", "outgoing"), ("mask", None),
        ("norm_in_weight", None), ("norm_in_bias", None), ("p_in_weight", None), ("p_in_bias", None),
        ("g_in_weight", None), ("g_in_bias", None), ("norm_out_weight", None), ("norm_out_bias", None),
        ("p_out_weight", None), ("p_out_bias", None), ("g_out_weight", None), ("g_out_bias", None),
        ("eps", 1e-5), ("precision", None),
    ),
}  # fmt: skip
"""Names and defaults of cuequivariance_torch 0.13.0, as its source has them (primitives/triangle.py, Apache-2.0)."""


def signature(function) -> tuple:
    found: list = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        empty = parameter.default is parameter.empty
        found.append(parameter.name if empty else (parameter.name, parameter.default))
    return tuple(found)


@pytest.mark.parametrize("name", SIGNATURES)
def test_stand_in_has_the_signature_of_the_real_function(name):
    assert signature(getattr(standin, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_of_the_installed_package(name):
    package = pytest.importorskip("cuequivariance_torch", reason="the extra cuequivariance-cu13 is not installed")
    assert signature(getattr(package, name)) == SIGNATURES[name]


@pytest.fixture
def short_chains(monkeypatch):
    """The stand-in, with kernels for chains as short as those of the tests."""
    monkeypatch.setattr(cuequivariance, "SHORT", 4)
    monkeypatch.setattr(cuequivariance, "SHORT_NARROW", 4)
    return standin.install(monkeypatch)


def random_weights(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    return module


def representations(n: int = N, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """s, z and the mask of two chains, one of them padded and with a hole."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, n)
    mask[1, [1, n - 2, n - 1]] = 0
    return torch.randn(2, n, 16, generator=generator), torch.randn(2, n, n, C, generator=generator), mask


def block_results(block: TrunkBlock, plan: Plan = UPDATE) -> list[Tensor]:
    """Outputs of a block where nothing is masked, gradients of its inputs and of all parameters."""
    s, z, mask = representations()
    s.requires_grad_(), z.requires_grad_()
    torch.manual_seed(3)  # of dropout
    s_out, z_out = block(s, z, mask, plan)
    s_out, z_out = s_out * mask[..., None], z_out * (mask[:, :, None] * mask[:, None])[..., None]
    cotangent = torch.linspace(-1, 1, z_out.numel()).view(z_out.shape)
    parameters = dict(block.named_parameters())
    del parameters["pair_to_sequence.layernorm.bias"]  # shifts all logits of a softmax alike: its gradient is noise
    gradients = torch.autograd.grad(s_out.square().sum() + (z_out * cotangent).sum(), (s, z, *parameters.values()))
    return [s_out.detach(), z_out.detach(), *gradients]


def assert_same(found: list[Tensor], expected: list[Tensor], error: float = 2e-5) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype and one.isfinite().all()
        assert (one - other).norm() <= error * other.norm()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_block_is_that_of_our_kernels(short_chains, monkeypatch, recomputed, dropout):
    """Masks, dropout, gradients; kept for the backward pass, and computed again."""
    block = random_weights(TrunkBlock(CONFIG)).train()
    block.dropout = block.mlp_seq.mlp[4].p = block.mlp_pair.mlp[4].p = dropout
    expected = block_results(block)
    assert not standin.calls
    if recomputed:
        monkeypatch.setattr(common, "SAVED", 0)
    assert_same(block_results(block, Plan(cuequivariance=True)), expected)
    twice = 1 + recomputed
    assert standin.calls == {"multiplication": 2 * twice, "attention": 2 * twice}


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_at_a_time_in_place(short_chains, rows):
    """Without gradients; a number of rows leaves the multiplication to our kernel, which keeps to it."""
    block = random_weights(TrunkBlock(CONFIG)).eval()
    s, z, mask = representations()
    with torch.no_grad():
        expected = block(s, z, mask)
        found = block(s, z, mask, Plan(rows, cuequivariance=True))
        own = z.clone()
        over = block(s, own, mask, Plan(rows, overwrite=True, cuequivariance=True))
    real = (mask[:, :, None] * mask[:, None])[..., None]
    assert_same([found[0], found[1] * real], [expected[0], expected[1] * real])
    assert torch.equal(over[1], found[1]) and over[1].data_ptr() == own.data_ptr()
    assert standin.calls["multiplication"] == (0 if rows else 4)
    assert standin.calls["attention"] == 4 * (-(-N // rows) if rows else 1)


def test_gradients_of_rows_at_a_time(short_chains):
    block = random_weights(TrunkBlock(CONFIG))
    assert_same(block_results(block, Plan(3, cuequivariance=True)), block_results(block))


@pytest.mark.parametrize("starting", [False, True])
def test_attention_over_its_input_with_dropout(short_chains, starting):
    """In place, with a mask of dropout that is one for all rows or columns."""
    module = random_weights(TriangleAttention(C, 16, 2, starting=starting))
    _, z, _ = representations()
    torch.manual_seed(0)
    keep = dropout_mask(z, 0.5, 2)
    with torch.no_grad():
        expected = z + keep * module(z, None)
        for rows in (0, 2):
            found = module(z.clone(), None, keep, Plan(rows, add=True, overwrite=True, cuequivariance=True))
            assert_same([found], [expected])


@pytest.mark.parametrize("module", ["multiplication", "attention"])
def test_autocast(short_chains, module):
    """As far from float32 as our own kernels in bfloat16, and results are float32."""
    if module == "multiplication":
        kernel = random_weights(TriangleMultiplication(C, C, outgoing=True))
    else:
        kernel = random_weights(TriangleAttention(C, 16, 2, starting=False))
    _, z, _ = representations()
    exact = kernel(z, None)
    with torch.autocast("cpu", torch.bfloat16):
        own, theirs = (kernel(z, None, plan=Plan(cuequivariance=foreign)) for foreign in (False, True))
    assert standin.calls[module] == 1
    assert own.dtype is theirs.dtype is torch.float32
    assert 0 < (theirs - exact).norm() <= 3 * (own - exact).norm()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_trunk_leaves_the_triangles_to_it(short_chains, monkeypatch, checkpointed):
    """Two blocks, two passes, gradients on the last one; blocks computed again in the backward pass too."""
    results = []
    model = random_weights(FoldingTrunk(CONFIG)).eval()
    object.__setattr__(model.config, "checkpoint_blocks", checkpointed)
    s, _, mask = representations()
    s.requires_grad_()
    for selection in (OWN, Selection("cuequivariance")):
        monkeypatch.setattr(trunk, "select", lambda *_, selection=selection: selection)
        standin.calls.clear()
        index = torch.arange(N).expand(2, N)
        single, pair, structure = model(s, torch.zeros(2, N, N, C), torch.zeros_like(index), index, mask, 1)
        loss = (structure.positions[-1] * mask[..., None, None]).square().sum()
        parameters = [p for name, p in model.named_parameters() if name.startswith("blocks.0.tri_")]
        real = mask[:, :, None] * mask[:, None]
        gradients = torch.autograd.grad(loss, (s, *parameters))
        results.append([single * mask[..., None], pair * real[..., None], *gradients])
    object.__setattr__(model.config, "checkpoint_blocks", False)
    assert standin.calls == {"multiplication": 8 + 4 * checkpointed, "attention": 8 + 4 * checkpointed}
    assert_same(results[1], results[0], 1e-4)


@pytest.mark.parametrize(
    ("length", "width", "dtype", "multiplication", "attention"),
    [
        (101, 32, torch.float32, True, True),
        (100, 32, torch.float32, False, False),
        (101, 16, torch.float32, True, False),
        (201, 16, torch.float32, True, True),
        (101, 64, torch.float32, True, False),
        (101, 64, torch.bfloat16, True, True),
        (201, 12, torch.float32, True, True),
        (201, 12, torch.bfloat16, True, False),
        (101, 32, torch.float64, False, False),
        (101, 32, torch.float16, False, False),
    ],
)
def test_what_it_has_kernels_for(length, width, dtype, multiplication, attention):
    assert cuequivariance.takes_multiplication(length, 64, 64, dtype) is multiplication
    assert cuequivariance.takes_attention(length, width, dtype) is attention
    assert not cuequivariance.takes_multiplication(length, 48, 64, dtype)
    assert not cuequivariance.takes_multiplication(length, 64, 48, dtype)


def test_other_sizes_stay_with_our_kernels(monkeypatch):
    """Chains of up to 100 residues; float64."""
    standin.install(monkeypatch)
    block = random_weights(TrunkBlock(CONFIG)).eval()
    s, z, mask = representations()
    block(s, z, mask, Plan(cuequivariance=True))
    monkeypatch.setattr(cuequivariance, "SHORT", 4)
    monkeypatch.setattr(cuequivariance, "SHORT_NARROW", 4)
    block.double()(s.double(), z.double(), mask.double(), Plan(cuequivariance=True))
    assert not standin.calls


def only(kernel: str):
    """Replaced functions of the stand-in as cases of a test: what is wrong, and in which function."""
    attention, multiplication = standin.triangle_attention, standin.triangle_multiplicative_update
    wrong = {
        "attention": {
            "a mask is ignored": lambda *a, **k: attention(*a, **k | {"mask": None}),
            "scaled twice": lambda *a, **k: attention(*a, **k | {"scale": None}),
            "bias transposed": lambda q, k, v, b, **o: attention(q, k, v, b.transpose(-1, -2), **o),
            "no gradient of the bias": lambda q, k, v, b, **o: attention(q, k, v, b.detach(), **o),
            "a little less": lambda *a, **k: 0.999 * attention(*a, **k),
            "no numbers in padding": lambda *a, mask, **k: torch.where(
                mask.any(-1, keepdim=True), attention(*a, mask=mask, **k), torch.nan
            ),
            "wrong without gradients": lambda *a, **k: attention(*a, **k) * (1 if torch.is_grad_enabled() else 1.01),
        },
        "multiplication": {
            "a mask is ignored": lambda x, **k: multiplication(x, **k | {"mask": None}),
            "values and gates exchanged": lambda x, **k: multiplication(
                x, **k | {"g_in_weight": k["p_in_weight"], "p_in_weight": k["g_in_weight"]}
            ),
            "the other direction": lambda x, direction, **k: multiplication(x, **k),
            "another eps": lambda x, **k: multiplication(x, **k | {"eps": 1e-3}),
            "no gradient of the input": lambda x, **k: multiplication(x.detach(), **k),
            "TF32 that nobody allowed": lambda x, **k: multiplication(x.bfloat16().float(), **k),
        },
    }
    return wrong[kernel]


def judged(monkeypatch, dtype=torch.float32, width: int = 16, **replaced) -> list[kernel_choice.Error]:
    standin.install(monkeypatch, **replaced)
    monkeypatch.setattr(cuequivariance, "SHORT", 4)
    monkeypatch.setattr(cuequivariance, "SHORT_NARROW", 4)
    return list(compare(torch.device("cpu"), C, width, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_comparison_accepts_what_is_right(monkeypatch, dtype):
    """Whatever the caller's autocast, gradient mode and random state, which it leaves as it was."""
    state = torch.random.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        errors = judged(monkeypatch, dtype)
    assert torch.equal(torch.random.get_rng_state(), state)
    formats = [torch.float32] if dtype is torch.float32 else [torch.float32, torch.bfloat16]
    names = ["outgoing multiplication", "incoming multiplication", "starting attention", "ending attention"]
    assert [(error.kernel, error.dtype) for error in errors] == [(name, one) for one in formats for name in names]
    assert all(error.accepted for error in errors)
    for error in errors:
        limits = (1e-8, 3e-6) if error.dtype is torch.float32 else (1e-4, 5e-2)
        assert limits[0] < error.own < limits[1] and limits[0] < error.theirs < limits[1]


@pytest.mark.parametrize("what", only("attention"))
def test_comparison_finds_wrong_attention(monkeypatch, what):
    errors = judged(monkeypatch, triangle_attention=only("attention")[what])
    assert [error.accepted for error in errors] == [True, True, False, False]


@pytest.mark.parametrize("what", only("multiplication"))
def test_comparison_finds_wrong_multiplication(monkeypatch, what):
    errors = judged(monkeypatch, width=0, triangle_multiplicative_update=only("multiplication")[what])
    right = what == "the other direction"  # for the outgoing one
    assert [error.accepted for error in errors] == [right, False]


@pytest.fixture
def pretended(monkeypatch):
    """The choice as on a CUDA device, computed on the CPU; returns a function that installs a stand-in."""

    def install(**replaced) -> None:
        for cached in (kernel_choice._import_error, kernel_choice._judged, kernel_choice._warn):
            cached.cache_clear()
        standin.install(monkeypatch, **replaced)

    def on_cpu(device, *rest):
        assert device == CUDA
        return compare(torch.device("cpu"), *rest)

    monkeypatch.setattr(kernel_choice, "compare", on_cpu)
    monkeypatch.setattr(cuequivariance, "SHORT", 4)
    monkeypatch.setattr(cuequivariance, "SHORT_NARROW", 4)
    install()
    yield install
    monkeypatch.undo()
    install()
    monkeypatch.undo()


def test_used_where_it_agrees(pretended):
    for choice in ("auto", "cuequivariance"):
        found = select(choice, CUDA, CONFIG, torch.float32)
        assert found.name == "cuequivariance"
        assert found.said.startswith("cuEquivariance 0.0 (stand-in) computes triangle multiplication and attention of")
        assert "ending attention in float32 " in found.said and "(ours " in found.said
    before = standin.calls.total()
    select("auto", CUDA, CONFIG, torch.float32)
    assert standin.calls.total() == before > 0, "one comparison is enough"
    assert select("own", CUDA, CONFIG, torch.float32) == OWN


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_cuda_alone(pretended, device):
    """Without a comparison; named, it is a matter of the command, and a trunk that has moved to the CPU computes on."""
    for choice in ("auto", "own", "cuequivariance"):
        assert select(choice, torch.device(device), CONFIG, torch.float32) == OWN
    assert not standin.calls
    with pytest.raises(ConfigError, match=f"they need a CUDA device, and this one is {device}"):
        require("cuequivariance", torch.device(device))
    require("auto", torch.device(device))


def test_disagreement_is_a_warning_with_figures_and_an_error_by_name(pretended):
    pretended(triangle_attention=lambda *a, **k: 1.01 * standin.triangle_attention(*a, **k))
    with pytest.warns(RuntimeWarning) as caught:
        assert select("auto", CUDA, CONFIG, torch.float32) == OWN
    line = str(caught[0].message)
    assert "disagree on cuda:0" in line and "ending attention in float32 1.0e-02 (ours" in line
    assert line.endswith("allowed 0.0001 or 10 times ours: going on with our own kernels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select("auto", CUDA, CONFIG, torch.float32) == OWN, "once"
    with pytest.raises(KernelError, match=r"disagree on cuda:0: .*\(kernels 'auto' and 'own' go on without\)$"):
        select("cuequivariance", CUDA, CONFIG, torch.float32)


def test_failure_of_a_kernel_is_a_warning_and_an_error_by_name(pretended):
    def broken(*_, **__):
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    pretended(triangle_multiplicative_update=broken)
    with pytest.warns(RuntimeWarning, match=r"fails on cuda:0 \(no kernel image is available\): going on"):
        assert select("auto", CUDA, CONFIG, torch.float32) == OWN
    with pytest.raises(KernelError, match="fails on cuda:0"):
        select("cuequivariance", CUDA, CONFIG, torch.float32)


def test_package_that_is_not_there(pretended, monkeypatch):
    """Nothing to say where it was not asked for; ``None`` in sys.modules is a ModuleNotFoundError."""
    for name in kernel_choice.PACKAGES:
        kernel_choice._import_error.cache_clear()
        monkeypatch.setitem(kernel_choice.importlib.sys.modules, name, None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert select("auto", CUDA, CONFIG, torch.float32) == OWN
        with pytest.raises(ConfigError, match=f"{kernel_choice.PACKAGES[0]} is not installed: pip install 'lorta-fold"):
            require("cuequivariance", CUDA)


def test_package_of_another_cuda_is_said(pretended, monkeypatch):
    def broken(name: str):
        raise OSError("libcue_ops.so: cannot open shared object file")

    monkeypatch.setattr(kernel_choice.importlib, "import_module", broken)
    with pytest.warns(RuntimeWarning, match="cuEquivariance is not used: libcue_ops.so: cannot open .*version of CUDA"):
        assert select("auto", CUDA, CONFIG, torch.float32) == OWN
    with pytest.raises(ConfigError, match="cannot open shared object file"):
        select("cuequivariance", CUDA, CONFIG, torch.float32)


def test_deterministic_runs_do_without(pretended):
    torch.use_deterministic_algorithms(True)
    try:
        assert select("auto", CUDA, CONFIG, torch.float32) == OWN
        with pytest.raises(ConfigError, match="deterministic allows only operators"):
            select("cuequivariance", CUDA, CONFIG, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)


def test_widths_that_it_has_nothing_for(pretended):
    narrow = TrunkConfig(c_z=16, pair_head_width=16, triangle_attention=False)
    assert select("auto", CUDA, narrow, torch.float32) == OWN
    with pytest.raises(ConfigError, match=r"it has no triangle multiplication of 16 channels \(kernels"):
        select("cuequivariance", CUDA, narrow, torch.float32)
    wide = TrunkConfig(c_z=48, pair_head_width=48, triangle_attention=True)
    with pytest.raises(ConfigError, match="48 channels, no triangle attention with heads of 48"):
        select("cuequivariance", CUDA, wide, torch.float32)
    assert not standin.calls
    assert select("auto", CUDA, wide, torch.bfloat16).said.startswith(
        "cuEquivariance 0.0 (stand-in) computes triangle attention of"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuEquivariance's kernels need a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_kernels_on_a_gpu(dtype):
    """Those of ESMFold's widths, and of a narrow trunk."""
    for name in kernel_choice.PACKAGES:
        pytest.importorskip(name, reason="the extra cuequivariance-cu13 is not installed")
    for c_z, width in ((128, 32), (32, 16)):
        for error in compare(CUDA, c_z, width, dtype):
            assert error.accepted, str(error)
