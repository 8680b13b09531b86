"""Counts of bad stereochemistry: against the violation losses, on real chains and on broken ones."""

from importlib import resources

import numpy as np
import pytest
import torch

from data_prep.structure.io import read_structure
from data_prep.structure.residues import RESTYPE_ATOM14_MASK, RESTYPE_ATOM14_TO_ATOM37
from pipeline.losses.violation import clash_violations, connection_violations
from pipeline.prediction.checks import GeometryCounts, find_violations


@pytest.fixture(scope="module")
def chain():
    """A crystal structure (1PAZ, 1.55 angstrom) as atom14, whole residues only."""
    (record,) = read_structure(resources.files("pipeline") / "demo_structures" / "1paz_A.pdb.gz")
    slots = RESTYPE_ATOM14_TO_ATOM37[record.aatype]
    exists = RESTYPE_ATOM14_MASK[record.aatype]
    there = np.take_along_axis(record.atom37_mask, slots, 1)
    whole = (there | ~exists).all(-1)
    atom14 = np.take_along_axis(record.atom37_positions, slots[..., None], 1) * exists[..., None]
    return atom14[whole], record.aatype[whole], record.residue_index[whole].astype(np.int64)


def losses(atom14, aatype, index):
    batch = [torch.from_numpy(x)[None] for x in (atom14, RESTYPE_ATOM14_MASK[aatype], aatype, index)]
    bonds = connection_violations(*batch)
    clashes = clash_violations(*batch)
    return bonds.per_residue_violation.sum().item(), clashes.per_atom_count.sum().item() / 2


def test_a_crystal_structure_is_within_the_tolerances(chain):
    atom14, aatype, index = chain
    assert len(aatype) > 100
    counts, _ = find_violations(atom14, aatype, index, np.zeros(len(aatype), dtype=np.int64))
    assert (counts.broken_bonds, counts.bad_angles, counts.clashes) == (0, 0, 0)
    assert counts.bad_residues <= 2  # side chains of the experiment


def test_counts_agree_with_the_losses_on_perturbed_coordinates(chain):
    atom14, aatype, index = chain
    rng = np.random.default_rng(0)
    moved = (atom14 * 0.8 + rng.normal(scale=0.3, size=atom14.shape)).astype(np.float32)
    counts, _ = find_violations(moved, aatype, index, np.zeros(len(aatype), dtype=np.int64))
    residues, clashes = losses(moved, aatype, index)
    assert clashes > 100 and counts.clashes == clashes
    assert 0 < residues <= 2 * (counts.broken_bonds + counts.bad_angles)


def test_one_cut_is_one_broken_bond(chain):
    atom14, aatype, index = chain
    cut = atom14.copy()
    cut[40:] += np.float32([0, 0, 1.0]) * RESTYPE_ATOM14_MASK[aatype[40:]][..., None]
    zero = np.zeros(len(aatype), dtype=np.int64)
    assert find_violations(cut, aatype, index, zero)[0].broken_bonds == 1
    two_chains = (np.arange(len(aatype)) >= 40).astype(np.int64)
    assert find_violations(cut, aatype, index, two_chains)[0].broken_bonds == 0, "no bond leads from chain to chain"
    renumbered = index + 512 * two_chains
    assert find_violations(cut, aatype, renumbered, zero)[0].broken_bonds == 0, "nor over a gap in the numbers"


def test_everything_in_one_place_is_counted_without_filling_the_memory():
    n = 400
    aatype = np.tile(np.arange(20), n // 20)
    atom14 = np.zeros((n, 14, 3), dtype=np.float32)
    counts, _ = find_violations(atom14, aatype, np.arange(n), np.zeros(n, dtype=np.int64))
    atoms = RESTYPE_ATOM14_MASK[aatype].sum(-1)
    cysteines = n // 20
    pairs = (atoms.sum() ** 2 - (atoms**2).sum()) // 2 - (n - 1) - cysteines * (cysteines - 1) // 2
    assert counts == GeometryCounts(n - 1, 2 * (n - 1), int(pairs), counts.bad_residues)


def test_unknown_residues_have_no_geometry():
    aatype = np.array([0, 20, 0])
    counts, _ = find_violations(
        np.zeros((3, 14, 3), dtype=np.float32), aatype, np.arange(3), np.zeros(3, dtype=np.int64)
    )
    assert (counts.broken_bonds, counts.bad_angles, counts.clashes) == (0, 0, 25)
