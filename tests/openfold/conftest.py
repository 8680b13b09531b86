"""Every test runs on three random inputs, in float32 with OpenFold as it is installed and in float64."""

from collections.abc import Iterator

import pytest
import torch


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
