from dataclasses import replace

import numpy as np
import pytest

from data_prep.dataset.ingest import ConfidenceSettings, with_confidence
from data_prep.structure.residues import ATOM37_INDEX
from tests.data_prep.test_dataset import make_record


@pytest.fixture
def prediction():
    """Ten residues, all atoms stated, pLDDT 5, 15, ... 95 at the alpha carbons and 0 elsewhere."""
    record = make_record("a_A", 10)
    b_factors = np.zeros((10, 37), dtype=np.float32)
    b_factors[:, ATOM37_INDEX["CA"]] = np.arange(10) * 10 + 5
    return replace(record, atom37_mask=np.ones((10, 37), dtype=bool), b_factors=b_factors)


def test_doubtful_residues_are_masked(prediction):
    record, reason = with_confidence(prediction, ConfidenceSettings(min_plddt=50))
    assert reason is None and record.observed.tolist() == [False] * 5 + [True] * 5
    assert not record.atom37_positions[:5].any() and not record.b_factors[:5].any()
    assert np.array_equal(record.atom37_positions[5:], prediction.atom37_positions[5:])
    assert record.warnings == ("5 residues with pLDDT below 50 masked",)


def test_scale_from_0_to_1_is_recognised_and_said(prediction):
    fractions = replace(prediction, b_factors=prediction.b_factors / np.float32(100))
    record, _ = with_confidence(fractions, ConfidenceSettings(min_plddt=0))
    assert np.allclose(record.b_factors, prediction.b_factors) and "multiplied by 100" in record.warnings[0]


def test_decimals_from_0_to_1_are_the_decimals_from_0_to_100(prediction):
    """0.57 is 57: a threshold is met or not in both scales alike."""
    for hundredths in range(1, 100):
        b_factors = np.full((10, 37), np.float32(hundredths / 100))
        b_factors[0] = 1
        record, _ = with_confidence(replace(prediction, b_factors=b_factors), ConfidenceSettings(min_plddt=hundredths))
        assert (record.b_factors[1:] == hundredths).all() and record.observed.all()


def test_one_value_throughout(prediction):
    def constant(value):
        return replace(prediction, b_factors=np.full((10, 37), value, dtype=np.float32))

    assert with_confidence(constant(0), ConfidenceSettings())[1] == "no pLDDT: B-factor column holds 0 throughout"
    record, reason = with_confidence(constant(0.93), ConfidenceSettings())
    assert reason is None and (record.b_factors == 93).all()
    assert record.warnings == (
        "B-factor column holds 0.93 throughout, a doubtful pLDDT", "pLDDT from 0 to 1: multiplied by 100"
    )  # fmt: skip


def test_an_experiment_that_is_said_to_be_a_prediction_is_remarked_on(prediction):
    record, reason = with_confidence(replace(prediction, method="X-RAY DIFFRACTION"), ConfidenceSettings(min_plddt=0))
    assert reason is None and record.warnings == ("B-factors read as pLDDT, though the file states X-RAY DIFFRACTION",)
    low = replace(prediction, b_factors=prediction.b_factors / np.float32(4), method="X-RAY DIFFRACTION")
    reason = with_confidence(low, ConfidenceSettings())[1]
    assert reason == "pLDDT: 23.8 at most (minimum 50), though the file states X-RAY DIFFRACTION"
    model, _ = with_confidence(replace(prediction, method="THEORETICAL MODEL"), ConfidenceSettings(min_plddt=0))
    assert model.warnings == ()


def test_mean_and_values_that_are_no_plddt(prediction):
    assert with_confidence(prediction, ConfidenceSettings(min_mean_plddt=50))[1] is None
    reason = with_confidence(prediction, ConfidenceSettings(min_mean_plddt=50.1))[1]
    assert reason == "mean pLDDT: 50.0 (minimum 50.1)"
    experimental = replace(prediction, b_factors=prediction.b_factors * 2)
    assert with_confidence(experimental, ConfidenceSettings())[1].startswith("no pLDDT: B-factor column holds 0 to 190")
    with pytest.raises(ValueError, match="min_plddt is 101"):
        ConfidenceSettings(min_plddt=101)
