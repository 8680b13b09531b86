import copy
import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

import lorta

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="the reader, PEFT, is not installed (lm extra)"
)

SCALE = (("rank", "r"), ("alpha", "lora_alpha"))


def test_files_hold_the_update_of_every_site(model, config, perturb, tmp_path):
    """W + lora_alpha / r * lora_B @ lora_A by hand is the merged weight."""
    adapter = lorta.attach(model.double(), config)
    perturb(adapter)
    lorta.export_lora(model, tmp_path, base_model="somewhere/base")
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert (document["peft_type"], document["base_model_name_or_path"]) == ("LORA", "somewhere/base")
    assert set(document["target_modules"]) == set(adapter.modules_adapted)
    assert len(tensors) == 2 * len(adapter.modules_adapted)
    before = {name: model.get_submodule(name).base_weight().clone() for name in adapter.modules_adapted}
    lorta.merge(model)
    for name, weight in before.items():
        down = tensors[f"base_model.model.{name}.lora_A.weight"]
        up = tensors[f"base_model.model.{name}.lora_B.weight"]
        rank, alpha = (document[f"{what}_pattern"].get(name, document[key]) for what, key in SCALE)
        assert (down.shape[0], up.shape[1]) == (rank, rank)
        delta = alpha / rank * up @ down
        expected = weight + (delta.T if document["fan_in_fan_out"] else delta)
        torch.testing.assert_close(model.get_submodule(name).base_layer.weight, expected, rtol=1e-10, atol=1e-12)


@needs_peft
def test_peft_loads_it_and_computes_the_same(model, config, tokens, run, perturb, tmp_path):
    from peft import PeftModel

    base = copy.deepcopy(model)
    perturb(lorta.attach(model, config))
    ours = run(model, tokens)
    lorta.export_lora(model, tmp_path)
    theirs = run(PeftModel.from_pretrained(base, tmp_path).base_model.model.eval(), tokens)
    assert (ours - theirs).norm() <= 1e-5 * ours.norm()
    with lorta.disabled(model):
        assert (run(model, tokens) - ours).norm() > 1e-3 * ours.norm()


def test_unknown_adapter(plain, tmp_path):
    lorta.attach(plain, r=2)
    with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
        lorta.export_lora(plain, tmp_path, name="x")
