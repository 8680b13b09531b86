"""Every test runs on three random inputs, in float32 with OpenFold as it is installed and in float64."""

from collections.abc import Iterator
from importlib import resources
from types import SimpleNamespace

import pytest
import torch

from data_prep.structure import bond_geometry
from data_prep.structure.residues import RESNAMES

STEREO_CHEMISTRY = "stereo_chemical_props.txt"
"""Bonds and angles, which OpenFold's repository leaves to be downloaded by a script of its own."""


def stereo_chemistry() -> str:
    """Our bonds and angles in the format of that file."""
    tables = {2: ["Bond Residue Mean StdDev"], 3: ["Angle Residue Mean StdDev"]}
    for name in RESNAMES[:-1]:
        for atoms, (mean, deviation) in bond_geometry.residue_geometry(name).items():
            tables[len(atoms)].append(f"{'-'.join(atoms)} {name} {mean!r} {deviation!r}")
    return "\n".join([*tables[2], "-", "", *tables[3], "-", ""])


class _Float64Casts:
    """What ``torch`` is to OpenFold's rigid_utils, which casts rotations and translations to float32 by force."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"], autouse=True)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.dtype]:
    """Type of inputs, parameters and OpenFold's constants."""
    from openfold.utils import rigid_utils  # here, where the test modules have made sure that it is there

    if request.param == torch.float64:
        monkeypatch.setattr(rigid_utils, "torch", _Float64Casts())
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture(params=range(3), ids=lambda seed: f"seed{seed}")
def seed(request: pytest.FixtureRequest) -> int:
    """Of the random inputs."""
    return request.param


@pytest.fixture
def bonds_and_angles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bonds and angles for OpenFold: its own file where the installation has it, else our table."""
    from openfold.np import residue_constants

    if not (resources.files("openfold.resources") / STEREO_CHEMISTRY).is_file():
        table = stereo_chemistry()
        monkeypatch.setattr(residue_constants, "resources", SimpleNamespace(read_text=lambda package, name: table))
    residue_constants.load_stereo_chemical_props.cache_clear()
    yield
    residue_constants.load_stereo_chemical_props.cache_clear()
