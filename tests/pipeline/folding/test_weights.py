"""Our model with the weights of transformers' EsmForProteinFolding, and the way back: same structures, confidences."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.layers import preset_layer, resolve
from pipeline.folding.model import FoldingModel, build_model
from pipeline.folding.stem import Stem
from pipeline.folding.weights import (
    HEAD_BINS,
    UNUSED,
    VOCABULARY,
    WeightsError,
    check_state,
    config_from_folding,
    config_from_hugging_face,
    folding_config,
    from_fair_esm,
    from_hugging_face,
    hugging_face_config,
    model_from_state,
    stem_name,
    to_hugging_face,
)
from pipeline.losses.plddt import predicted_plddt
from pipeline.prediction.checks import AlignedError, read_aligned_error
from tests.pipeline.folding.fair_esm_layout import fair_esm_config, to_fair_esm
from tests.pipeline.rigid_forms import to_tensor_7

TINY = {
    "stem": {"name": "esm2_t3_demo", "init": "random"},
    "adapter": {"method": "none"},
    "trunk": {
        "blocks": 2,
        "c_s": 32,
        "c_z": 16,
        "sequence_head_width": 8,
        "pair_head_width": 4,
        "position_bins": 5,
        "checkpoint_blocks": False,
        "structure_module": {"c_s": 24, "c_z": 12, "c_resnet": 20, "heads": 3, "blocks": 2, "resnet_blocks": 1},
    },
    "heads": {"plddt_hidden": 18},
    "data": {"max_recycles": 2},
}
LENGTHS = (27, 22)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def tiny_config(**over):
    return resolve(preset_layer("esmfold"), TINY, over)


def tiny_model(config=None) -> FoldingModel:
    """Random weights without zeros, so that every tensor matters, and distances of the size of a protein's."""
    model = build_model(config or tiny_config()).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """aatype with the alanines, index 0, of real residues and of padding, and one unknown residue; a chain break."""
    aatype = torch.randint(0, 20, (2, max(LENGTHS)), generator=torch.Generator().manual_seed(2))
    aatype[:, :3] = torch.tensor([0, 20, 5])
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    index = torch.arange(max(LENGTHS)).repeat(2, 1)
    index[0, 12:] += 40
    return aatype * mask, mask, index


