"""The benchmark of the trunk measures only what agrees with the port."""

import json

import pytest
import torch

pytest.importorskip("transformers", reason="the rival is transformers' port: pip install '.[lm]'")

from benchmarks import trunk
from pipeline.config.schema import TrunkConfig

SMALL = ["--c-s", "32", "--c-z", "16", "--head-width", "8", "--rounds", "1"]
CONFIG = TrunkConfig(
    blocks=2,
    c_s=32,
    c_z=16,
    sequence_head_width=8,
    pair_head_width=8,
    pair_update="product_difference",
    triangle_attention=True,
)


@pytest.fixture
def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return trunk.pair_of_models(CONFIG, None)


def test_equal_models_agree(models):
    agreed = trunk.agreement(models, CONFIG, 12, "cpu")
    assert agreed["float64_difference"] < 1e-12
    assert 0.5 < agreed["float32_error_to_ports"] < 2


@pytest.mark.parametrize("name", ["blocks.1.tri_att_end.linear.weight", "blocks.0.mlp_seq.mlp.1.bias"])
def test_a_slightly_wrong_weight_is_found(models, name):
    """Far below what rounding does to the gradients of float32."""
    wrong = models["ours"].get_parameter(name)
    wrong.data = wrong.data * (1 + 1e-6)
    with pytest.raises(SystemExit, match="in float64"):
        trunk.agreement(models, CONFIG, 12, "cpu")


def test_a_coarse_result_is_found(models):
    """Exact in float64, and in float32 rounded to half of its digits."""
    part = models["ours"].blocks[0].seq_attention
    exact = part.forward

    def coarse(s, *rest):
        out = exact(s, *rest)
        return out.half().float() if out.dtype is torch.float32 else out

    part.forward = coarse
    with pytest.raises(SystemExit, match="in float32 our error"):
        trunk.agreement(models, CONFIG, 12, "cpu")


@pytest.mark.parametrize("whose", ["port", "both"])
def test_a_run_with_recomputed_blocks(tmp_path, capsys, whose):
    out = tmp_path / "figures.json"
    trunk.main(["--lengths", "12", "--blocks", "2", "--checkpoint", whose, "--curve", "20", *SMALL, "--out", str(out)])
    result = json.loads(out.read_text())
    forward, training = result["rows"]
    assert forward["what"] == "forward" and "recomputation_s" not in forward
    again = training["recomputation_s"]
    assert 0 < again["port"] < training["port_s"]
    assert (0 < again["ours"] < training["ours_s"]) if whose == "both" else again["ours"] == 0
    once = [training[f"{name}_s"] - again[name] for name in ("port", "ours")]
    assert training["speed_up_without"] == pytest.approx(once[0] / once[1])
    assert training["outputs_differ"] < 1e-5 and training["float64_difference"] < 1e-12
    assert [point["length"] for point in result["curve"]] == [20]
    assert "without recomputation (ours " in capsys.readouterr().out
