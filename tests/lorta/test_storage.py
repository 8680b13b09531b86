import json
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from safetensors.torch import load_file, save_file

import lorta
from lorta.storage import describe_difference


@pytest.fixture
def saved(plain, perturb, tmp_path):
    """A trained-looking adapter of ``plain``, its directory."""
    perturb(lorta.attach(plain, r=3, alpha=4.5, seed=0))
    return lorta.save(plain, tmp_path / "adapter")


def fresh(plain, seed: int = 0, **shape):
    torch.manual_seed(seed)
    return type(plain)(**shape).eval()


def test_save_and_load(model, case, config, tokens, run, perturb, tmp_path):
    perturb(lorta.attach(model, config))
    lorta.save(model, tmp_path)
    torch.manual_seed(0)
    twin = case.build().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = lorta.load(twin, tmp_path)
    assert adapter.config == config
    assert torch.equal(run(twin, tokens), run(model, tokens))


SCRIPT = """
import sys, torch
from esm.model.esm2 import ESM2
import lorta
torch.manual_seed(0)
torch.set_num_threads(1)
model = ESM2(num_layers=2, embed_dim=8, attention_heads=2, alphabet="ESM-1b").eval()
lorta.load(model, sys.argv[1])
torch.save(model(torch.arange(4, 20)[None])["logits"], sys.argv[2])
assert "transformers" not in sys.modules and "peft" not in sys.modules
"""


