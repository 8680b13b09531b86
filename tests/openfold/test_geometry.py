"""Rigid transforms, atoms to torsions and frames and back."""

import pytest
import torch

from pipeline.folding.frames import Rigid
from pipeline.folding.geometry import (
    atom14_to_atom37,
    atom37_to_atom14,
    atom37_to_rigid_groups,
    atom37_to_torsions,
    frames_to_atom14,
    pseudo_beta,
    torsions_to_frames,
)
from tests.openfold.inputs import BATCH, RESIDUES, UNKNOWN, Random, protein
from tests.openfold.reference import (
    Reference,
    assert_agree,
    assert_same_gradients,
    feats,
    residue_tables,
    rigid_of,
    sample,
    with_derived_features,
)
from tests.pipeline.rigid_forms import from_tensor_7, to_tensor_4x4, to_tensor_7

PSI_GROUP, CHI2_GROUP = 3, 5


def test_frames_of_three_points(seed):
    points = Random(seed).normal(3, 40, 3)
    points[:, 0] = points[0, 0]  # all in one place
    points[2, 1] = 2 * points[1, 1] - points[0, 1]  # on a line
    points.requires_grad_()
    ours, theirs = Rigid.from_3_points(*points), Reference.from_3_points(*points)
    assert_agree(to_tensor_4x4(ours), theirs.to_tensor_4x4())
    regular = torch.arange(40) > 1  # for the others the gradient is a matter of the eps alone
    assert_same_gradients(to_tensor_4x4(ours), theirs.to_tensor_4x4(), [points], regular, looser=50)


def test_algebra(seed):
    rng = Random(seed)
    a, b, points = rng.rigid(5, 7), rng.rigid(5, 7), 10 * rng.normal(5, 7, 3)
    of_a, of_b = rigid_of(a), rigid_of(b)
    assert_agree(to_tensor_4x4(a.compose(b)), of_a.compose(of_b).to_tensor_4x4())
    assert_agree(a.apply(points), of_a.apply(points))
    assert_agree(a.invert_apply(points), of_a.invert_apply(points))
    assert_agree(a[..., None].invert_apply(points[:, None]), of_a[..., None].invert_apply(points[:, None]))
    assert_agree(to_tensor_4x4(a.scale_translation(10)), of_a.scale_translation(10).to_tensor_4x4())


def test_quaternions(seed):
    rng = Random(seed)
    tensor = torch.cat((rng.unit(50, 4), rng.normal(50, 3)), dim=-1)
    ours, theirs = from_tensor_7(tensor), Reference.from_tensor_7(tensor)
    assert_agree(to_tensor_4x4(ours), theirs.to_tensor_4x4())
    back = rigid_of(ours).to_tensor_7()  # by an eigenvector, of either sign
    back = torch.cat((back[:, :4] * back[:, :1].sign(), back[:, 4:]), dim=-1)
    assert_agree(to_tensor_7(ours), back, looser=10)
    update = rng.normal(50, 6)
    assert_agree(to_tensor_4x4(ours.compose_q_update(update)), theirs.compose_q_update_vec(update).to_tensor_4x4())


def test_torsions_of_atoms(seed):
    features = protein(seed)
    ours = atom37_to_torsions(features["aatype"], features["all_atom_positions"], features["all_atom_mask"])
    for b in range(BATCH):
        theirs = with_derived_features(sample(features, b))
        assert_agree(ours.mask[b], theirs["torsion_angles_mask"])
        assert_agree(ours.sin_cos[b], theirs["torsion_angles_sin_cos"], ours.mask[b], looser=10)
        assert_agree(ours.alt_sin_cos[b], theirs["alt_torsion_angles_sin_cos"], ours.mask[b], looser=10)
        assert_agree(ours.sin_cos[b, :, 3:], theirs["chi_angles_sin_cos"], theirs["chi_mask"], looser=10)


