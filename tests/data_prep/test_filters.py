from dataclasses import replace

import numpy as np
import pytest

from data_prep.dataset.build import ChainQuality, repeated_sequences
from data_prep.dataset.filters import RECIPES, FilterSettings, methods_of, rejection
from data_prep.structure.clashes import clashing_fractions
from data_prep.structure.residues import ATOM37_INDEX
from tests.data_prep.compare import ARRAYS
from tests.data_prep.test_dataset import make_record

CA, N = ATOM37_INDEX["CA"], ATOM37_INDEX["N"]


@pytest.fixture
def record():
    record = make_record("a_A", 40, resolution=2.5)
    record.atom37_mask[:] = True
    record.atom37_positions[:, CA] = 3.8 * np.arange(40)[:, None]
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


def test_placeholder_coordinates_are_no_structure(record):
    positions = record.atom37_positions.copy()
    positions[:, CA] = np.arange(40)[:, None]
    positions[:4, CA] = 0
    assert rejection(replace(record, atom37_positions=positions), FilterSettings()) is None
    positions[:5, CA] = 0
    expected = "alpha carbons at one place: 5 of 40, 12% (maximum 10%)"
    assert rejection(replace(record, atom37_positions=positions), FilterSettings()) == expected


def test_unknown_residues(record):
    assert rejection(replace(record, sequence="X" * 20 + "A" * 20), FilterSettings()) is None
    reason = rejection(replace(record, sequence="X" * 21 + "A" * 19), FilterSettings())
    assert reason == "unknown residues: 21 of 40, 52% (maximum 50%)"


def test_observed_residues_count_by_themselves(record):
    few = masked(record, CA, 35)
    assert rejection(few, FilterSettings(min_observed=5)) is None
    assert rejection(few, FilterSettings(min_observed=6)) == "too few residues observed: 5 (minimum 6)"


def test_mostly_one_residue(record):
    mixed = replace(record, sequence="A" * 32 + "C" * 8)
    assert rejection(mixed, FilterSettings(max_residue_fraction=0.8)) is None
    reason = rejection(mixed, FilterSettings(max_residue_fraction=0.79))
    assert reason == "mostly one residue: A is 32 of 40, 80% (maximum 79%)"


def test_release_date_from_this_day_and_before_that(record):
    dated = replace(record, release_date="2020-05-01")
    assert rejection(dated, FilterSettings(released_from="2020-05-01", released_before="2020-05-02")) is None
    reason = rejection(dated, FilterSettings(released_before="2020-05-01"))
    assert reason == "released too late: 2020-05-01 (before 2020-05-01)"
    reason = rejection(dated, FilterSettings(released_from="2020-05-02"))
    assert reason == "released too early: 2020-05-01 (from 2020-05-02)"
    assert rejection(record, FilterSettings(released_from="1970-01-01")) == "release date: none stated"


def test_methods(record):
    both = replace(record, method="X-RAY DIFFRACTION; NEUTRON DIFFRACTION")
    assert methods_of(both) == {"x-ray", "neutron"}
    assert methods_of(replace(record, method="SOLUTION NMR")) == methods_of(replace(record, method="SOLID-STATE NMR"))
    assert methods_of(replace(record, method="ELECTRON MICROSCOPY")) == {"em"}
    assert methods_of(replace(record, method="POWDER DIFFRACTION")) == {"other"} and methods_of(record) == frozenset()
    assert rejection(both, FilterSettings(methods=("neutron", "em"))) is None
    reason = rejection(both, FilterSettings(methods=("nmr",)))
    assert reason == "method: X-RAY DIFFRACTION; NEUTRON DIFFRACTION (wanted nmr)"
    assert rejection(record, FilterSettings(methods=("nmr",))) == "method: none stated (wanted nmr)"


def test_jumps_count_between_consecutive_residues_only(record):
    """Alpha carbons 3.8 A apart on a line; one step of 10.5 A."""
    positions = record.atom37_positions.copy()
    positions[:, CA] = 0
    positions[:, CA, 0] = np.arange(40) * 3.8 + np.where(np.arange(40) >= 20, 6.7, 0)
    chain = replace(record, atom37_positions=positions, residue_index=np.arange(40, dtype=np.int32))
    reason = rejection(chain, FilterSettings(max_ca_jump=10))
    assert reason == "jump between consecutive alpha carbons: 10.5 A (maximum 10 A)"
    assert rejection(chain, FilterSettings(max_ca_jump=10.6)) is None
    gap = replace(chain, residue_index=np.arange(40, dtype=np.int32) + (np.arange(40) >= 20))
    assert rejection(gap, FilterSettings(max_ca_jump=10)) is None, "a residue is missing there"