@pytest.fixture(scope="module")
def hugging_face():
    """A random EsmForProteinFolding that transformers made and initialised itself."""
    transformers = pytest.importorskip("transformers", reason="the port to compare with is in transformers")
    torch.manual_seed(3)
    config = transformers.EsmConfig(**hugging_face_config(tiny_config()))
    model = transformers.EsmForProteinFolding(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def of_one_chain(logits: torch.Tensor) -> AlignedError:
    return read_aligned_error(logits, np.zeros(len(logits), dtype=int))


def assert_same_predictions(ours: FoldingModel, port, recycles: int | None) -> None:
    aatype, mask, index = batch()
    with torch.no_grad():
        theirs = port(aatype, attention_mask=mask, position_ids=index, num_recycles=recycles)
        passes = ours.config.data.max_recycles if recycles is None else recycles
        out = ours(aatype, mask.float(), index, passes)
        every_atom = predicted_plddt(ours.lddt_head(out.structure.states[-1]))
    real = mask.bool()
    pairs = real[:, :, None] & real[:, None, :]
    # Sides of the residues that we know; the side chain of X has another frame in the port (see the next test).
    known = real & (aatype != 20)
    assert theirs["positions"][-1][real].abs().max() > 5  # angstrom: the comparison is of something
    frames = to_tensor_7(out.structure.frames)
    sign = (frames[..., :4] * theirs["frames"][..., :4]).sum(-1, keepdim=True).sign()  # q and -q are one rotation
    torch.testing.assert_close(frames[..., :4][:, real], (sign * theirs["frames"][..., :4])[:, real], **CLOSE)
    torch.testing.assert_close(frames[..., 4:][:, real], theirs["frames"][..., 4:][:, real], **CLOSE)
    torch.testing.assert_close(out.structure.angles[:, real], theirs["angles"][:, real], **CLOSE)
    torch.testing.assert_close(out.structure.positions[:, known], theirs["positions"][:, known], **CLOSE)
    backbone = out.structure.positions[:, real][..., :5, :], theirs["positions"][:, real][..., :5, :]
    torch.testing.assert_close(*backbone, **CLOSE)
    torch.testing.assert_close(out.structure.states[:, real], theirs["states"][:, real], **CLOSE)
    torch.testing.assert_close(out.single[real], theirs["s_s"][real], **CLOSE)
    torch.testing.assert_close(out.pair[pairs], theirs["s_z"][pairs], **CLOSE)
    torch.testing.assert_close(out.distogram_logits[pairs], theirs["distogram_logits"][pairs], **CLOSE)
    torch.testing.assert_close(out.plddt_logits[real], theirs["lddt_head"][-1][real][:, 1], **CLOSE)
    torch.testing.assert_close(every_atom[real] / 100, theirs["plddt"][real], **CLOSE)
    torch.testing.assert_close(out.pae_logits[pairs], theirs["ptm_logits"][pairs], **CLOSE)
    expected_error = torch.stack([torch.from_numpy(of_one_chain(logits).pae) for logits in out.pae_logits])
    torch.testing.assert_close(expected_error[pairs], theirs["predicted_aligned_error"][pairs], **CLOSE)
    assert theirs["plddt"][real].std() > 1e-3 and theirs["predicted_aligned_error"][pairs].std() > 1e-2


@pytest.mark.parametrize("recycles", [0, 1, 3, None])
def test_hugging_face_weights_give_hugging_face_predictions(hugging_face, recycles):
    config = config_from_hugging_face(hugging_face.config.to_dict())
    assert config == resolve(
        preset_layer("esmfold"), TINY, {"stem": {"init": "pretrained"}, "trunk": {"checkpoint_blocks": True}}
    )
    ours = model_from_state(config, from_hugging_face(hugging_face.state_dict()), "test")
    assert_same_predictions(ours, hugging_face, recycles)


def test_ptm_of_a_padded_batch_is_that_of_each_chain_alone(hugging_face):
    config = config_from_hugging_face(hugging_face.config.to_dict())
    ours = model_from_state(config, from_hugging_face(hugging_face.state_dict()), "test")
    aatype, mask, index = batch()
    with torch.no_grad():
        logits = ours(aatype, mask.float(), index, 1).pae_logits
        scores = [of_one_chain(logits[sample, :n, :n]).ptm for sample, n in enumerate(LENGTHS)]
        for sample, n in enumerate(LENGTHS):  # the port has one score per batch, padding included
            alone = hugging_face(aatype[sample : sample + 1, :n], None, index[sample : sample + 1, :n], num_recycles=1)
            assert scores[sample] == pytest.approx(float(alone["ptm"]), rel=1e-4)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_our_weights_load_in_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the port to compare with is in transformers")
    model = tiny_model()
    state = to_hugging_face(model.state_dict())
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(model.config)))
    port, info = transformers.EsmForProteinFolding.from_pretrained(tmp_path, output_loading_info=True)
    # What a model of ours has not, and no prediction reads, is all that transformers makes up.
    made_up = {
        "lm_head.weight",
        "lm_head.bias",
        "esm.contact_head.regression.weight",
        "esm.contact_head.regression.bias",
    }
    assert set(info["missing_keys"]) == made_up and not info["unexpected_keys"]
    assert_same_predictions(model, port.eval(), 2)


def test_there_and_back_loses_nothing(hugging_face):
    state = hugging_face.state_dict()
    back = to_hugging_face(from_hugging_face(state))
    assert set(state) == set(back)
    for name, value in back.items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0, msg=name)
    config = hugging_face.config.to_dict()
    written = hugging_face_config(config_from_hugging_face(config))
    assert config_from_hugging_face(written) == config_from_hugging_face(config)


