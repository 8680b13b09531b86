"""Losses and scores, sample by sample: OpenFold's average over a batch, and its chi loss adds over it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.structure.residues import ATOM37_INDEX
from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import atom37_to_atom14, atom37_to_rigid_groups, atom37_to_torsions, pseudo_beta
from pipeline.losses.chi import supervised_chi
from pipeline.losses.distogram import distogram_loss
from pipeline.losses.fape import RenamedAtoms, backbone_fape, fape, rename_ambiguous, sidechain_fape
from pipeline.losses.masked_lm import masked_lm_loss
from pipeline.losses.pae import pae_loss
from pipeline.losses.plddt import lddt_ca, plddt_loss, predicted_plddt
from pipeline.prediction.checks import read_aligned_error
from tests.openfold.inputs import BATCH, RESIDUES, UNKNOWN, Features, Prediction, Random, prediction, protein
from tests.openfold.reference import (
    assert_agree,
    assert_same_gradients,
    loss,
    rigid_of,
    sample,
    with_derived_features,
)
from tests.pipeline.rigid_forms import from_tensor_7

CA = ATOM37_INDEX["CA"]


class Case(NamedTuple):
    """A structure and a prediction of it."""

    features: Features
    """[B, ...], the observed structure."""
    predicted: Prediction
    derived: list[Features]
    """By sample, with what OpenFold's pipeline derives."""

    @property
    def atoms(self) -> tuple[Tensor, Tensor, Tensor]:
        """What our functions of atom37 take."""
        return tuple(self.features[name] for name in ("aatype", "all_atom_positions", "all_atom_mask"))


@pytest.fixture
def case(seed) -> Case:
    features = protein(seed)
    derived = [with_derived_features(sample(features, b)) for b in range(BATCH)]
    return Case(features, prediction(seed, features), derived)


def by_sample(function: Callable[[int], Tensor]) -> Tensor:
    """OpenFold's value for each sample, [B]."""
    return torch.stack([function(b) for b in range(BATCH)])


@pytest.mark.parametrize("clamp_weight", [1.0, 0.0, 0.9], ids=["clamped", "unclamped", "mixed"])
def test_backbone_fape(case, clamp_weight):
    groups, trajectory = atom37_to_rigid_groups(*case.atoms), case.predicted.trajectory
    ours = backbone_fape(from_tensor_7(trajectory), groups.backbone, groups.backbone_mask, clamp_weight)

    def reference(b: int) -> Tensor:
        truth = (case.derived[b][name] for name in ("backbone_rigid_tensor", "backbone_rigid_mask"))
        return loss.backbone_loss(*truth, trajectory[:, b], use_clamped_fape=torch.tensor(clamp_weight))

    theirs = by_sample(reference)
    assert_agree(ours, theirs)
    assert_same_gradients(ours, theirs, [trajectory], looser=5)


def test_point_error_of_other_points_than_the_origins(seed):
    """Frames and points of different number, each with a mask; other distances and lengths."""
    rng = Random(seed)
    pred, target = rng.rigid(2, 9), rng.rigid(9)
    leaves = [x.requires_grad_() for x in (pred.rot, pred.trans, 10 * rng.normal(2, 17, 3))]
    points, frames_mask, points_mask = 10 * rng.normal(17, 3), rng.chance(0.7, 9), rng.chance(0.7, 17)
    pred = Rigid(*leaves[:2])
    for weight, clamp in ((1.0, 15.0), (0.0, None)):
        ours = fape(pred, target, frames_mask, leaves[2], points, points_mask, weight, 15.0, length_scale=7.0)
        theirs = loss.compute_fape(
            rigid_of(pred),
            rigid_of(target)[None],
            frames_mask[None],
            leaves[2],
            points[None],
            points_mask[None],
            length_scale=7.0,
            l1_clamp_distance=clamp,
            eps=1e-4,
        )
        assert_agree(ours, theirs)
        assert_same_gradients(ours, theirs, leaves, looser=5)