def test_load_in_a_new_process(perturb, tmp_path):
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    model = ESM2(num_layers=2, embed_dim=8, attention_heads=2, alphabet="ESM-1b").eval()
    perturb(lorta.attach(model, r=2))
    lorta.save(model, tmp_path)
    command = [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, str(tmp_path), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    ours = model(torch.arange(4, 20)[None])["logits"]
    assert torch.equal(torch.load(tmp_path / "out.pt"), ours)


def test_files(saved, plain):
    assert sorted(path.name for path in saved.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(saved / "adapter_model.safetensors")
    assert {key: list(value.shape) for key, value in tensors.items()} == {
        "tensors.all.A": [24, 3],
        "tensors.all.B": [6, 3],
        "tensors.all.C_H": [4, 3],
        "tensors.all.C_L": [3, 3],
        "tensors.all.C_M": [4, 3],
    }
    document = json.loads((saved / "adapter_config.json").read_text())
    assert document["config"]["alpha"] == 4.5
    assert document["parameters"] == 3 * (24 + 6 + 4 + 3 + 4)
    assert document["sites"]["blocks.2.o_proj"] == "o of layer 2, 4 heads, 24 to 24"
    assert document["base_weights"] == lorta.base_fingerprint(fresh(plain).requires_grad_(False))


def test_fingerprint_follows_the_weights_not_the_adapter(plain, perturb):
    adapter = lorta.attach(plain, r=2)
    before = lorta.base_fingerprint(plain)
    perturb(adapter)
    assert lorta.base_fingerprint(plain) == before
    lorta.merge(plain)
    assert lorta.base_fingerprint(plain) == before
    lorta.unmerge(plain)
    with torch.no_grad():
        plain.embed.weight[0, 0] += 1e-6
    after = lorta.base_fingerprint(plain)
    assert after["sha256"] != before["sha256"]
    assert [name for name in after["tensors"] if after["tensors"][name] != before["tensors"][name]] == ["embed.weight"]


def test_another_base_warns_and_names_the_difference(saved, plain, tokens):
    twin = fresh(plain)
    with torch.no_grad():
        twin.blocks[1].v_proj.bias += 1
    with pytest.warns(UserWarning, match=r"1 of 28 tensors with other values \(first: blocks.1.v_proj.bias\)"):
        lorta.load(twin, saved)
    with lorta.disabled(twin):
        base = twin(tokens)
    assert not torch.allclose(twin(tokens), base, atol=1e-4)  # loaded all the same


def test_another_dtype_warns(saved, plain):
    with pytest.warns(UserWarning, match="28 of 28 tensors float32 there and bfloat16 here"):
        lorta.load(fresh(plain).bfloat16(), saved)


def test_a_trainable_head_is_no_part_of_the_base(plain, tmp_path):
    lorta.attach(plain, r=2, seed=0)
    plain.embed.requires_grad_(True)
    lorta.save(plain, tmp_path)
    twin = fresh(plain)
    with torch.no_grad():
        twin.embed.weight += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lorta.load(twin, tmp_path)


def _refusal(model, directory) -> str:
    names = list(model.state_dict())
    with pytest.raises(ValueError) as error:
        lorta.load(model, directory)
    assert "\n" not in str(error.value)
    assert list(model.state_dict()) == names  # nothing half attached
    assert all(parameter.requires_grad for parameter in model.parameters())
    return str(error.value)


def test_another_width(saved, plain):
    message = _refusal(fresh(plain, width=32, head_dim=8), saved)
    assert "tensors.all.A is [24, 3] in the file and [32, 3] for this model" in message


def test_other_heads_of_the_same_shape(saved, plain):
    """Three heads of 8 give other factors; the message names the first that differs."""
    assert "tensors.all.B is [6, 3] in the file and [8, 3]" in _refusal(fresh(plain, num_heads=3, head_dim=8), saved)


def test_other_heads_of_a_pair_without_head_mode(plain, tmp_path):
    lorta.attach(plain, r=2, method="lora")
    lorta.save(plain, tmp_path)
    message = _refusal(fresh(plain, num_heads=3, head_dim=8), tmp_path)
    assert "is [q of layer 0, 4 heads, 24 to 24] in the file and [q of layer 0, 3 heads, 24 to 24] here" in message


def test_fewer_layers(saved, plain):
    assert "only the file has the site blocks.2.k_proj" in _refusal(fresh(plain, layers=2), saved)


def test_a_missing_tensor_never_leaves_b_at_zero(saved, plain):
    tensors = load_file(saved / "adapter_model.safetensors")
    del tensors["tensors.all.B"]
    save_file(tensors, saved / "adapter_model.safetensors")
    assert "only this model has the tensor tensors.all.B" in _refusal(fresh(plain), saved)


def test_renamed_tensors(saved, plain):
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file({f"model.{key}": value for key, value in tensors.items()}, saved / "adapter_model.safetensors")
    assert "does not fit: only the file has the tensor model.tensors.all.A" in _refusal(fresh(plain), saved)


def test_damaged_files(saved, plain):
    (saved / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    assert "adapter_model.safetensors cannot be read" in _refusal(fresh(plain), saved)
    (saved / "adapter_model.safetensors").unlink()
    assert "it has no adapter_model.safetensors" in _refusal(fresh(plain), saved)
    (saved / "adapter_config.json").write_text("{")
    assert "adapter_config.json cannot be read" in _refusal(fresh(plain), saved)
    (saved / "adapter_config.json").write_text('{"format": 99}')
    assert "has format 99; this version reads format 1" in _refusal(fresh(plain), saved)
    (saved / "adapter_config.json").unlink()
    assert "is no adapter directory: it has no adapter_config.json" in _refusal(fresh(plain), saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", None, "config is None and not an object"),
        ("config", [], r"config is \[\] and not an object"),
        ("config", {"zork": 1}, "'zork' is no setting of 'lorta'"),
        ("config", {"freeze": 3}, "freeze must be a tuple"),
        ("sites", 3, "sites is 3 and not an object"),
        ("sites", {}, "only this model has the site"),
        ("base_weights", "x", "base_weights is 'x'"),
        ("base_weights", {}, "its fingerprint of the base names no tensors"),
        ("base_weights", {"tensors": {"embed.weight": "x"}}, "'x' is no fingerprint of embed.weight"),
        ("base_weights", {"tensors": {"embed.weight": None}}, "None is no fingerprint of embed.weight"),
    ],
)
def test_damaged_settings(key, value, message, saved, plain, tokens):
    file = saved / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    twin = fresh(plain)
    before = twin(tokens)
    with pytest.raises(ValueError, match=message) as error:
        lorta.load(twin, saved)
    assert "\n" not in str(error.value)
    assert torch.equal(twin(tokens), before)


def test_files_of_a_copy_that_is_not_installed(plain, tmp_path, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("lorta.storage.version", version)
    lorta.attach(plain, r=2)
    document = json.loads((lorta.save(plain, tmp_path) / "adapter_config.json").read_text())
    assert document["tool"] == "lorta-fold 0+unknown"


def test_a_parameter_of_another_shape_is_told_from_one_of_other_values():
    told = describe_difference(
        {"a": "float32 2x3 0", "b": "float32 2 0", "c": "float32 2 0"}, {"a": "float32 3x2 0", "b": "float32 2 1"}
    )
    assert told == (
        "1 of 3 tensors of another shape (first: a), 1 of 3 tensors with other values (first: b), "
        "1 of 3 tensors missing or trainable here (first: c)"
    )


def test_a_failed_load_keeps_the_adapters_that_were_there(saved, plain, tokens):
    twin = fresh(plain, layers=2)
    adapter = lorta.attach(twin, method="lora", r=2, name="mine")
    with torch.no_grad():
        adapter.tensors["layer0_q"].B.add_(1)
    before = twin(tokens)
    with pytest.raises(ValueError, match="does not fit"):
        lorta.load(twin, saved)
    assert torch.equal(twin(tokens), before)
    assert list(lorta.adapter_set(twin)) == ["mine"]


def test_unknown_adapter(plain, tmp_path):
    lorta.attach(plain, r=2)
    with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
        lorta.save(plain, tmp_path, name="x")


def test_a_failed_save_leaves_the_earlier_files(plain, perturb, tmp_path, small_files):
    """The system refuses to write on in the middle of the second adapter."""
    adapter = lorta.attach(plain, r=2, seed=0)
    lorta.save(plain, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    perturb(adapter)

    with small_files(64), pytest.raises(OSError, match="File too large"):
        lorta.save(plain, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
