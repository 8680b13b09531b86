from dataclasses import replace

import numpy as np
import pytest

from data_prep.confidence import ConfidenceSettings, with_confidence
from data_prep.residues import ATOM37_INDEX
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


def test_mean_and_values_that_are_no_plddt(prediction):
    assert with_confidence(prediction, ConfidenceSettings(min_mean_plddt=50))[1] is None
    reason = with_confidence(prediction, ConfidenceSettings(min_mean_plddt=50.1))[1]
    assert reason == "mean pLDDT: 50.0 (minimum 50.1)"
    experimental = replace(prediction, b_factors=prediction.b_factors * 2)
    assert with_confidence(experimental, ConfidenceSettings())[1].startswith("no pLDDT: B-factor column holds 0 to 190")
    with pytest.raises(ValueError, match="min_plddt is 101"):
        ConfidenceSettings(min_plddt=101)
