"""Models and methods over which the shared suite runs. Every model is tiny, seeded and built without any download."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from esm.model.esm2 import ESM2
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import lorta

torch.set_num_threads(1)


class Attention(nn.Module):
    """Plain self-attention whose heads may be wider or narrower than d / H."""

    def __init__(self, width: int, num_heads: int, head_dim: int, output: str):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        inner = num_heads * head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.output = output
        self.add_module(output, nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [batch, heads, length, head_dim]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return getattr(self, self.output)(y)


class Layer(nn.Module):
    """Attention, then a gated feed-forward, under Llama's names."""

    def __init__(self, attention: Attention, width: int, inner: int):
        super().__init__()
        self.self_attn, self.mlp = attention, nn.Module()
        for name, shape in (("up_proj", (width, inner)), ("gate_proj", (width, inner)), ("down_proj", (inner, width))):
            self.mlp.add_module(name, nn.Linear(*shape))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.self_attn(x)
        return y - x + self.mlp.down_proj(functional.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


class Plain(nn.Module):
    """Embedding and residual attention blocks; ``checkpointing`` is None, 'reentrant' or 'non-reentrant'."""

    def __init__(
        self,
        width: int = 24,
        num_heads: int = 4,
        head_dim: int = 6,
        layers: int = 3,
        output: str = "o_proj",
        feed_forward: int = 0,
    ):
        super().__init__()
        self.embed = nn.Embedding(33, width)
        self.blocks = nn.ModuleList(Attention(width, num_heads, head_dim, output) for _ in range(layers))
        if feed_forward:
            self.blocks = nn.ModuleList(Layer(block, width, feed_forward) for block in self.blocks)
        self.checkpointing: str | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.checkpointing == "reentrant":
            x = x.detach().requires_grad_()
        for block in self.blocks:
            if self.checkpointing:
                x = x + checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")
            else:
                x = x + block(x)
        return x


@dataclass(frozen=True)
class ModelCase:
    build: Callable[[], nn.Module]
    width: int
    inner: int
    heads: int
    layers: int
    groups: int = 1
    feed_forward: str = "up down"
    """Its roles in this model."""


SHAPE = {
    "vocab_size": 33,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "pad_token_id": 1,
}


def _hf(kind: str, **settings) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SHAPE | settings)
    return getattr(transformers, f"{kind}Model")(config)