@pytest.mark.parametrize("length", [37, 40, 100, 110])
def test_a_share_equal_to_its_threshold_passes(record, length):
    """Whatever decimals say: 0.55 of 100 is 55 and not 55.00000000000001."""
    arrays = {name: np.resize(getattr(record, name), (length, *getattr(record, name).shape[1:])) for name in ARRAYS}
    whole = replace(record, sequence="A" * length, **arrays)
    whole.atom37_positions[:, CA] = 3.8 * np.arange(length)[:, None]
    for n in range(1, length):
        share, less, more = n / length, (n - 0.5) / length, (n + 0.5) / length
        part = masked(whole, CA, length - n)
        assert rejection(part, FilterSettings(min_ca_fraction=share)) is None
        assert rejection(part, FilterSettings(min_ca_fraction=more)) is not None
        one = replace(whole, sequence="A" * n + "X" * (length - n))
        rest = (length - n) / length
        assert rejection(one, FilterSettings(max_unknown_fraction=rest, max_residue_fraction=max(share, rest))) is None
        assert rejection(one, FilterSettings(max_unknown_fraction=1, max_residue_fraction=less)) is not None


def test_distances_equal_to_their_threshold_pass(record):
    """1.1 and 11.1 are not decimals in float32, but 10 A apart all the same."""
    positions = record.atom37_positions.copy()
    positions[:, CA] = 0
    positions[:, CA, 0] = 1.1 + np.arange(40) * 10
    chain = replace(record, atom37_positions=positions, residue_index=np.arange(40, dtype=np.int32))
    assert rejection(chain, FilterSettings(max_ca_jump=10)) is None
    assert rejection(chain, FilterSettings(max_ca_jump=9.999)).startswith("jump between")
    mask = np.zeros((40, 37), dtype=bool)
    mask[:, CA] = True
    first = replace(chain, atom37_mask=mask)
    shifts = np.array([[0, 1.7, 0], [0, 1.699, 0]], dtype=np.float32)
    near = [replace(first, atom37_positions=positions + shift) for shift in shifts]
    assert clashing_fractions([first, near[0]]) == [0, 0] and clashing_fractions([first, near[1]]) == [1, 1]


def test_models_of_one_chain_do_not_clash(record):
    models = [replace(record, id=f"a_A.m{number}", model_number=number) for number in (1, 2)]
    assert clashing_fractions(models) == [0, 0] and clashing_fractions([record, record]) == [1, 1]


def test_clashing_atoms_of_two_chains():
    """Two copies 1.6 A apart clash in every atom, 1.8 A apart in none, and a third far away in none."""
    record = make_record("a_A", 3)
    grid = np.stack(np.meshgrid(*[np.arange(5) * 20.0] * 3), axis=-1).reshape(-1, 3)[:111]
    first = replace(
        record,
        atom37_mask=np.ones((3, 37), dtype=bool),
        atom37_positions=grid.reshape(3, 37, 3).astype(np.float32),
    )

    def moved(by: float):
        return replace(first, atom37_positions=first.atom37_positions + np.array([by, 0, 0], dtype=np.float32))

    assert clashing_fractions([first, moved(1.6), moved(500)]) == [1, 1, 0]
    assert clashing_fractions([first, moved(1.8)]) == [0, 0]
    half = replace(moved(1.6), atom37_mask=first.atom37_mask & (np.arange(3) < 1)[:, None])
    assert clashing_fractions([first, half]) == pytest.approx([1 / 3, 1])
    settings = FilterSettings(min_length=1, max_unknown_fraction=1, max_clash_fraction=0.3)
    assert rejection(first, settings, clashing=0.31) == "clashes: 31% of the atoms (maximum 30%)"
    assert rejection(first, settings, clashing=0.3) is None


def test_of_identical_sequences_the_best_resolved_stays():
    chains = [
        *(ChainQuality("d", "MK", None, 99), ChainQuality("b", "MK", 2.0, 10), ChainQuality("c", "MK", 2.0, 11)),
        *(ChainQuality("a", "MK", 2.0, 11), ChainQuality("z", "GG", None, 1)),
    ]
    assert repeated_sequences(chains) == {"d": "a", "b": "a", "c": "a"} == repeated_sequences(chains[::-1])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_settings_with_a_source(name):
    settings = RECIPES[name].settings(max_resolution=1.0)
    assert settings.max_resolution == 1.0 and RECIPES[name].source
    assert all(value != getattr(FilterSettings(), field) for field, value in RECIPES[name].filters.items())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="released_from is 2020, expected a date"):
        FilterSettings(released_from="2020")
    with pytest.raises(ValueError, match="methods has xray, expected some of x-ray"):
        FilterSettings(methods=("xray",))
    with pytest.raises(ValueError, match="min_ca_fraction is 2"):
        FilterSettings(min_ca_fraction=2)
    with pytest.raises(ValueError, match="max_length 5 is below min_length 20"):
        FilterSettings(max_length=5)
    assert np.isclose(FilterSettings().min_backbone_fraction, 0.5)
