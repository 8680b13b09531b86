"""Structural violations, term by term and sample by sample."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.structure import bond_geometry
from pipeline.losses.violation import (
    connection_violations,
    structural_violations,
    violation_loss,
)
from tests.openfold.inputs import BATCH, Features, prediction, protein
from tests.openfold.reference import (
    assert_agree,
    assert_same_gradients,
    data_transforms,
    loss,
    residue_constants,
    sample,
)

pytestmark = pytest.mark.usefixtures("bonds_and_angles")


class Structure(NamedTuple):
    """Predicted atoms of a batch."""

    positions: Tensor
    exists: Tensor
    aatype: Tensor
    residue_index: Tensor
    features: Features
    """What OpenFold takes beside the positions, [B, ...]."""

    @property
    def atoms(self) -> tuple[Tensor, ...]:
        """What our functions take."""
        return self[:4]

    def reference(self, **settings: float) -> dict[str, Tensor]:
        """OpenFold's violations of all samples, [B, ...], by name."""
        settings = {"violation_tolerance_factor": 12.0, "clash_overlap_tolerance": 1.5, **settings}
        samples = [
            loss.find_structural_violations(sample(self.features, b), self.positions[b], **settings)
            for b in range(BATCH)
        ]
        groups = ("between_residues", "within_residues")
        terms = {f"{group}.{name}": [x[group][name] for x in samples] for group in groups for name in samples[0][group]}
        terms["per_residue"] = [x["total_per_residue_violations_mask"] for x in samples]
        return {name: torch.stack(values) for name, values in terms.items()}


@pytest.fixture(params=[1.0, 0.5], ids=["as drawn", "squeezed"])
def structure(request, seed) -> Structure:
    """Atoms with violations of all kinds; the padding has no atoms."""
    features = protein(seed)
    positions = (request.param * prediction(seed, features).atom14).detach().requires_grad_()
    masks = data_transforms.make_atom14_masks({"aatype": features["aatype"]})
    exists = (masks["atom14_atom_exists"] * features["seq_mask"][..., None]).to(positions.dtype)
    features = features | masks | {"atom14_atom_exists": exists}
    return Structure(positions, exists, features["aatype"], features["residue_index"], features)


@pytest.mark.parametrize(("tolerance_factor", "overlap"), [(12.0, 1.5), (15.0, 1.0)])
def test_bounds_within_residues(tolerance_factor, overlap):
    ours = bond_geometry.atom14_distance_bounds(tolerance_factor, overlap)
    theirs = residue_constants.make_atom14_dists_bounds(overlap, tolerance_factor)
    for name, bounds in zip(("lower_bound", "upper_bound"), ours, strict=True):
        np.testing.assert_allclose(bounds, theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tolerance_factor", "overlap"), [(12.0, 1.5), (3.0, 1.0)])
def test_every_term(structure, tolerance_factor, overlap):
    theirs = structure.reference(violation_tolerance_factor=tolerance_factor, clash_overlap_tolerance=overlap)
    ours = structural_violations(*structure.atoms, tolerance_factor, overlap)
    bonds, clashes, within = ours.connections, ours.clashes, ours.within
    terms = {
        "between_residues.bonds_c_n_loss_mean": bonds.c_n_loss,
        "between_residues.angles_ca_c_n_loss_mean": bonds.ca_c_n_loss,
        "between_residues.angles_c_n_ca_loss_mean": bonds.c_n_ca_loss,
        "between_residues.connections_per_residue_loss_sum": bonds.per_residue_loss,
        "between_residues.connections_per_residue_violation_mask": bonds.per_residue_violation,
        "between_residues.clashes_mean_loss": clashes.mean_loss,
        "between_residues.clashes_per_atom_loss_sum": clashes.per_atom_loss,
        "between_residues.clashes_per_atom_clash_mask": clashes.per_atom_violation,
        "between_residues.clashes_per_atom_num_clash": clashes.per_atom_count,
        "within_residues.per_atom_loss_sum": within.per_atom_loss,
        "within_residues.per_atom_violations": within.per_atom_violation,
        "within_residues.per_atom_num_clash": within.per_atom_count,
        "per_residue": ours.per_residue_violation,
    }
    assert terms.keys() == theirs.keys()
    differentiable = [name for name, value in theirs.items() if value.requires_grad]
    for name, value in terms.items():
        assert_agree(value, theirs[name], looser=10)
        assert value.max() > 0
        assert value.requires_grad == (name in differentiable)
        if name in differentiable:
            assert_same_gradients(value, theirs[name], [structure.positions], looser=100)


@pytest.mark.parametrize("average_clashes", [False, True])
def test_loss(structure, average_clashes):
    ours = violation_loss(structural_violations(*structure.atoms), average_clashes)

    def reference(b: int) -> Tensor:
        violations = loss.find_structural_violations(
            sample(structure.features, b),
            structure.positions[b],
            violation_tolerance_factor=12.0,
            clash_overlap_tolerance=1.5,
        )
        return loss.violation_loss(violations, structure.exists[b], average_clashes)

    theirs = torch.stack([reference(b) for b in range(BATCH)])
    assert_agree(ours, theirs)
    assert_same_gradients(ours, theirs, [structure.positions], looser=100)


def test_bonds_alone(structure):
    """OpenFold's ``between_residue_bond_loss`` by itself, which takes a batch."""
    positions, exists, aatype, residue_index = structure.atoms
    ours = connection_violations(positions, exists, aatype, residue_index, 5.0)
    theirs = loss.between_residue_bond_loss(positions, exists, residue_index, aatype, 5.0, 5.0)
    pairs = {
        "c_n_loss_mean": ours.c_n_loss,
        "ca_c_n_loss_mean": ours.ca_c_n_loss,
        "c_n_ca_loss_mean": ours.c_n_ca_loss,
        "per_residue_loss_sum": ours.per_residue_loss,
        "per_residue_violation_mask": ours.per_residue_violation,
    }
    assert pairs.keys() == theirs.keys()
    for name, value in pairs.items():
        assert_agree(value, theirs[name], looser=10)
