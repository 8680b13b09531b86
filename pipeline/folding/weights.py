"""ESMFold's weights in three layouts: ours, fair-esm's ``esmfold_3B_v1.pt``, Hugging Face's ``EsmForProteinFolding``.

The trunk has the same names everywhere but for the point projections of the invariant point attention, which carry a
``linear.`` here (as in today's OpenFold); the stem is ``stem.esm.*`` here and ``esm.*`` there, in Hugging Face's own
names for ESM-2. Our layout is the middle of every conversion. Three kinds of tensors are treated apart:

* what is computed and not learned (vocabulary and position indices) is dropped, and made anew; so are the stem's rotary
  frequencies, but only where a file has none, because those of the published weights are rounded to half precision;
* what the published files hold and no prediction reads (the trunk's masked-LM head, the stem's contact head and, in
  fair-esm's layout alone, its own masked-LM head) is kept under ``unused.``, so that a way there and back loses
  nothing; a model that never had it is written without.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from data_prep.files.errors import UserError
from pipeline.config.layers import preset_layer, resolve
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding import esm2_weights
from pipeline.folding.esm2_weights import DEMO_SHAPE, DEMO_STEM, ESM2_SHAPES
from pipeline.folding.model import FoldingModel
from pipeline.folding.stem import Stem
from pipeline.folding.tensor_files import is_finite

State = dict[str, torch.Tensor]

UNUSED = "unused."
"""Prefix, in our layout, of tensors that no prediction reads."""

VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""ESM-2's tokens in their order."""

HEAD_BINS = 64
"""Bins of the distogram and of the aligned error; both ports have the number in their code."""


class WeightsError(UserError):
    """Weights or a configuration that cannot be converted; the message is one line."""


_TRUNK_FIELDS = {
    "blocks": "num_blocks",
    "c_s": "sequence_state_dim",
    "c_z": "pairwise_state_dim",
    "sequence_head_width": "sequence_head_width",
    "pair_head_width": "pairwise_head_width",
    "position_bins": "position_bins",
    "dropout": "dropout",
}
_STRUCTURE_FIELDS = {
    "c_s": ("sequence_dim", "c_s"),
    "c_z": ("pairwise_dim", "c_z"),
    "c_ipa": ("ipa_dim", "c_ipa"),
    "c_resnet": ("resnet_dim", "c_resnet"),
    "heads": ("num_heads_ipa", "no_heads_ipa"),
    "qk_points": ("num_qk_points", "no_qk_points"),
    "v_points": ("num_v_points", "no_v_points"),
    "blocks": ("num_blocks", "no_blocks"),
    "transition_layers": ("num_transition_layers", "no_transition_layers"),
    "resnet_blocks": ("num_resnet_blocks", "no_resnet_blocks"),
    "dropout": ("dropout_rate", "dropout_rate"),
    "trans_scale": ("trans_scale_factor", "trans_scale_factor"),
}
"""Our names, Hugging Face's and fair-esm's."""
_FIXED_STRUCTURE = {"num_angles": 7, "epsilon": 1e-8, "inf": 1e5}
_FIXED_FOLDING = {
    "use_esm_attn_map": False,
    "esm_ablate_pairwise": False,
    "esm_ablate_sequence": False,
    "esm_input_dropout": 0.0,
    "embed_aa": True,
    "bypass_lm": False,
}
_FIXED_STEM = {
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "emb_layer_norm_before": False,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": len(VOCABULARY),
    "mask_token_id": VOCABULARY.index("<mask>"),
    "pad_token_id": VOCABULARY.index("<pad>"),
}
_STEM_DEFAULTS = {"position_embedding_type": "absolute", "token_dropout": False, "layer_norm_eps": 1e-12}
"""Defaults of ``EsmConfig`` that are not ESM-2's: a config.json without these fields is another model's."""


