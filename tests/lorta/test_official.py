"""Checkpoints in the form of the authors' codes, whose own forward passes are written out here with dense matrices."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lorta

R, ALPHA = 3, 16.0


@pytest.fixture
def official() -> dict[str, Tensor]:
    """Factors of the model ``plain``: d = 24, H = 4, L = 3."""
    shapes = {"lora_A": (24, R), "lora_B": (R, 6), "lora_C_h": (4, R), "lora_C_l": (3, R), "lora_C_m": (4, R)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def matrix(f: dict[str, Tensor], layer: int, m: int) -> Tensor:
    """M [d, d] of the authors' code: heads side by side."""
    blocks = [
        f["lora_A"] @ torch.diag(f["lora_C_h"][h] * f["lora_C_m"][m] * f["lora_C_l"][layer]) @ f["lora_B"]
        for h in range(4)
    ]
    return torch.cat(blocks, dim=1)


def add(model: nn.Module, layer: int, updates: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for role, update in updates.items():
            getattr(model.blocks[layer], f"{role}_proj").weight += ALPHA / R * update


def test_peft(plain, official, tokens, tmp_path):
    """dW (out x in) = M at all four matrices."""
    save_file(
        {f"base_model.model.{key}": value for key, value in official.items()} | {"classifier.weight": torch.ones(2, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "peft_type": "LORTA"}))
    twin = type(plain)().eval()
    twin.load_state_dict(plain.state_dict())
    for layer in range(3):
        add(twin, layer, {role: matrix(official, layer, m) for m, role in enumerate("qkvo")})
    adapter = lorta.load_official(plain, tmp_path, convention="peft")
    assert (adapter.config.alpha, adapter.config.r, adapter.config.axis) == (ALPHA, R, "input")
    torch.testing.assert_close(plain(tokens), twin(tokens), rtol=1e-4, atol=1e-4)


def test_litgpt(plain, official, tokens, tmp_path):
    """[x dQ, x dK, x dV] added to an output that is (head, role, width): the fused row decides, as in the fork."""
    torch.save({"model": official}, tmp_path / "lit_model.pth")
    twin = type(plain)().eval()
    twin.load_state_dict(plain.state_dict())
    for layer in range(3):
        fused = torch.cat([matrix(official, layer, m) for m in range(3)], dim=1).T  # [3 d, d], rows of the output
        by_role = fused.view(4, 3, 6, 24).transpose(0, 1).reshape(3, 24, 24)  # the fork's own reading of those rows
        add(twin, layer, dict(zip("qkv", by_role, strict=True)) | {"o": matrix(official, layer, 3).T})
    lorta.load_official(plain, tmp_path / "lit_model.pth", convention="litgpt", alpha=ALPHA)
    torch.testing.assert_close(plain(tokens), twin(tokens), rtol=1e-4, atol=1e-4)


def test_axis_overrides(plain, official, tmp_path):
    save_file(official, tmp_path / "a.safetensors")
    adapter = lorta.load_official(plain, tmp_path / "a.safetensors", "litgpt", alpha=1, axis="output")
    update = adapter.update(adapter.sites["blocks.2.k_proj"]).dense()
    torch.testing.assert_close(update, matrix(official, 2, 1).T / R)


def test_a_loaded_one_saves_and_loads(plain, official, tokens, tmp_path):
    save_file(official, tmp_path / "a.safetensors")
    lorta.load_official(plain, tmp_path / "a.safetensors", "litgpt", alpha=2)
    expected = plain(tokens)
    lorta.save(plain, tmp_path / "ours")
    lorta.detach(plain)
    lorta.load(plain, tmp_path / "ours")
    assert torch.equal(plain(tokens), expected)


def _refusal(plain: nn.Module, *args, **kwargs) -> str:
    names = list(plain.state_dict())
    with pytest.raises(ValueError) as error:
        lorta.load_official(plain, *args, **kwargs)
    assert "\n" not in str(error.value)
    assert list(plain.state_dict()) == names
    return str(error.value)


def test_refusals(plain, official, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(official, path)
    assert "convention must be one of peft, litgpt, got 'hf'" in _refusal(plain, path, "hf", alpha=1)
    assert "does not say alpha; give alpha=" in _refusal(plain, path, "peft")
    assert "gives no lora_alpha (FileNotFoundError); give alpha=" in _refusal(plain, tmp_path, "peft")
    assert "does not exist" in _refusal(plain, tmp_path / "b.safetensors", "peft", alpha=1)
    save_file({key: value for key, value in official.items() if key != "lora_B"}, path)
    assert "has no lora_B" in _refusal(plain, path, "peft", alpha=1)
    save_file(official | {"lora_C_l": torch.ones(5, R)}, path)
    assert "C_L is [5, 3] in the file and [3, 3] for this model" in _refusal(plain, path, "peft", alpha=1)
    save_file(official | {"lora_A": torch.ones(3, 4, 24, R)}, path)
    assert "lora_A has the shape [3, 4, 24, 3], the joint form has a matrix" in _refusal(plain, path, "litgpt", alpha=1)
    path.write_bytes(b"\0" * 30)
    assert "cannot be read" in _refusal(plain, path, "peft", alpha=1)
    torch.save({"lora_A": object}, tmp_path / "x.pth")
    assert "cannot be read" in _refusal(plain, tmp_path / "x.pth", "litgpt", alpha=1)
    torch.save({**official, "lora_A": 3, 5: torch.zeros(2)}, tmp_path / "x.pth")
    assert "lora_A has the shape None" in _refusal(plain, tmp_path / "x.pth", "litgpt", alpha=1)
    save_file(official | {"module.lora_A": torch.ones(2, 2)}, path)
    assert "several tensors named lora_A" in _refusal(plain, path, "peft", alpha=1)
    torch.save([torch.zeros(2)], tmp_path / "x.pth")
    assert "x.pth holds a list, and no tensors by their names" in _refusal(plain, tmp_path / "x.pth", "peft", alpha=1)


def test_litgpt_axis_needs_the_joint_form(plain):
    with pytest.raises(ValueError, match="axis 'litgpt' needs all three modes and all four roles"):
        lorta.attach(plain, r=2, axis="litgpt", targets=("q", "k", "v"))
