"""Residue tables, idealised rigid groups and covalent geometry."""

import itertools

import numpy as np
import pytest

from data_prep.structure import bond_geometry, residues, rigid_groups
from data_prep.structure.residues import ATOM14_NAMES, ATOM_TYPES, RESNAMES, RESTYPES
from tests.pipeline import golden

pytest_generate_tests = golden.parametrize


@golden.cases("torsions_to_atom14")
def test_rigid_groups_are_the_reference(case):
    """Rounding aside: ours are computed from three decimals, theirs are stored as float32."""
    arrays = case.arrays
    assert np.array_equal(residues.RESTYPE_ATOM14_MASK, arrays["in.restype_atom14_mask"])
    assert np.array_equal(rigid_groups.ATOM14_TO_RIGID_GROUP, arrays["in.atom14_to_group"])
    np.testing.assert_allclose(rigid_groups.IDEAL_ATOM14_POSITIONS, arrays["in.lit_positions"], atol=3e-7, rtol=0)
    expected = arrays["in.default_frames"].copy()
    expected[20, 0] = np.eye(4)  # the deviation that the table states
    np.testing.assert_allclose(rigid_groups.DEFAULT_GROUP_FRAMES, expected, atol=3e-7, rtol=0)


@golden.cases("violation_pred", "violation_squeezed")
def test_distance_bounds_are_the_reference(case):
    bounds = bond_geometry.atom14_distance_bounds(
        case.scalar("violation_tolerance_factor"), case.scalar("clash_overlap_tolerance")
    )
    for name, found in zip(("lower", "upper"), bounds, strict=True):
        np.testing.assert_allclose(found, case.arrays[f"in.dists_{name}_bound"], atol=3e-7, rtol=3e-7)
    np.testing.assert_allclose(residues.ATOM37_VDW_RADIUS, case.arrays["in.vdw_radius_atom37"], rtol=1e-7)
    index = residues.RESTYPE_ATOM14_TO_ATOM37[case.arrays["in.aatype"]]
    assert np.array_equal(index, case.arrays["in.residx_atom14_to_atom37"])


@golden.cases("supervised_chi")
def test_periodic_chis_are_the_reference(case):
    assert np.array_equal(residues.CHI_PI_PERIODIC, case.arrays["in.chi_pi_periodic"])


@golden.cases("atom14")
def test_atom_layouts_are_the_reference(case):
    aatype = case.arrays["in.aatype"]
    for table, name in (
        (residues.RESTYPE_ATOM14_MASK, "atom14_atom_exists"),
        (residues.RESTYPE_ATOM37_MASK, "atom37_atom_exists"),
        (residues.RESTYPE_ATOM14_TO_ATOM37, "residx_atom14_to_atom37"),
        (residues.RESTYPE_ATOM37_TO_ATOM14, "residx_atom37_to_atom14"),
        (residues.ATOM14_IS_AMBIGUOUS, "atom14_atom_is_ambiguous"),
    ):
        assert np.array_equal(table[aatype], case.arrays[f"out.{name}"]), name


def test_vocabularies():
    assert len(RESTYPES) == 20
    assert len(ATOM_TYPES) == len(set(ATOM_TYPES)) == 37
    assert residues.sequence_to_aatype("ARX-b").tolist() == [0, 1, 20, 20, 20]
    assert sum(map(len, ATOM14_NAMES)) == 167  # heavy atoms of the 20 residues without OXT
    assert set().union(*ATOM14_NAMES) == set(ATOM_TYPES) - {"OXT"}


@pytest.mark.parametrize("aatype", range(21))
def test_layouts_are_inverse_to_each_other(aatype):
    to37, to14 = residues.RESTYPE_ATOM14_TO_ATOM37[aatype], residues.RESTYPE_ATOM37_TO_ATOM14[aatype]
    mask14, mask37 = residues.RESTYPE_ATOM14_MASK[aatype], residues.RESTYPE_ATOM37_MASK[aatype]
    assert [ATOM_TYPES[i] for i in to37[mask14]] == list(ATOM14_NAMES[aatype])
    assert np.array_equal(to14[to37[mask14]], np.arange(14)[mask14])
    assert np.array_equal(to37[to14[mask37]], np.arange(37)[mask37])