def renamed(case: Case) -> RenamedAtoms:
    known = atom37_to_atom14(*case.atoms)
    return rename_ambiguous(
        case.predicted.atom14.detach(),
        known.positions,
        known.alt_positions,
        known.exists,
        known.alt_exists,
        known.is_ambiguous,
    )


def test_renaming(case):
    ours = renamed(case)
    for b in range(BATCH):
        theirs = loss.compute_renamed_ground_truth(case.derived[b], case.predicted.atom14[b].detach())
        assert_agree(ours.alt_is_better[b], theirs["alt_naming_is_better"])
        assert_agree(ours.positions[b], theirs["renamed_atom14_gt_positions"])
        assert_agree(ours.exists[b], theirs["renamed_atom14_gt_exists"])


def test_sidechain_fape(case):
    """OpenFold's of the frames that both have: ours leave out the psi groups of unknown residues."""
    groups, leaves = atom37_to_rigid_groups(*case.atoms), [case.predicted.sidechain_frames, case.predicted.atom14]
    naming = renamed(case)
    ours = sidechain_fape(
        Rigid.from_tensor_4x4(leaves[0]), leaves[1], groups.frames, groups.alt_frames, groups.exists, naming
    )
    assert naming.alt_is_better.sum() > 0

    def reference(b: int) -> Tensor:
        truth = {**case.derived[b], "rigidgroups_gt_exists": groups.exists[b]}
        truth |= loss.compute_renamed_ground_truth(truth, leaves[1][b].detach())
        return loss.sidechain_loss(leaves[0][None, b], leaves[1][None, b], **truth)

    theirs = by_sample(reference)
    assert_agree(ours, theirs)
    assert_same_gradients(ours, theirs, leaves, looser=5)


def test_supervised_chi(case):
    torsions, features = atom37_to_torsions(*case.atoms), case.features
    leaves = [case.predicted.angles, case.predicted.unnormalized_angles]
    ours = supervised_chi(
        *leaves, features["aatype"], torsions.sin_cos[..., 3:, :], torsions.mask[..., 3:], features["seq_mask"]
    )
    theirs = by_sample(
        lambda b: loss.supervised_chi_loss(
            leaves[0][:, b], leaves[1][:, b], **case.derived[b], chi_weight=0.5, angle_norm_weight=0.01
        )
    )
    assert_agree(ours.total, theirs, looser=5)
    assert_same_gradients(ours.total, theirs, leaves, looser=10)


def test_distogram(case, seed):
    beta, mask = pseudo_beta(*case.atoms)
    logits = Random(seed).normal(BATCH, RESIDUES, RESIDUES, 64).requires_grad_()
    ours = distogram_loss(logits, beta, mask)
    theirs = by_sample(lambda b: loss.distogram_loss(logits[b], **case.derived[b]))
    assert_agree(ours, theirs)
    assert_same_gradients(ours, theirs, [logits])


def near_and_far(features: Features, seed: int) -> Tensor:
    """Positions [B, N, 37, 3] that miss the true ones by 0.2 to 4 angstrom, so that all four thresholds matter."""
    positions = features["all_atom_positions"]
    size = torch.tensor([0.2, 0.5, 1.0, 4.0]).repeat(RESIDUES)[:RESIDUES]
    return positions + size[:, None, None] * Random(seed).normal(*positions.shape)


def test_lddt(case, seed):
    pred, true, mask = near_and_far(case.features, seed), *case.atoms[1:]
    atoms = pred[:, :, CA], true[:, :, CA], mask[:, :, CA]
    for cutoff in (15.0, 4.5):
        for per_residue in (True, False):
            ours = lddt_ca(*atoms, cutoff, per_residue)
            assert_agree(ours, loss.lddt_ca(pred, true, mask, cutoff, per_residue=per_residue))
            assert ours.min() < 0.6


