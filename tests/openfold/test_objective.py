"""The whole objective of one sample, against OpenFold's ``AlphaFoldLoss`` with its own configurations."""

import pytest
import torch

from data_prep.structure.residues import RESNAMES
from pipeline.config.schema import LossConfig
from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import atom14_to_atom37
from pipeline.folding.model import FoldOutput
from pipeline.folding.structure_module import StructureOutput
from pipeline.training.data import Batch
from pipeline.training.objective import fold_objective
from tests.openfold.inputs import LAYERS, RESIDUES, UNKNOWN, Prediction, Random, prediction, protein
from tests.openfold.reference import (
    assert_agree,
    assert_same_gradients,
    loss,
    model_config,
    sample,
    with_derived_features,
)
from tests.pipeline.rigid_forms import from_tensor_7


def first_sample(seed: int) -> tuple[dict[str, torch.Tensor], Prediction]:
    """A chain of known residues, [1, ...], and a prediction of it."""
    features = protein(seed)
    features["aatype"] = torch.where(features["aatype"] == UNKNOWN, RESNAMES.index("ALA"), features["aatype"])
    predicted = prediction(seed, features)
    layered = ("trajectory", "angles", "unnormalized_angles")
    leaves = {
        name: (value[:, :1] if name in layered else value[:1]).detach().requires_grad_()
        for name, value in vars(predicted).items()
    }
    return {name: value[:1] for name, value in features.items()}, Prediction(**leaves)


@pytest.mark.usefixtures("bonds_and_angles")
@pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "unclamped"])
@pytest.mark.parametrize(
    ("preset", "config"),
    [("initial_training", LossConfig()), ("finetuning_ptm", LossConfig(violation=1.0, pae=0.1))],
    ids=["initial training", "fine-tuning"],
)
def test_one_sample(seed, preset, config, clamp):
    """Every term, their weighted sum times the square root of the length, and its gradients.

    With the eps of OpenFold's functions, which are AlphaFold's and ours (1e-10 to 1e-4); its configuration sets most of
    them to 1e-8. Its head for experimentally resolved atoms has no counterpart here.
    """
    rng, resolution = Random(seed), torch.tensor([2.0])
    features, predicted = first_sample(seed)
    pair_logits = [rng.normal(1, RESIDUES, RESIDUES, 64).requires_grad_() for _ in range(2)]
    residue_logits = [rng.normal(1, RESIDUES, bins).requires_grad_() for bins in (50, 23)]
    masked = rng.chance(0.3, 1, RESIDUES)

    def layers(last: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(last)] * (LAYERS - 1) + [last])  # the losses look at the last one alone

    sidechain_frames, atom14 = layers(predicted.sidechain_frames), layers(predicted.atom14)
    structure = StructureOutput(
        from_tensor_7(predicted.trajectory),
        Rigid.from_tensor_4x4(sidechain_frames),
        predicted.unnormalized_angles,
        predicted.angles,
        atom14,
        states=atom14,  # no loss reads these
    )
    output = FoldOutput(
        structure=structure,
        single=atom14,  # nor these
        pair=atom14,
        distogram_logits=pair_logits[0],
        plddt_logits=residue_logits[0],
        pae_logits=pair_logits[1],
        masked_lm_logits=residue_logits[1],
        masked=masked,
    )
    batch = Batch(
        ids=("random",),
        aatype=features["aatype"],
        mask=features["seq_mask"],
        residue_index=features["residue_index"],
        atom37_positions=features["all_atom_positions"],
        atom37_mask=features["all_atom_mask"],
        resolution=resolution,
    )
    ours = fold_objective(output, batch, [clamp], config)

    of_sample = with_derived_features(sample(features, 0))
    truth = {name: value[None] for name, value in of_sample.items()} | {
        "resolution": resolution,
        "use_clamped_fape": torch.tensor([float(clamp)]),
        "seq_length": torch.tensor([RESIDUES]),
        "true_msa": features["aatype"][:, None],
        "bert_mask": masked[:, None],
    }
    given = {
        "sm": {
            "frames": predicted.trajectory,
            "sidechain_frames": sidechain_frames,
            "positions": atom14,
            "angles": predicted.angles,
            "unnormalized_angles": predicted.unnormalized_angles,
        },
        "final_atom_positions": atom14_to_atom37(features["aatype"], atom14[-1])[0],
        "final_affine_tensor": predicted.trajectory[-1],
        "distogram_logits": pair_logits[0],
        "tm_logits": pair_logits[1],
        "lddt_logits": residue_logits[0],
        "masked_msa_logits": residue_logits[1][:, None],
        "experimentally_resolved_logits": torch.zeros(1, RESIDUES, 37),
    }
    names = {
        "distogram": "distogram", "plddt": "plddt_loss", "supervised_chi": "supervised_chi",
        "violation": "violation", "pae": "tm", "masked_lm": "masked_msa",
    }  # fmt: skip
    settings = model_config(preset, train=True).loss
    settings.experimentally_resolved.weight = 0.0
    for term in names.values():
        del settings[term].eps
    theirs, terms = loss.AlphaFoldLoss(settings)(given, truth, _return_breakdown=True)

    looser = 1e3 if resolution.dtype == torch.float64 else 5  # the halved mask of masked residues: see test_losses
    for name, reference in names.items():
        assert (name in ours.terms) == (getattr(config, name) > 0)
        if name in ours.terms:
            assert_agree(ours.terms[name][0], terms[reference], looser=looser)
    fape = config.backbone_fape * ours.terms["backbone_fape"] + config.sidechain_fape * ours.terms["sidechain_fape"]
    assert_agree(fape[0], terms["fape"], looser=looser)
    assert_agree(ours.loss, theirs, looser=looser)
    logits = [pair_logits[0], *residue_logits, *([pair_logits[1]] if config.pae else [])]
    assert_same_gradients(ours.loss, theirs, [*vars(predicted).values(), *logits], looser=10 * looser)
