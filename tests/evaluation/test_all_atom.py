import tracemalloc

import numpy as np
import pytest

from data_prep.structure.residues import ATOM37_INDEX, RESTYPE_ATOM37_MASK, sequence_to_aatype
from evaluation.lddt_scores import PARTNER, lddt_all


def protein(sequence, positions, seed=0):
    """atom37 positions (three decimals) around the alpha carbons, mask and aatype of a sequence."""
    aatype = sequence_to_aatype(sequence)
    atoms = positions[:, None] + np.random.default_rng(seed).normal(size=(len(aatype), 37, 3))
    return atoms.round(3), RESTYPE_ATOM37_MASK[aatype], aatype


def plain(pred, true, pred_mask, true_mask, chain):
    """The definition in loops over all pairs of atoms, symmetry aside."""
    atoms = [(i, a) for i, a in np.argwhere(true_mask).tolist()]
    kept = pairs = 0
    for n, (i, a) in enumerate(atoms):
        for j, b in atoms[n + 1 :]:
            distance = np.linalg.norm(true[i, a] - true[j, b])
            if i == j or distance > 15 or (distance == 15 and chain[i] == chain[j]):
                continue
            pairs += 1
            if pred_mask[i, a] and pred_mask[j, b]:
                error = abs(distance - np.linalg.norm(pred[i, a] - pred[j, b]))
                kept += sum(error <= threshold for threshold in (0.5, 1, 2, 4))
    return kept / (4 * pairs), pairs


def test_it_is_the_definition(walk, sequence):
    true, mask, aatype = protein(sequence(14, 0), walk(14, 0))
    pred = (true + np.random.default_rng(1).normal(size=true.shape)).round(3)
    pred_mask = mask.copy()
    pred_mask[3], pred_mask[5, ATOM37_INDEX["CB"]] = False, False
    chain = np.repeat([0, 1], 7)
    found = lddt_all(pred, true, pred_mask, mask, aatype, chain, symmetric=False)
    score, pairs = plain(pred, true, pred_mask, mask, chain)
    assert found.pairs == pairs
    assert found.score == pytest.approx(score, abs=1e-12)
    assert found.per_residue[3] == 0


def exchanged_names(positions, aatype, residues):
    """The same atoms, the symmetric ones of some residues under each other's names."""
    swapped = positions.copy()
    for i in residues:
        swapped[i] = positions[i, PARTNER[aatype[i]]]
    return swapped


def test_names_of_symmetric_atoms_do_not_matter(walk):
    """All seven symmetric residues, wrongly named in the prediction: the score is 1 all the same."""
    letters = "AGRSDTELKFYVAHGNQ"
    true, mask, aatype = protein(letters, walk(len(letters), 2))
    symmetric = [i for i, letter in enumerate(letters) if letter in "RDELFYV"]
    pred = exchanged_names(true, aatype, symmetric)
    chain = np.zeros(len(letters), dtype=int)
    found = lddt_all(pred, true, mask, mask, aatype, chain)
    assert found.score == 1.0
    assert np.flatnonzero(found.exchanged).tolist() == symmetric
    assert lddt_all(pred, true, mask, mask, aatype, chain, symmetric=False).score < 1


def test_the_better_naming_is_kept_and_half_a_pair_is_not_exchanged(walk):
    letters = "AGFSDTELKY"
    true, mask, aatype = protein(letters, walk(len(letters), 3))
    chain = np.zeros(len(letters), dtype=int)
    same = lddt_all(true, true, mask, mask, aatype, chain)
    assert same.score == 1.0 and not same.exchanged.any()
    pred = exchanged_names(true, aatype, [2])
    incomplete = mask.copy()
    incomplete[2, ATOM37_INDEX["CE2"]] = False
    assert not lddt_all(pred, true, incomplete, mask, aatype, chain).exchanged.any()


def test_residues_without_atoms_are_undefined(walk):
    true, mask, aatype = protein("ACDEF", walk(5, 4))
    mask = mask.copy()
    mask[4] = False
    found = lddt_all(true, true, mask, mask, aatype, np.zeros(5, dtype=int))
    assert np.isnan(found.per_residue).tolist() == [False] * 4 + [True]
    nothing = lddt_all(true, true, mask, np.zeros_like(mask), aatype, np.zeros(5, dtype=int))
    assert np.isnan(nothing.score) and nothing.pairs == 0


def test_memory_grows_with_atoms_and_not_with_their_pairs(walk, sequence):
    """8,000 atoms: all pairs at once would take 488 MiB per array of float64."""
    true, mask, aatype = protein(sequence(960, 5), walk(960, 5))
    tracemalloc.start()
    lddt_all(true, true, mask, mask, aatype, np.zeros(960, dtype=int))
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert mask.sum() > 7000 and peak < 40


def test_wrong_shapes_are_named(walk):
    true, mask, aatype = protein("ACDEF", walk(5, 6))
    with pytest.raises(ValueError, match=r"pred_mask has shape \(4, 37\), expected \(5, 37\)"):
        lddt_all(true, true, mask[:4], mask, aatype, np.zeros(5, dtype=int))