RESOLUTIONS = pytest.mark.parametrize("resolution", [1.5, 3.0, 3.5, 0.0])
"""OpenFold states 0 for NMR."""


@RESOLUTIONS
def test_plddt(case, seed, resolution):
    pred, true, mask = near_and_far(case.features, seed), *case.atoms[1:]
    logits = Random(seed).normal(BATCH, RESIDUES, 50).requires_grad_()
    resolutions = torch.tensor([resolution] * BATCH)
    ours = plddt_loss(logits, pred[:, :, CA], true[:, :, CA], mask[:, :, CA], resolutions)
    theirs = by_sample(lambda b: loss.lddt_loss(logits[b], pred[b], true[b], mask[b], resolutions[b]))
    assert_same_confidence_losses(ours, theirs, logits, resolution)
    assert_agree(predicted_plddt(logits), loss.compute_plddt(logits))


@RESOLUTIONS
def test_aligned_error(case, seed, resolution):
    groups, last = atom37_to_rigid_groups(*case.atoms), case.predicted.trajectory[-1].detach()
    logits = Random(seed).normal(BATCH, RESIDUES, RESIDUES, 64).requires_grad_()
    resolutions = torch.tensor([resolution] * BATCH)
    ours = pae_loss(logits, from_tensor_7(last), groups.backbone, groups.backbone_mask, resolutions)
    theirs = by_sample(lambda b: loss.tm_loss(logits[b], last[b], **case.derived[b], resolution=resolutions[b]))
    assert_same_confidence_losses(ours, theirs, logits, resolution)
    expected = loss.compute_predicted_aligned_error(logits)
    read = [read_aligned_error(of_one, np.zeros(RESIDUES, dtype=int)) for of_one in logits.detach()]
    assert_agree(torch.stack([torch.from_numpy(one.pae) for one in read]), expected["predicted_aligned_error"])
    assert_agree(torch.tensor(read[0].largest), expected["max_predicted_aligned_error"])


def assert_same_confidence_losses(ours: Tensor, theirs: Tensor, logits: Tensor, resolution: float) -> None:
    assert_agree(ours, theirs)
    assert (ours > 0).all() == (0 < resolution <= 3)
    if resolution in (1.5, 3.0):
        assert_same_gradients(ours, theirs, [logits])


def test_predicted_tm(case, seed):
    """With OpenFold's ``residue_weights``, which its own heads leave at 1 for padding too."""
    logits, mask = 3 * Random(seed).normal(BATCH, RESIDUES, RESIDUES, 64), case.features["seq_mask"]
    ours = []
    for of_one, n in zip(logits, mask.sum(-1).int().tolist(), strict=True):
        ours.append(read_aligned_error(of_one[:n, :n], np.zeros(n, dtype=int)).ptm)
    assert_agree(torch.tensor(ours), by_sample(lambda b: loss.compute_tm(logits[b], residue_weights=mask[b])))


def test_masked_residues(case, seed):
    """AlphaFold's masked MSA with one sequence, without the unknown residues, which count for nothing here."""
    rng, aatype, mask = Random(seed), case.atoms[0], case.features["seq_mask"]
    logits = rng.normal(BATCH, RESIDUES, 23).requires_grad_()
    masked = rng.chance(0.3, BATCH, RESIDUES)
    ours = masked_lm_loss(logits, aatype, masked, mask)
    counted = masked * mask * (aatype != UNKNOWN)
    theirs = by_sample(
        lambda b: loss.masked_msa_loss(logits[b, None], aatype[b, None], counted[b, None], num_classes=23)
    )
    looser = 1e4 if logits.dtype == torch.float64 else 1  # OpenFold halves the mask beside its eps of 1e-8, not ours
    assert_agree(ours, theirs, looser=looser)
    assert_same_gradients(ours, theirs, [logits], looser=looser)