GATED = "up gate down"
MODELS = {
    "esm2": ModelCase(lambda: ESM2(num_layers=3, embed_dim=40, attention_heads=4, alphabet="ESM-1b"), 40, 40, 4, 3),
    "plain": ModelCase(Plain, 24, 24, 4, 3, feed_forward=""),
    "wide-heads": ModelCase(lambda: Plain(head_dim=8, output="out_proj"), 24, 32, 4, 3, feed_forward=""),
    "layers": ModelCase(lambda: Plain(feed_forward=76), 24, 24, 4, 3, feed_forward=GATED),
}
ESM = {"mask_token_id": 32, "position_embedding_type": "rotary", "hidden_dropout_prob": 0.0}
GPT2 = {"bos_token_id": 2, "eos_token_id": 3, "n_positions": 32}
HF_MODELS = {
    "bert": ModelCase(lambda: _hf("Bert"), 24, 24, 4, 3),
    "roberta": ModelCase(lambda: _hf("Roberta"), 24, 24, 4, 3),
    "esm": ModelCase(lambda: _hf("Esm", **ESM), 24, 24, 4, 3),
    "llama": ModelCase(lambda: _hf("Llama"), 24, 24, 4, 3, feed_forward=GATED),
    "gqa": ModelCase(lambda: _hf("Mistral", num_key_value_heads=2), 24, 24, 4, 3, groups=2, feed_forward=GATED),
    "qwen3": ModelCase(
        lambda: _hf("Qwen3", num_key_value_heads=1, head_dim=8), 24, 32, 4, 3, groups=4, feed_forward=GATED
    ),
    "gpt2": ModelCase(lambda: _hf("GPT2", **GPT2), 24, 24, 4, 3),
    "neox": ModelCase(lambda: _hf("GPTNeoX"), 24, 24, 4, 3),
    "esmc": ModelCase(lambda: _hf("Esmc"), 24, 24, 4, 3, feed_forward=GATED),
    "modernbert": ModelCase(
        lambda: _hf("ModernBert", bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
        *(24, 24, 4, 3),
        feed_forward=GATED,
    ),
}

HAVE_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
if HAVE_TRANSFORMERS:
    MODELS |= HF_MODELS

METHODS = {
    "lorta": {},
    "lorta-official": {"init": "official"},
    "lorta-unit": {"init": "unit"},
    "lorta-per-layer": {"modes": ("heads", "matrices")},
    "lorta-per-matrix": {"modes": ("heads",)},
    "lorta-no-heads": {"modes": ("matrices", "layers")},
    "lorta-qv": {"targets": ("q", "v")},
    "lora": {"method": "lora"},
    "lorta-all": {"targets": "all-linear"},
    "lora-all": {"method": "lora", "targets": "all-linear"},
}
METHODS |= {
    "lorta-all-per-layer": {"modes": ("heads", "matrices"), "targets": "all-linear"},
    "lorta-all-per-matrix": {"modes": ("heads",), "targets": "all-linear"},
    "lorta-all-no-heads": {"modes": ("matrices", "layers"), "targets": "all-linear"},
    "lorta-up": {"targets": ("v", "up")},
}
OTHERS = {
    "lora-fa": {"method": "lora-fa"},
    "vera": {"method": "vera"},
    "nola": {"method": "nola", "bases": 5},
    "lotr": {"method": "lotr", "targets": ("q", "v")},
    "fact-tt": {"method": "fact-tt"},
    "fact-tk": {"method": "fact-tk"},
    "metatt-4d": {"method": "metatt-4d"},
    "metatt-5d": {"method": "metatt-5d"},
    "tenslora": {"method": "tenslora"},
    "tenslora-heads": {"method": "tenslora", "modes": ("heads",)},
    "tenslora-qkv-depth": {"method": "tenslora", "modes": ("matrices", "layers")},
    "tenslora-ranks": {"method": "tenslora", "ranks": {"in": 2, "out": 4, "layers": 1}},
    "cara": {"method": "cara"},
    "loretta-rep": {"method": "loretta-rep", "tt_rank": 2},
    "tt-lora": {"method": "tt-lora"},
    "lorta-frozen": {"axis": "input", "freeze": ("B", "C_H")},
    "lorta-input": {"axis": "input"},
    "lorta-output": {"axis": "output"},
}
OTHERS |= {
    f"{name}-all": settings | {"targets": "all-linear"}
    for name, settings in OTHERS.items()
    if not name.startswith("lorta") and name not in ("lotr", "tenslora-ranks")
}
"""These run on one model, in all tests, or, on all linear maps, on one with a feed-forward; they share every line of
code but their ``Factors`` with the ones above. LoTR shares all but its start with FacT-TT."""

OUTPUTS = {
    "bitfit": {"method": "bitfit"},
    "houlsby": {"method": "houlsby", "size": 6},
    "pfeiffer": {"method": "pfeiffer", "size": 6},
    "adapterdrop": {"method": "adapterdrop", "size": 6, "drop": 1},
    "loretta-adp": {"method": "loretta-adp", "size": 6, "tt_rank": 2},
}
"""What acts on outputs; these run on every model that has a place for them, and share only test_outputs.py."""

NO_BIAS = ("llama", "gqa", "qwen3", "modernbert")
NO_FEED_FORWARD = tuple(name for name, case in MODELS.items() if not case.feed_forward)

EVERY_METHOD = ("wide-heads",)
"""Every LoRTA variant runs on these, and these on every model: the product of both lists would take minutes."""
ON_EVERY_MODEL = ("lorta", "lora", "lorta-all")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(kind): 'methods' or 'others', the list of this file that a test runs on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "insert" in metafunc.fixturenames:
        pairs = [(m, i) for m in MODELS for i in OUTPUTS if m not in (NO_BIAS if i == "bitfit" else NO_FEED_FORWARD)]
        if "case" in metafunc.fixturenames:
            metafunc.parametrize(("case", "insert"), pairs, indirect=True)
        else:
            metafunc.parametrize("insert", list(OUTPUTS), indirect=True)
        return
    has_model, has_method = "case" in metafunc.fixturenames, "config" in metafunc.fixturenames
    marker = metafunc.definition.get_closest_marker("only")
    methods = [] if marker and marker.args[0] == "others" else list(METHODS)
    others = [] if marker and marker.args[0] == "methods" else list(OTHERS)
    if has_model and has_method:
        every = [a for a in methods if a in ON_EVERY_MODEL]
        pairs = [(m, a) for m in MODELS for a in every if a != "lorta-all" or MODELS[m].feed_forward]
        pairs += [(m, a) for m in EVERY_METHOD for a in methods if a not in every and not _is_layered(a)]
        pairs += [("layers", a) for a in methods if a not in every and _is_layered(a)]
        pairs += [("layers" if _is_layered(a) else "plain", a) for a in others]
        metafunc.parametrize(("case", "config"), pairs, indirect=True)
    elif has_model:
        metafunc.parametrize("case", list(MODELS), indirect=True)
    elif has_method:
        metafunc.parametrize("config", [a for a in [*methods, *others] if not _is_layered(a)], indirect=True)


def _is_layered(method: str) -> bool:
    """Whether it needs a model with a feed-forward."""
    return not set((METHODS | OTHERS)[method].get("targets", ())) <= set("qkvo")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> ModelCase:
    return MODELS[request.param]


@pytest.fixture
def model(case: ModelCase) -> nn.Module:
    torch.manual_seed(0)
    return case.build().eval()


@pytest.fixture
def config(request: pytest.FixtureRequest) -> lorta.LortaConfig:
    """Rank 3 and a scale that is not 1, so that a forgotten scale shows."""
    settings = (METHODS | OTHERS)[request.param]
    return lorta.LortaConfig(**{"r": 3, "alpha": 4.5, "seed": 7} | settings)


@pytest.fixture
def insert(request: pytest.FixtureRequest) -> dict:
    """Settings of an adapter that acts on outputs."""
    return OUTPUTS[request.param] | {"seed": 7}


@pytest.fixture
def needs_transformers() -> None:
    if not HAVE_TRANSFORMERS:
        pytest.skip("the suite runs without BERT, RoBERTa, ESM and Llama: transformers is not installed (lm extra)")


@pytest.fixture
def hf(needs_transformers: None) -> Callable[..., nn.Module]:
    """A tiny model of transformers by its kind, with settings of its config."""
    return _hf


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


@pytest.fixture
def layers() -> nn.Module:
    """As ``plain``, with a gated feed-forward whose last slice is cut."""
    torch.manual_seed(0)
    return MODELS["layers"].build().eval()


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    """[2, 9] ordinary tokens for every model's vocabulary."""
    return torch.randint(4, 24, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def run() -> Callable[[nn.Module, Tensor], Tensor]:
    """The last hidden states of any of the models."""

    def last_hidden(model: nn.Module, tokens: Tensor) -> Tensor:
        if isinstance(model, ESM2):
            return model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers]
        output = model(tokens)
        return output if isinstance(output, Tensor) else output.last_hidden_state

    return last_hidden


@pytest.fixture(scope="session")
def perturb() -> Callable[[nn.Module], None]:
    """Move all that trains away from its start, as training would, so that updates are not zero.

    For an adapter or a model with one. Factors of the default start are small, and move less.
    """

    def move(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(3)
        small = {
            id(parameter)
            for part in module.modules()
            if isinstance(part, lorta.WeightAdapter) and part.config.init == "balanced"
            for parameter in part.parameters()
        }
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad or isinstance(module, lorta.Adapter):
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.add_(noise * (0.02 if id(parameter) in small else 0.1))

    return move
