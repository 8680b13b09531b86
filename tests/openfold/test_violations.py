"""Structural violations, term by term and sample by sample."""

from importlib import resources
from types import SimpleNamespace

import pytest
import torch

from data_prep import bond_geometry
from data_prep.residues import RESNAMES
from tests.openfold.inputs import BATCH, prediction, protein
from tests.openfold.reference import residue_constants, sample

STEREO_CHEMISTRY = "stereo_chemical_props.txt"
"""Bonds and angles, which OpenFold's repository leaves to be downloaded by a script of its own."""


def stereo_chemistry() -> str:
    """Our bonds and angles in the format of that file."""
    tables = {2: ["Bond Residue Mean StdDev"], 3: ["Angle Residue Mean StdDev"]}
    for name in RESNAMES[:-1]:
        for atoms, (mean, deviation) in bond_geometry.residue_geometry(name).items():
            tables[len(atoms)].append(f"{'-'.join(atoms)} {name} {mean!r} {deviation!r}")
    return "\n".join([*tables[2], "-", "", *tables[3], "-", ""])


@pytest.fixture(autouse=True)
def bonds_and_angles(monkeypatch):
    """OpenFold's file where the installation has it."""
    if not (resources.files("openfold.resources") / STEREO_CHEMISTRY).is_file():
        table = stereo_chemistry()
        monkeypatch.setattr(residue_constants, "resources", SimpleNamespace(read_text=lambda package, name: table))
    residue_constants.load_stereo_chemical_props.cache_clear()
    yield
    residue_constants.load_stereo_chemical_props.cache_clear()


@pytest.fixture(params=[1.0, 0.5], ids=["as drawn", "squeezed"])
def structure(request, seed):
    """Predicted atoms with all kinds of violations, of residues as they are numbered, padding without atoms."""
    features = protein(seed)
    positions = (request.param * prediction(seed, features).atom14).detach().requires_grad_()
    masks = [loss_features(sample(features, b)) for b in range(BATCH)]
    exists = torch.stack([m["atom14_atom_exists"] for m in masks])
    return positions, exists, features["aatype"], features["residue_index"], masks
