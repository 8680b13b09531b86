from dataclasses import replace

import numpy as np
import pytest

from evaluation.residue_table import plddt_of


@pytest.mark.parametrize(("factor", "scale"), [(1.0, "0-100"), (0.01, "0-1")])
def test_both_scales_are_recognised(record, factor, scale):
    values = np.array([30.0, 60.0, 95.5])
    (chain,), found = plddt_of([record("ACD", b_factors=values * factor, backbone=True)])
    np.testing.assert_allclose(chain, values, rtol=1e-6)
    assert found == scale


def test_what_is_not_a_confidence(record):
    values = np.array([30.0, 60.0, 95.5])
    assert plddt_of([record("ACD", b_factors=values)]) == (None, ""), "alpha carbons alone: it could be either"
    assert plddt_of([record("ACD", b_factors=[20, 20, 20], backbone=True)]) == (None, ""), "all equal"
    assert plddt_of([record("ACD", b_factors=values * 2, backbone=True)]) == (None, ""), "beyond 100"
    assert plddt_of([record("ACD", b_factors=values, backbone=True, method="X-RAY DIFFRACTION")]) == (
        None,
        "",
    )
    errors = np.array([0.4, 0.7, 6.2])
    assert plddt_of([record("ACD", b_factors=errors, backbone=True)]) == (None, ""), "expected errors in angstrom"
    uneven = record("ACD", b_factors=values, backbone=True)
    uneven.b_factors[1, 0] += 1
    assert plddt_of([uneven]) == (None, ""), "atoms of a residue differ, as B-factors do"


def test_a_file_that_states_plddt_may_have_one_for_each_atom(record):
    """As AlphaFold 3 and its like write it: the alpha carbon's is the residue's."""
    uneven = record("ACD", b_factors=np.array([30.0, 60.0, 95.5]), backbone=True)
    uneven.b_factors[:, 0] += 1
    (chain,), scale = plddt_of([replace(uneven, states_plddt=True)])
    assert chain.tolist() == [30.0, 60.0, 95.5] and scale == "0-100"
