"""Reference cases: npz files with ``in.<name>`` and ``out.<name>``, and the rule for how close is close enough.

Inputs are float32 and exact. Outputs are a float64 evaluation of OpenFold's or fair-esm's source, so the reference's
own float32 run differs from them by a relative "gap" that is known per output. A float32 result may be off by 20 gaps
(at least 1e-6), a float64 result by 1e-6, which is what the float32 storage of the outputs allows; both relative to
the largest value of the output. Integers and masks must match exactly.

Use::

    pytest_generate_tests = golden.parametrize          # in the test module

    @golden.cases("torsions")                           # one test per file <case>__torsions.npz and dtype
    def test_torsions(case):
        case.check("sin_cos", result, gap=2e-6)
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

BUNDLED = Path(__file__).parents[1] / "data" / "golden"
"""A few small cases that travel with the tests; see tests/data/PROVENANCE.md."""

DTYPES = (torch.float32, torch.float64)


class GoldenCase:
    """One file, read in one floating-point type."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The file's contents, read when a test first asks."""
        with np.load(self.path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def input(self, name: str) -> Tensor:
        """Input as a tensor; floats in the dtype of the case, integers as they are."""
        array = torch.from_numpy(self.arrays[f"in.{name}"])
        return array.to(self.dtype) if array.is_floating_point() else array

    def scalar(self, name: str) -> float:
        """Input without dimensions."""
        return self.arrays[f"in.{name}"].item()

    def batch(self, *names: str) -> tuple[Tensor, ...]:
        """Inputs with a batch dimension of 1 in front."""
        return tuple(self.input(name)[None] for name in names)

    def weights(self) -> dict[str, Tensor]:
        """Parameters under the names of the reference."""
        return {name[5:]: self.input(name[3:]) for name in self.arrays if name.startswith("in.w.")}

    def __contains__(self, name: str) -> bool:
        """Whether the file states this output; some cases leave out the large ones."""
        return f"out.{name}" in self.arrays

    def expected(self, name: str) -> Tensor:
        """Output as it is stored."""
        return torch.from_numpy(self.arrays[f"out.{name}"])

    def check(self, name: str, actual: Tensor, gap: float = 0.0, mask: Tensor | None = None) -> None:
        """Assert that ``actual`` is output ``name``; ``mask`` multiplies it first (its shape or leading dimensions)."""
        expected = self.expected(name)
        actual = actual.detach()
        if mask is not None:
            actual = actual * mask.reshape(*mask.shape, *(1,) * (actual.dim() - mask.dim())).to(actual.dtype)
        assert actual.shape == expected.shape, f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{name}: integers differ"
            return
        assert actual.dtype == self.dtype, f"{name}: {actual.dtype} from {self.dtype} inputs"
        relative = 1e-6 if self.dtype == torch.float64 else max(1e-6, 20 * gap)
        limit = relative * expected.abs().max().item()
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= limit, f"{name}: off by {error:.3g}, allowed {limit:.3g}"  # also fails for NaN


def find(config: pytest.Config, function: str) -> list[Path]:
    """Files ``<case>__<function>.npz`` of the option's directory and of the bundled one, by name."""
    files: dict[str, Path] = {}
    for directory in (BUNDLED, config.getoption("--golden-dir")):  # the option's file wins over a bundled copy
        files.update({path.name: path for path in directory.glob(f"*__{function}.npz")})
    return [files[name] for name in sorted(files)]


def cases(*functions: str) -> Callable:
    """Mark a test as running over all cases of these functions; it takes them as the argument ``case``."""

    def decorate(test: Callable) -> Callable:
        test.golden_functions = functions
        return test

    return decorate


def parametrize(metafunc: pytest.Metafunc) -> None:
    """The ``pytest_generate_tests`` of a module whose tests use ``cases``.

    Files are found at run time, so another directory with other case names runs the same tests. Where there is none,
    the test is reported as skipped with the reason.
    """
    functions = getattr(metafunc.function, "golden_functions", None)
    if functions is None:
        return
    files = [path for function in functions for path in find(metafunc.config, function)]
    if files:
        pairs = [(path, dtype) for path in files for dtype in DTYPES]
        ids = [f"{path.stem}-{str(dtype).removeprefix('torch.')}" for path, dtype in pairs]
        metafunc.parametrize("case", [GoldenCase(*pair) for pair in pairs], ids=ids)
    else:
        where = metafunc.config.getoption("--golden-dir")
        reason = f"no reference case: {where} has no {', '.join(functions)} (see --golden-dir)"
        metafunc.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason=reason))], ids=["absent"])