def test_fair_esm_names():
    """Read off fair-esm 2.0.0's modules: stem under ``esm.``, and OpenFold's, whose points had no ``linear.``."""
    ours = tiny_model().state_dict()
    theirs = to_fair_esm(ours)
    assert "esm.layers.2.self_attn.k_proj.weight" in theirs
    assert "trunk.structure_module.ipa.linear_q_points.weight" in theirs
    assert to_hugging_face(ours)["af2_to_esm"].tolist() == theirs["af2_to_esm"].tolist()
    back = from_fair_esm(theirs)
    assert set(ours) == set(back)
    for name, value in back.items():
        torch.testing.assert_close(value, ours[name], atol=0, rtol=0, msg=name)
    newer = {"trunk.structure_module.ipa.linear_q_points.linear.weight": torch.zeros(1)}
    assert set(from_fair_esm(newer)) == set(newer)


def test_published_configuration_is_the_preset():
    """Values of facebook/esmfold_v1's config.json (and of fair-esm's dataclasses), against our preset ``esmfold``."""
    preset = resolve(preset_layer("esmfold"), {"adapter": {"method": "none"}})
    empty = config_from_folding({}, "esm2_t36_3B")
    assert empty == preset
    described = fair_esm_config(preset)
    assert described["esm_type"] == "esm2_3B" and described["trunk"]["max_recycles"] == 4
    assert described["trunk"]["structure_module"] == {
        "c_s": 384,
        "c_z": 128,
        "c_ipa": 16,
        "c_resnet": 128,
        "no_heads_ipa": 12,
        "no_qk_points": 4,
        "no_v_points": 8,
        "dropout_rate": 0.1,
        "no_blocks": 8,
        "no_transition_layers": 1,
        "no_resnet_blocks": 2,
        "no_angles": 7,
        "trans_scale_factor": 10,
        "epsilon": 1e-8,
        "inf": 1e5,
    }
    for described in (folding_config(tiny_config()), fair_esm_config(tiny_config())):
        assert config_from_folding(described, "esm2_t3_demo") == resolve(
            preset_layer("esmfold"), TINY, {"stem": {"init": "pretrained"}, "trunk": {"checkpoint_blocks": True}}
        )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("is_folding_model", False, "not one of an EsmForProteinFolding"),
        ("token_dropout", False, "token_dropout is False, and only True"),
        ("position_embedding_type", "absolute", "position_embedding_type is 'absolute'"),
        ("layer_norm_eps", 1e-12, "layer_norm_eps"),
        ("num_hidden_layers", 4, "no ESM-2 has 4 layers, width 64, 4 heads"),
        ("intermediate_size", 64, "intermediate_size 64 is not 4"),
        ("vocab_list", list("ARND"), "vocab_list is not ESM-2's"),
        ("esmfold_config", {"bypass_lm": True}, "bypass_lm is True"),
        ("esmfold_config", {"trunk": {"structure_module": {"epsilon": 1e-6}}}, "structure module: epsilon is 1e-06"),
        ("esmfold_config", {"trunk": {"num_blocks": 0}}, "trunk.blocks = 0"),
        ("esmfold_config", {"trunk": {"max_recycles": 0}}, "data.max_recycles = -1"),
    ],
)
def test_what_our_model_does_not_compute_is_refused(field, value, message):
    good = hugging_face_config(tiny_config())
    assert config_from_hugging_face(good)
    with pytest.raises(WeightsError, match=message):
        config_from_hugging_face({**good, field: value})


def test_a_config_without_esm2s_fields_is_refused():
    """EsmConfig's defaults are ESM-1's: absolute positions."""
    config = hugging_face_config(tiny_config())
    del config["position_embedding_type"]
    with pytest.raises(WeightsError, match="position_embedding_type is 'absolute'"):
        config_from_hugging_face(config)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("trunk", {"pair_update": "outer_product_mean"}),
        ("trunk", {"triangle_attention": False}),
        ("trunk", {"absolute_positions": True}),
        ("trunk", {"structure_module": {"trans_scale": 10.5}}),
        ("heads", {"plddt_atoms": 1}),
        ("heads", {"distogram_bins": HEAD_BINS + 1}),
        ("heads", {"pae": False}),
    ],
)
def test_what_esmfolds_files_cannot_hold_is_refused(section, values):
    with pytest.raises(WeightsError, match=rf"{section}\.\S*{next(iter(values))}"):
        folding_config(tiny_config(**{section: values}))