def stem_name(layers: int, width: int, heads: int | None = None) -> str:
    """The ESM-2 of these sizes. Raises WeightsError when there is none."""
    for name, shape in {**ESM2_SHAPES, DEMO_STEM: DEMO_SHAPE}.items():
        if shape[:2] == (layers, width) and heads in (None, shape[2]):
            return name
    sizes = f"{layers} layers, width {width}" + ("" if heads is None else f", {heads} heads")
    raise WeightsError(f"no ESM-2 has {sizes}: known are {', '.join([*ESM2_SHAPES, DEMO_STEM])}")


def _require(values: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for name, expected in fixed.items():
        value = values.get(name, expected)
        if value != expected and not (value is None and expected is False):
            raise WeightsError(f"{where}{name} is {value!r}, and only {expected!r} can be converted")


def config_from_folding(folding: Mapping[str, Any], stem: str) -> RunConfig:
    """Our configuration of a model that the ports describe so.

    Args:
        folding: ``esmfold_config`` of Hugging Face's config.json, or ``cfg["model"]`` of fair-esm's file. What it
            leaves out has ESMFold v1's value.
        stem: name of the ESM-2.

    Raises:
        WeightsError: something that our model does not compute.
    """
    trunk = folding.get("trunk") or {}
    structure = trunk.get("structure_module") or {}
    _require(folding, _FIXED_FOLDING, "")
    _require(structure, _FIXED_STRUCTURE | {"no_angles": 7}, "structure module: ")
    ours: dict[str, Any] = {own: trunk[theirs] for own, theirs in _TRUNK_FIELDS.items() if theirs in trunk}
    ours["structure_module"] = {
        own: structure[name] for own, theirs in _STRUCTURE_FIELDS.items() for name in theirs if name in structure
    }
    layers: list[dict[str, Any]] = [{"stem": {"name": stem}, "adapter": {"method": "none"}, "trunk": ours}]
    if "lddt_head_hid_dim" in folding:
        layers.append({"heads": {"plddt_hidden": folding["lddt_head_hid_dim"]}})
    if "max_recycles" in trunk:
        # The ports count passes here, where the field's default is 4; ours counts those after the first.
        layers.append({"data": {"max_recycles": trunk["max_recycles"] - 1}})
    try:
        return resolve(preset_layer("esmfold"), *layers)
    except ConfigError as error:
        raise WeightsError(str(error)) from error


def config_from_hugging_face(config: Mapping[str, Any]) -> RunConfig:
    """Our configuration of a Hugging Face model, from the content of its config.json (``EsmConfig.to_dict()``).

    Raises:
        WeightsError: not a folding model, a stem that is not an ESM-2, or an option that our model does not compute.
    """
    if config.get("model_type") != "esm" or not config.get("is_folding_model"):
        raise WeightsError("config.json is not one of an EsmForProteinFolding (model_type esm, is_folding_model)")
    _require({**_STEM_DEFAULTS, **config}, _FIXED_STEM, "config.json: ")
    vocabulary = config.get("vocab_list")
    if vocabulary is not None and tuple(vocabulary) != VOCABULARY:
        raise WeightsError("config.json: vocab_list is not ESM-2's")
    layers, width, heads = (config.get(k, 0) for k in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    if config.get("intermediate_size") != 4 * width:
        raise WeightsError(f"config.json: intermediate_size {config.get('intermediate_size')} is not 4 * hidden_size")
    name = stem_name(layers, width, heads)
    return config_from_folding(config.get("esmfold_config") or {}, name)


def folding_config(config: RunConfig, *, half_stem: bool = False) -> dict[str, Any]:
    """What ``config_from_folding`` reads, from our configuration, in Hugging Face's names.

    Raises:
        WeightsError: the configuration is not ESMFold's architecture, with the field.
    """
    trunk, heads = config.trunk, config.heads
    for name, value, expected in (
        ("trunk.pair_update", trunk.pair_update, "product_difference"),
        ("trunk.triangle_attention", trunk.triangle_attention, True),
        ("trunk.absolute_positions", trunk.absolute_positions, False),
        ("heads.plddt_atoms", heads.plddt_atoms, 37),
        ("heads.plddt_bins", heads.plddt_bins, 50),
        ("heads.distogram_bins", heads.distogram_bins, HEAD_BINS),
        ("heads.pae", heads.pae, True),  # without, the ports would report the pTM of random weights
        ("heads.pae_bins", heads.pae_bins, HEAD_BINS),
    ):
        if value != expected:
            raise WeightsError(f"{name} = {value!r} has no place in ESMFold's files, which need {expected!r}")
    structure: dict[str, Any] = {
        theirs[0]: getattr(trunk.structure_module, own) for own, theirs in _STRUCTURE_FIELDS.items()
    }
    if trunk.structure_module.trans_scale % 1:
        raise WeightsError(f"trunk.structure_module.trans_scale = {trunk.structure_module.trans_scale} must be whole")
    structure["trans_scale_factor"] = int(trunk.structure_module.trans_scale)
    shape: dict[str, Any] = {theirs: getattr(trunk, own) for own, theirs in _TRUNK_FIELDS.items()}
    short_name = re.sub(r"_t\d+_", "_", config.stem.name)  # esm2_3B, as the ports name it
    return {
        "esm_type": short_name,
        "fp16_esm": half_stem,
        **_FIXED_FOLDING,
        "lddt_head_hid_dim": heads.plddt_hidden,
        "trunk": {
            **shape,
            "layer_drop": 0,
            "cpu_grad_checkpoint": False,
            "max_recycles": config.data.max_recycles + 1,
            "chunk_size": None,
            "structure_module": {**structure, **_FIXED_STRUCTURE},
        },
    }


def hugging_face_config(config: RunConfig, *, half_stem: bool = False) -> dict[str, Any]:
    """Content of the config.json with which ``EsmForProteinFolding.from_pretrained`` takes our weights.

    Args:
        config: an ESMFold-like configuration.
        half_stem: the stem's weights are float16, as in the published checkpoint.

    Raises:
        WeightsError: the configuration is not ESMFold's architecture.
    """
    layers, width, heads = DEMO_SHAPE if config.stem.name == DEMO_STEM else ESM2_SHAPES[config.stem.name]
    return {
        "architectures": ["EsmForProteinFolding"],
        "model_type": "esm",
        "dtype": "float32",
        "is_folding_model": True,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **_FIXED_STEM,
        "vocab_list": list(VOCABULARY),
        "esmfold_config": folding_config(config, half_stem=half_stem),
    }


_COMPUTED = re.compile(r"^af2_to_esm$|position_ids$|^esm\.embeddings\.position_embeddings\.|^esm\.lm_head\.weight$")
"""Not learned, not read with rotary positions, or tied (the stem's masked-LM head to its token embedding)."""
_UNREAD = re.compile(r"^lm_head\.|^esm\.(contact_head|lm_head)\.")
_POINTS = re.compile(r"(\.ipa\.linear_(?:q|kv)_points\.)(?:linear\.)?")
_MADE_ANEW = re.compile(r"^lm_head\.|rot_emb\.inv_freq$")
"""Of our model; a state may be without."""


_FREQUENCIES = "stem.esm.layers.{}.self_attn.rot_emb.inv_freq"
_SHARED_FREQUENCIES = f"esm.{esm2_weights.SHARED_FREQUENCIES}"


def _known(name: str, renamed: str | None) -> str:
    if renamed is None:
        raise WeightsError(f"no tensor of ESM-2 has the name {name!r}")
    return renamed


def from_fair_esm(state: Mapping[str, torch.Tensor], *, hugging_face: bool = False) -> State:
    """Our layout of ``esmfold_3B_v1.pt``'s ``model``, which may be without the stem (the published one is).

    With ``hugging_face`` the stem's tensors have transformers' names.
    """
    ours: State = {}
    for name, value in state.items():
        name = esm2_weights.current_name(name)
        if _COMPUTED.search(name):
            continue
        if _UNREAD.search(name):
            ours[UNUSED + name] = value
        elif name.startswith("esm."):
            stem = name.removeprefix("esm.")
            ours["stem.esm." + (_known(stem, esm2_weights.name_from_hugging_face(stem)) if hugging_face else stem)] = (
                value
            )
        else:
            ours[_POINTS.sub(r"\1linear.", name)] = value
    return ours


def from_hugging_face(state: Mapping[str, torch.Tensor]) -> State:
    """Our layout of an ``EsmForProteinFolding``'s state dict. Raises WeightsError for a name that it has not."""
    own = {name: value for name, value in state.items() if name != _SHARED_FREQUENCIES}
    ours = from_fair_esm(own, hugging_face=True)
    if _SHARED_FREQUENCIES in state:
        for layer in {name.split(".")[3] for name in ours if name.startswith("stem.esm.layers.")}:
            ours[_FREQUENCIES.format(layer)] = state[_SHARED_FREQUENCIES].clone()  # a file has no tensor twice
    return ours


def to_hugging_face(state: Mapping[str, torch.Tensor]) -> State:
    """State dict of an ``EsmForProteinFolding`` from our layout; the stem's masked-LM head has no place there."""
    theirs: State = {}
    for name, value in state.items():
        if name.startswith(UNUSED + "esm.lm_head.") or _COMPUTED.search(name):
            continue
        if name.endswith(".rot_emb.inv_freq"):
            name = _SHARED_FREQUENCIES  # all layers have the same
        elif name.startswith("stem."):
            stem = name.removeprefix("stem.esm.")
            name = "esm." + _known(stem, esm2_weights.name_to_hugging_face(stem))
        theirs[_POINTS.sub(r"\1", name.removeprefix(UNUSED))] = value
    tokens = [VOCABULARY.index("<pad>"), *(VOCABULARY.index(letter) for letter in "ARNDCQEGHILKMFPSTWYVX")]
    theirs["af2_to_esm"] = torch.tensor(tokens)
    return theirs


def check_state(config: RunConfig, state: Mapping[str, torch.Tensor], source: object) -> None:
    """Raise WeightsError unless ``state`` (our layout) has this configuration's tensors alone, with finite values."""
    with torch.device("meta"):
        expected = {
            name: tensor.shape for name, tensor in FoldingModel(config, Stem(config.stem.name)).state_dict().items()
        }
    given = {name for name in state if not name.startswith(UNUSED)}
    missing = sorted(name for name in set(expected) - given if not _MADE_ANEW.search(name))
    if missing:
        raise WeightsError(f"{source}: {len(missing)} tensors of the model are missing, e.g. {missing[0]}")
    odd = sorted(given - set(expected))
    if odd:
        raise WeightsError(f"{source}: {len(odd)} tensors are none of the model's, e.g. {odd[0]}")
    for name in sorted(given):
        if state[name].shape != expected[name]:
            have, need = list(state[name].shape), list(expected[name])
            raise WeightsError(f"{source}: {name} has shape {have}, the configuration says {need}")
        if not is_finite(state[name]):
            raise WeightsError(f"{source}: {name} has values that are not finite (NaN or infinity)")


def model_from_state(config: RunConfig, state: Mapping[str, torch.Tensor], source: object) -> FoldingModel:
    """The model with these weights (our layout) in float32, in eval mode, without an adapter; nothing is downloaded.

    Raises:
        WeightsError: tensors that do not fit ``config``; ``source`` names them in the message.
    """
    check_state(config, state, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = FoldingModel(config, Stem(config.stem.name))  # which attaches nothing by itself
    own = {name: value for name, value in state.items() if not name.startswith(UNUSED)}
    model.load_state_dict(own, strict=False)
    return model.eval()