@pytest.mark.parametrize("aatype", range(20))
def test_chis_follow_bonds(aatype):
    """Consecutive atoms of a chi are bonded, and each chi starts one bond further than the one before."""
    bonds = {frozenset(key) for key in bond_geometry.residue_geometry(RESNAMES[aatype]) if len(key) == 2}
    chis = residues.CHI_ATOM37_INDEX[aatype][residues.CHI_MASK[aatype]]
    for k, chi in enumerate(chis):
        names = [ATOM_TYPES[i] for i in chi]
        assert all(frozenset(pair) in bonds for pair in itertools.pairwise(names))
        assert k == 0 or np.array_equal(chi[:3], chis[k - 1][1:])
    assert len(chis) == {"G": 0, "A": 0, "C": 1, "S": 1, "T": 1, "V": 1, "E": 3, "Q": 3, "M": 3, "R": 4, "K": 4}.get(
        RESTYPES[aatype], 2
    )


def test_interchangeable_atoms_are_chemically_equivalent():
    """Exchanging the names maps the residue's bonds, with their lengths, onto themselves."""
    for aatype in np.flatnonzero(residues.ATOM14_IS_AMBIGUOUS.any(-1)):
        atoms, partner = ATOM14_NAMES[aatype], residues.ATOM14_RENAMING_PARTNER[aatype]
        assert np.array_equal(partner[partner], np.arange(14))
        swap = {atom: atoms[partner[i]] for i, atom in enumerate(atoms)}
        geometry = bond_geometry.residue_geometry(RESNAMES[aatype])
        bonds = {frozenset(key): value for key, value in geometry.items() if len(key) == 2}
        assert bonds == {frozenset(swap[atom] for atom in key): value for key, value in bonds.items()}
        assert rigid_groups.GROUP_IS_AMBIGUOUS[aatype].sum() == 1


@pytest.mark.parametrize("aatype", range(20))
def test_every_atom_is_bonded_once_or_more_and_the_residue_is_connected(aatype):
    atoms = ATOM14_NAMES[aatype]
    bonds = [key for key in bond_geometry.residue_geometry(RESNAMES[aatype]) if len(key) == 2]
    reached, rings = {"N"}, len(bonds) - (len(atoms) - 1)
    for _ in atoms:
        reached |= {b for bond in bonds for a, b in (bond, bond[::-1]) if a in reached}
    assert reached == set(atoms)
    assert rings == {"H": 1, "F": 1, "Y": 1, "P": 1, "W": 2}.get(RESTYPES[aatype], 0)


def test_default_frames_are_rotations_where_the_group_exists():
    frames = rigid_groups.DEFAULT_GROUP_FRAMES
    exists = rigid_groups.GROUP_EXISTS.copy()
    exists[:20, 1:3] = True  # pre-omega and phi have a frame though no atoms of their own define it
    rot = frames[..., :3, :3]
    np.testing.assert_allclose(
        (rot @ rot.swapaxes(-1, -2))[exists], np.broadcast_to(np.eye(3), (exists.sum(), 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rot[exists]), 1.0)
    assert not frames[~exists].any()


def test_geometry_notation():
    """1.520(21) is 1.520 with a standard deviation of 0.021; 110.1(14) is 110.1 with 1.4."""
    alanine = bond_geometry.residue_geometry("ALA")
    assert alanine["CA", "CB"] == (1.520, 0.021)
    assert alanine["N", "CA", "CB"] == (110.1, 1.4)
    assert bond_geometry.residue_geometry("GLY")["N", "CA"] == (1.456, 0.015)
    lower, upper = bond_geometry.atom14_distance_bounds(tolerance_factor=1.0)
    assert lower[0, 1, 4] == np.float32(1.499)
    assert upper[0, 4, 1] == np.float32(1.541)