def test_weights_that_do_not_fit_are_named():
    model = tiny_model()
    state = {name: value for name, value in model.state_dict().items()}
    name = "trunk.blocks.1.tri_att_end.mha.linear_k.weight"
    with pytest.raises(WeightsError, match=f"FILE: 1 tensors of the model are missing, e.g. {name}"):
        model_from_state(model.config, {k: v for k, v in state.items() if k != name}, "FILE")
    with pytest.raises(WeightsError, match=rf"FILE: {name} has shape \[2\], the configuration says \[16, 16\]"):
        model_from_state(model.config, {**state, name: torch.zeros(2)}, "FILE")
    with pytest.raises(WeightsError, match=r"1 tensors are none of the model's, e.g. trunk.extra"):
        model_from_state(model.config, {**state, "trunk.extra": torch.zeros(2)}, "FILE")
    with pytest.raises(WeightsError, match=r"no tensor of ESM-2 has the name 'encoder.layer.0.odd'"):
        from_hugging_face({"esm.encoder.layer.0.odd": torch.zeros(1)})
    assert model_from_state(model.config, {**state, UNUSED + "lm_head.bias": torch.zeros(23)}, "FILE")


def test_a_model_with_an_adapter_is_not_written_as_if_it_had_none():
    model = build_model(tiny_config(adapter={"method": "lorta", "rank": 2}))
    with pytest.raises(WeightsError, match="no tensor of ESM-2 has the name"):
        to_hugging_face(model.state_dict())


def test_half_precision_stem_is_read_as_float32():
    model = tiny_model()
    state = {n: v.half() if n.startswith("stem.") else v for n, v in model.state_dict().items()}
    read = model_from_state(model.config, state, "test")
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    weight = "esm.layers.0.fc1.weight"
    torch.testing.assert_close(read.stem.state_dict()[weight], model.stem.state_dict()[weight].half().float())


def test_vocabulary_and_names():
    from esm.data import Alphabet

    assert list(VOCABULARY) == Alphabet.from_architecture("ESM-1b").all_toks
    assert stem_name(36, 2560) == "esm2_t36_3B" and stem_name(3, 64, 4) == "esm2_t3_demo"
    assert Stem("esm2_t3_demo").aatype_to_token[[20, 22]].tolist() == [VOCABULARY.index(t) for t in ("X", "<mask>")]
    with pytest.raises(WeightsError, match="no ESM-2 has 36 layers, width 2561: known are esm2_t6_8M"):
        stem_name(36, 2561)


def test_pae_head_leaves_the_other_initial_weights_alone():
    with_head, without = build_model(tiny_config()), build_model(tiny_config(heads={"pae": False}))
    plain = without.state_dict()
    assert set(with_head.state_dict()) - set(plain) == {"ptm_head.weight", "ptm_head.bias"}
    for name, value in plain.items():
        assert torch.equal(value, with_head.state_dict()[name]), name
    aatype, mask, index = batch()
    assert without(aatype, mask.float(), index, 0).pae_logits is None
    logits = with_head(aatype, mask.float(), index, 0).pae_logits
    assert logits.shape == (2, 27, 27, 64)
    assert {part for part, name, _ in with_head.named_parts() if name.startswith("ptm_head.")} == {"heads"}


def test_published_shapes_fit():
    """Every tensor of an EsmForProteinFolding of ESMFold v1's size, without memory for it (meta device)."""
    transformers = pytest.importorskip("transformers", reason="the port to compare with is in transformers")
    preset = resolve(preset_layer("esmfold"), {"adapter": {"method": "none"}})
    with torch.device("meta"):
        port = transformers.EsmForProteinFolding(transformers.EsmConfig(**hugging_face_config(preset)))
    state = from_hugging_face(port.state_dict())
    check_state(preset, state, "meta")
    assert sum(v.numel() for n, v in state.items() if n.startswith("trunk.")) > 6e8