def test_rigid_groups_of_atoms(seed):
    """Ours leave out the psi group of unknown residues, for whose oxygen nothing is predicted."""
    features = protein(seed)
    ours = atom37_to_rigid_groups(features["aatype"], features["all_atom_positions"], features["all_atom_mask"])
    for b in range(BATCH):
        theirs = with_derived_features(sample(features, b))
        known = torch.ones(RESIDUES, 8)
        known[features["aatype"][b] == UNKNOWN, PSI_GROUP] = 0
        assert_agree(ours.group_exists[b], theirs["rigidgroups_group_exists"] * known)
        assert_agree(ours.exists[b], theirs["rigidgroups_gt_exists"] * known)
        assert_agree(ours.is_ambiguous[b], theirs["rigidgroups_group_is_ambiguous"])
        assert_agree(to_tensor_4x4(ours.frames[b]), theirs["rigidgroups_gt_frames"], ours.exists[b])
        assert_agree(to_tensor_4x4(ours.alt_frames[b]), theirs["rigidgroups_alt_gt_frames"], ours.exists[b])
        assert_agree(ours.backbone_mask[b], theirs["backbone_rigid_mask"])
        assert_agree(to_tensor_4x4(ours.backbone[b]), theirs["backbone_rigid_tensor"], ours.backbone_mask[b])


def test_dense_atoms_and_pseudo_beta(seed):
    features = protein(seed)
    atoms = features["aatype"], features["all_atom_positions"], features["all_atom_mask"]
    ours, (beta, beta_mask) = atom37_to_atom14(*atoms), pseudo_beta(*atoms)
    for b in range(BATCH):
        theirs = with_derived_features(sample(features, b))
        assert_agree(ours.positions[b], theirs["atom14_gt_positions"])
        assert_agree(ours.exists[b], theirs["atom14_gt_exists"])
        assert_agree(ours.alt_positions[b], theirs["atom14_alt_gt_positions"])
        assert_agree(ours.alt_exists[b], theirs["atom14_alt_gt_exists"])
        assert_agree(ours.atom_exists[b], theirs["atom14_atom_exists"])
        assert_agree(ours.is_ambiguous[b], theirs["atom14_atom_is_ambiguous"])
        assert_agree(beta[b], theirs["pseudo_beta"])
        assert_agree(beta_mask[b], theirs["pseudo_beta_mask"])
        atom37, mask = atom14_to_atom37(features["aatype"][b], ours.positions[b])
        assert_agree(mask, theirs["atom37_atom_exists"])
        assert_agree(atom37, feats.atom14_to_atom37(theirs["atom14_gt_positions"], theirs))


@pytest.mark.parametrize("unit", [True, False], ids=["unit", "any length"])
def test_atoms_of_torsions(seed, unit):
    """Value and gradients. The frame of an unknown residue is the predicted one; OpenFold's has a rotation of zeros."""
    rng = Random(seed)
    features = protein(seed)
    aatype, backbone = features["aatype"], rng.rigid(BATCH, RESIDUES)
    torsions = rng.normal(BATCH, RESIDUES, 7, 2)
    leaves = [backbone.rot, backbone.trans, torsions / torsions.norm(dim=-1, keepdim=True) if unit else torsions]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    ours = torsions_to_frames(aatype, Rigid(*leaves[:2]), leaves[2])
    tables = residue_tables()
    theirs = feats.torsion_angles_to_frames(rigid_of(Rigid(*leaves[:2])), leaves[2], aatype, tables["default_frames"])
    known = (aatype != UNKNOWN)[..., None].expand(-1, -1, 8)
    assert_agree(to_tensor_4x4(ours), theirs.to_tensor_4x4(), known, looser=1 if unit else 10)
    unknown = aatype == UNKNOWN
    assert unknown.any()
    assert torch.equal(ours.rot[unknown][:, 0], backbone.rot[unknown])
    assert theirs.get_rots().get_rot_mats()[unknown].abs().max() == 0
    of_atoms = feats.frames_and_literature_positions_to_atom14_pos(theirs, aatype, **tables)
    atoms = frames_to_atom14(aatype, ours)
    assert_agree(atoms, of_atoms, looser=1 if unit else 10)
    assert_same_gradients(atoms, of_atoms, leaves, looser=1 if unit else 10)
