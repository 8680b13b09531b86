from dataclasses import replace

import numpy as np
import pytest

from data_prep.filters import FilterSettings, rejection
from data_prep.residues import ATOM37_INDEX
from tests.data_prep.test_dataset import make_record

CA, N = ATOM37_INDEX["CA"], ATOM37_INDEX["N"]


@pytest.fixture
def record():
    record = make_record("a_A", 40, resolution=2.5)
    record.atom37_mask[:] = True
    return replace(record, sequence="A" * 40)


def masked(record, atom: int, n: int):
    mask = record.atom37_mask.copy()
    mask[:n, atom] = False
    return replace(record, atom37_mask=mask)


def test_a_whole_chain_passes(record):
    assert rejection(record, FilterSettings()) is None
    assert rejection(record, FilterSettings(min_length=40, max_length=40, max_resolution=2.5)) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_length": 41}, "too short: 40 residues (minimum 41)"),
        ({"max_length": 39}, "too long: 40 residues (maximum 39)"),
        ({"max_resolution": 2.4}, "resolution: 2.5 A (maximum 2.4 A)"),
    ],
)
def test_reason_states_value_and_threshold(record, settings, reason):
    assert rejection(record, FilterSettings(**settings)) == reason


def test_no_resolution_is_a_reason_only_where_one_is_asked_for(record):
    unknown = replace(record, resolution=None)
    assert rejection(unknown, FilterSettings()) is None
    assert rejection(unknown, FilterSettings(max_resolution=3)) == "resolution: none stated (maximum 3 A)"


def test_what_is_observed(record):
    assert rejection(masked(record, CA, 36), FilterSettings()) is None
    expected = "too few alpha carbons: 3 of 40, 8% (minimum 10%)"
    assert rejection(masked(record, CA, 37), FilterSettings()) == expected
    assert rejection(masked(record, CA, 40), FilterSettings(min_ca_fraction=0)).startswith("too few alpha carbons: 0")
    assert rejection(masked(record, N, 20), FilterSettings()) is None
    assert "N, CA and C in 19 of 40" in rejection(masked(record, N, 21), FilterSettings())


def test_unknown_residues(record):
    assert rejection(replace(record, sequence="X" * 20 + "A" * 20), FilterSettings()) is None
    reason = rejection(replace(record, sequence="X" * 21 + "A" * 19), FilterSettings())
    assert reason == "unknown residues: 21 of 40, 52% (maximum 50%)"


def test_settings_are_checked():
    with pytest.raises(ValueError, match="min_ca_fraction is 2"):
        FilterSettings(min_ca_fraction=2)
    with pytest.raises(ValueError, match="max_length 5 is below min_length 20"):
        FilterSettings(max_length=5)
    assert np.isclose(FilterSettings().min_backbone_fraction, 0.5)
