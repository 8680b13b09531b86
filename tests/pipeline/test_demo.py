"""The demo's baseline is an alpha helix, and its table says what was scored."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.structure_io import read_structure
from pipeline.demo import DemoError, ideal_helix, scores_of

STRUCTURES = Path(__file__).resolve().parents[2] / "pipeline" / "demo_structures"


def test_ideal_helix():
    """Alpha carbons of an alpha helix: 3.8 angstrom to the next, 5.0 to the third, 6.2 to the fourth, right-handed."""
    record = read_structure(STRUCTURES / "d1ecaa_.pdb.gz")[0]
    helix = ideal_helix(record)
    assert len(helix) == len(record)
    assert helix.ca_mask.all()
    ca = helix.ca_positions
    for offset, distance in ((1, 3.8), (3, 5.0), (4, 6.2)):
        assert np.linalg.norm(ca[offset:] - ca[:-offset], axis=1) == pytest.approx(distance, abs=0.1)
    a, b, c = ca[1] - ca[0], ca[2] - ca[1], ca[3] - ca[2]
    assert np.dot(np.cross(a, b), c) > 0


def test_a_target_without_a_score_ends_the_demo(tmp_path):
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,scored,,0.5\n")
    assert scores_of(tmp_path) == {"a": 0.5}
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,failed,no atoms,\n")
    with pytest.raises(DemoError, match="a is failed: no atoms"):
        scores_of(tmp_path)
