"""Chains made for a test, and the command run in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX
from evaluation.lddt import main

LETTERS = "ARNDCQEGHILKMFPSTWYV"


def random_walk(length: int, seed: int) -> np.ndarray:
    """float64 [N, 3], angstrom with three decimals: alpha carbons 3.8 A apart that stay within a ball, as compact as
    a protein."""
    generator = np.random.default_rng(seed)
    radius = 2 + 1.2 * (length * 135 * 0.75 / np.pi) ** (1 / 3)
    walk = np.zeros((length, 3))
    for i in range(1, length):
        while True:
            step = generator.normal(size=3)
            walk[i] = walk[i - 1] + 3.8 * step / np.linalg.norm(step)
            if np.linalg.norm(walk[i]) < radius:
                break
    return walk.round(3)


def make_record(
    sequence: str,
    positions: np.ndarray | None = None,
    *,
    chain: str = "A",
    numbers: Sequence[int] | None = None,
    codes: Sequence[str] | None = None,
    positions_along: Sequence[int] | None = None,
    present: Sequence[bool] | None = None,
    b_factors: Sequence[float] | None = None,
    backbone: bool = False,
    method: str | None = None,
) -> ProteinRecord:
    """A chain of alpha carbons (of N, CA and C with ``backbone``), numbered from 1, all present unless told."""
    length = len(sequence)
    atoms = [ATOM37_INDEX[name] for name in (("N", "CA", "C") if backbone else ("CA",))]
    positions = random_walk(length, seed=length) if positions is None else positions
    present = np.ones(length, dtype=bool) if present is None else np.asarray(present, dtype=bool)
    coordinates, mask = np.zeros((length, 37, 3), dtype=np.float32), np.zeros((length, 37), dtype=bool)
    factors = np.zeros((length, 37), dtype=np.float32)
    for offset, atom in enumerate(atoms):
        coordinates[present, atom] = positions[present] + (atom != ATOM37_INDEX["CA"]) * (offset - 1.0)
        mask[present, atom] = True
        factors[present, atom] = (np.zeros(length) if b_factors is None else np.asarray(b_factors))[present]
    numbers = np.arange(1, length + 1) if numbers is None else np.asarray(numbers)
    along = numbers - numbers.min() if positions_along is None else np.asarray(positions_along)
    return ProteinRecord(
        id=f"made_{chain}",
        chain_id=chain,
        sequence=sequence,
        residue_index=along.astype(np.int32),
        atom37_positions=coordinates,
        atom37_mask=mask,
        b_factors=factors,
        auth_seq_id=numbers.astype(np.int32),
        insertion_code=np.array(codes if codes is not None else [""] * length, dtype="<U1"),
        method=method,
    )


@dataclass(frozen=True)
class Run:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def walk() -> Callable[[int, int], np.ndarray]:
    return random_walk


@pytest.fixture
def record() -> Callable[..., ProteinRecord]:
    return make_record


@pytest.fixture
def sequence() -> Callable[[int, int], str]:
    """``sequence(length, seed)``: random letters."""

    def make(length: int, seed: int) -> str:
        return "".join(np.random.default_rng(seed).choice(list(LETTERS), length))

    return make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """``run(*arguments)``: the command's exit status and output; argparse's exit is a status too."""

    def call(*arguments: object) -> Run:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err)

    return call
