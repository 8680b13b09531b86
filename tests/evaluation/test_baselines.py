"""The two baselines: a straight helix and a copy of the nearest training chain, and what they make of a score."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from Bio.Align import PairwiseAligner, substitution_matrices

from data_prep.dataset.store import Placement, StructureDataset
from data_prep.structure.alignment import aligned_positions
from data_prep.structure.io import read_structure
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX
from evaluation.baselines import (
    Baseline,
    copied_ca,
    helix_ca,
    read_baselines,
    score_baselines,
    standing,
    verdict,
    write_baselines,
)
from tests.datasets import write_dataset

STRUCTURES = Path(__file__).resolve().parents[2] / "pipeline" / "demo_structures"


def chain(name: str, sequence: str, positions: np.ndarray | None = None, missing: tuple[int, ...] = ()):
    """A chain of alpha carbons; a straight line at 3.8 angstrom unless positions are given."""
    n = len(sequence)
    if positions is None:
        positions = np.arange(n)[:, None] * np.array([3.8, 0.0, 0.0])
    atoms, mask = np.zeros((n, 37, 3), dtype=np.float32), np.zeros((n, 37), dtype=bool)
    ca = ATOM37_INDEX["CA"]
    atoms[:, ca], mask[:, ca] = positions, True
    atoms[list(missing)], mask[list(missing)] = 0, False
    numbers = np.arange(n, dtype=np.int32)
    nothing = np.zeros((n, 37), dtype=np.float32)
    return ProteinRecord(name, "A", sequence, numbers, atoms, mask, nothing, numbers + 1, np.full(n, "", dtype="<U1"))


def dataset_of(path: Path, **splits) -> StructureDataset:
    """A dataset whose index does not say what is nearest; ``splits`` name lists of chains."""
    placements = {
        record.id: Placement(split, cluster)
        for cluster, (split, record) in enumerate((split, record) for split in splits for record in splits[split])
    }
    write_dataset(path, [record for records in splits.values() for record in records], placements=placements)
    return StructureDataset(path)


A, B = "MKTAYIAKQRQISFVKSHFSRQ", "GDWPCNEHLTVMKYARSGPLEDWQ"
"""Unrelated sequences of 22 and 24 residues."""


def test_the_helix_is_an_alpha_helix():
    """Alpha carbons: 3.8 angstrom to the next, 5.0 to the third, 6.2 to the fourth, right-handed."""
    ca = helix_ca(100)
    assert ca.shape == (100, 3) and helix_ca(1).shape == (1, 3)
    for offset, distance in ((1, 3.8), (3, 5.0), (4, 6.2)):
        assert np.linalg.norm(ca[offset:] - ca[:-offset], axis=1) == pytest.approx(distance, abs=0.1)
    a, b, c = ca[1] - ca[0], ca[2] - ca[1], ca[3] - ca[2]
    assert np.dot(np.cross(a, b), c) > 0


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        (A, A, [(i, i) for i in range(22)]),
        (A, A[5:], [(i + 5, i) for i in range(17)]),
        ("GG" + A, A + "DD", [(i + 2, i) for i in range(22)]),
        (A, A[:10] + "WWW" + A[10:], [(i, i if i < 10 else i + 3) for i in range(22)]),  # an insertion
        (A, A[:10] + A[12:], [(i, i if i < 10 else i - 2) for i in range(22) if i not in (10, 11)]),  # a deletion
        (A, A[:4] + "X" + A[5:], [(i, i) for i in range(22)]),  # an unknown residue pairs with what is in its place
        ("A", "A", [(0, 0)]),
        ("W", "GGWGG", [(0, 2)]),
        ("W", "GGG", []),  # less than nothing: the ends are free
        ("", "A", []),
    ],
)
def test_residues_that_pair(a, b, pairs):
    first, second = aligned_positions(a, b)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == pairs


def test_a_gap_costs_ten_and_one_for_each_further_residue():
    """The score of what pairs is that of an aligner set up apart, with gaps that cost 10 + (k - 1), ends free."""
    table = substitution_matrices.load("BLOSUM62")
    records = [read_structure(STRUCTURES / name)[0] for name in ("d1ecaa_.pdb.gz", "2oif_A.pdb.gz", "d1h97a_.pdb.gz")]
    for one in records:
        for other in records:
            a, b = one.sequence, other.sequence
            first, second = aligned_positions(a, b)
            score = sum(table[a[i], b[j]] for i, j in zip(first, second, strict=True))
            for index in (first, second):
                score -= sum(9 + gap for gap in (np.diff(index) - 1).tolist() if gap)
            aligner = PairwiseAligner(substitution_matrix=table, open_gap_score=-10, extend_gap_score=-1)
            aligner.end_gap_score = 0
            assert score == aligner.score(a, b)


def test_what_has_no_counterpart_is_missing():
    """The source lacks residues 10 and 11 of the target, and an alpha carbon at its own residue 3."""
    source = chain("s", A[:10] + A[12:], missing=(3,))
    positions, mask = copied_ca(A, source)
    assert np.flatnonzero(~mask).tolist() == [3, 10, 11]
    assert positions[mask].tolist() == source.ca_positions[source.ca_mask].tolist()


def test_scores_by_hand(tmp_path):
    """Truth: residues at 3.8 angstrom on a line, so that residue i has those at 1, 2 and 3 steps (11.4 A) in reach.

    Of 22 residues that is 21 + 20 + 19 = 60 pairs. The copy lacks residues 10 and 11: each has 6 pairs, one is that
    of both, so 11 are lost and 49 stay, unchanged where the chain is not shortened: the copied positions of residues
    after the gap are 7.6 A too near to those before it. Of the pairs in common those across the gap are (8, 12)? no:
    4 steps. (9, 12): 3 steps in truth, 1 in the copy: 7.6 A off, worth nothing. So 48 of 60, and 48 of 49 in common.
    """
    data = dataset_of(tmp_path / "d", train=[chain("s", A[:10] + A[12:])], val=[chain("t", A)])
    (row,) = score_baselines(data, ["t"])
    assert (row.target, row.length, row.nearest_train, row.identity, row.cluster) == ("t", 22, "s", 1.0, 1)
    assert row.copy == pytest.approx(48 / 60) and row.copy_common == pytest.approx(48 / 49)
    # The helix: 3.8, 5.4 and 5.0 angstrom at 1, 2 and 3 steps, where the truth has 3.8, 7.6 and 11.4: errors of
    # 0.0, 2.2 and 6.4, worth 4, 1 and 0 of 4 thresholds.
    assert row.helix == pytest.approx((21 * 4 + 20 * 1) / (4 * 60))


def test_an_identical_training_chain_is_copied_whole(tmp_path):
    helix = helix_ca(22).round(3)
    training = [chain("other", B), chain("twin", A, helix)]
    data = dataset_of(tmp_path / "d", train=training, val=[chain("t", A, helix)])
    (row,) = score_baselines(data, ["t"])
    assert (row.nearest_train, row.identity, row.copy) == ("twin", 1.0, 1.0)
    assert row.helix == 1.0
    (of_training,) = score_baselines(data, ["twin"])
    assert (of_training.nearest_train, of_training.copy) == ("twin", 1.0)


def test_nothing_to_copy_and_nothing_to_score(tmp_path):
    """No training chain is similar; a single residue has no pair. Both rows survive the file."""
    data = dataset_of(tmp_path / "d", train=[chain("s", B)], val=[chain("t", A), chain("one", "W")])
    rows = score_baselines(data, ["t", "one"])
    assert [row.nearest_train for row in rows] == ["", ""]
    assert all(math.isnan(value) for row in rows for value in (row.identity, row.copy, row.copy_common))
    assert math.isnan(rows[1].helix) and 0 < rows[0].helix < 1
    write_baselines(tmp_path / "baselines.csv", rows)
    assert (tmp_path / "baselines.csv").read_text().splitlines()[2] == "one,1,,,,,,2"
    back = read_baselines(tmp_path / "baselines.csv")
    assert [repr(row) for row in back] == [repr(replace(row, helix=round(row.helix, 6))) for row in rows]
    assert read_baselines(tmp_path / "none.csv") == []
    assert score_baselines(data, []) == []
    assert [row.nearest_train for row in score_baselines(data, ["t"], [])] == [""]
    (tmp_path / "baselines.csv").write_text("target,length\na,x\n")
    with pytest.raises(ValueError, match="cannot be read as a table of baselines"):
        read_baselines(tmp_path / "baselines.csv")


def test_unknown_residues_are_identical_to_nothing(tmp_path):
    """Two of 22 letters are X in the training chain: identity 20 of 22, but all 22 residues pair."""
    data = dataset_of(tmp_path / "d", train=[chain("s", "XX" + A[2:])], val=[chain("t", A)])
    (row,) = score_baselines(data, ["t"])
    assert row.identity == pytest.approx(20 / 22) and row.copy == pytest.approx(1.0, abs=0.1)


@pytest.fixture(scope="module")
def globins(tmp_path_factory) -> StructureDataset:
    """The demo's dataset."""
    from pipeline.prepare import main

    path = tmp_path_factory.mktemp("globins") / "data"
    words = ["--identity", "0.4", "--val-fraction", "0.2"]
    assert main(["--pdb-dir", str(STRUCTURES), "--out", str(path), *words]) == 0
    return StructureDataset(path)


def test_the_search_finds_what_the_index_says(globins):
    """Over all training chains, by the index and without it; over some of them, and with a second dataset."""
    names = globins.ids("val")
    indexed = score_baselines(globins, names)
    assert [row.nearest_train for row in indexed] == globins.column("nearest_train_id", names)
    reopened = StructureDataset(globins.path)
    searched = score_baselines(globins, names, [(reopened, reopened.ids("train"))])
    for one, other in zip(indexed, searched, strict=True):
        assert one.identity == pytest.approx(other.identity, abs=1e-6)
        assert replace(one, identity=0.0) == replace(other, identity=0.0)
    best = {row.nearest_train for row in indexed}
    rest = [name for name in globins.ids("train") if name not in best]
    fewer = score_baselines(globins, names, [(globins, rest)])
    assert all(a.identity <= b.identity and a.nearest_train in rest for a, b in zip(fewer, indexed, strict=True))
    for part in (globins.ids("train")[:14], globins.ids("train")[14:]):  # one of them has the nearest of most
        quick, slow = (score_baselines(globins, names, [(source, part)]) for source in (globins, reopened))
        assert [row.nearest_train for row in quick] == [row.nearest_train for row in slow]
    both = score_baselines(globins, names, [(globins, rest), (reopened, sorted(best))])
    assert [row.nearest_train for row in both] == [row.nearest_train for row in indexed]


def test_the_demos_held_out_globins(globins):
    """Reference values, the copy's checked against parasail's alignments (sg_trace, 10 and 1)."""
    rows = score_baselines(globins, globins.ids("val"))
    assert np.mean([row.helix for row in rows]) == pytest.approx(0.3129, abs=1e-4)
    assert [round(row.copy, 3) for row in rows] == [0.635, 0.721, 0.750, 0.672, 0.685, 0.687]
    assert [round(row.copy_common, 3) for row in rows] == [0.779, 0.721, 0.850, 0.750, 0.805, 0.795]


def rows_of(*scores: tuple[float, float]) -> list[Baseline]:
    """Targets a, b, ... with a helix and a copy."""
    return [
        Baseline(
            name, 50, "" if math.isnan(copy) else "s", math.nan if math.isnan(copy) else 0.36, helix, copy, copy, 0
        )
        for name, (helix, copy) in zip("abcdef", scores, strict=False)
    ]


TWO = [(0.3, 0.7), (0.3, 0.8)]
NO_COPY = [(0.3, math.nan), (0.3, math.nan)]


@pytest.mark.parametrize(
    ("scores", "baselines", "words"),
    [
        ((0.29, 0.31), TWO, "no better than a straight helix, below the copy of the nearest training chain by 0.45 "
         "(better on 0 of 2 chains, 36% identical on average)"),
        ((0.65, 0.71), TWO, "above the helix, below the copy of the nearest training chain by 0.07 "
         "(better on 0 of 2 chains, 36% identical on average)"),
        ((0.74, 0.82), TWO, "above the copy of the nearest training chain by 0.03 "
         "(better on 2 of 2 chains, 36% identical on average)"),
        ((0.66, 0.84), TWO, "above the helix, level with the copy of the nearest training chain "
         "(better on 1 of 2 chains, 36% identical on average)"),
        ((0.4, 0.4), [(0.3, 0.1), (0.3, 0.1)], "above the helix, above the copy of the nearest training chain by 0.30 "
         "(better on 2 of 2 chains, 36% identical on average)"),
        ((0.3, 0.3), [(0.3, 0.1), (0.3, 0.1)], "no better than a straight helix, above the copy of the nearest "
         "training chain by 0.20 (better on 2 of 2 chains, 36% identical on average)"),
        ((0.4, 0.4), NO_COPY, "above the helix by 0.10; no training chain is similar enough to be copied"),
        ((0.3, 0.2), NO_COPY, "no better than a straight helix; no training chain is similar enough to be copied"),
        ((0.75, 0.5), [(0.3, 0.7), (0.3, math.nan)], "above the copy of the nearest training chain by 0.05 "
         "(better on 1 of 1 chains, 36% identical on average; 1 more has no training chain to copy)"),
        ((math.nan, 0.9), TWO, "above the copy of the nearest training chain by 0.10 "
         "(better on 1 of 1 chains, 36% identical on average)"),
        ((math.nan, math.nan), TWO, ""),
        ((0.5, 0.5), [], ""),
    ],
)  # fmt: skip
def test_words(scores, baselines, words):
    assert verdict(dict(zip("ab", scores, strict=True)), rows_of(*baselines)) == words


def test_a_copy_with_gaps_is_given_its_due():
    rows = [replace(row, copy_common=0.9) for row in rows_of(*TWO)]
    assert verdict({"a": 0.74, "b": 0.82}, rows).endswith("; over the residues that the copy has, it scores 0.90")
    assert "over the residues" not in verdict({"a": 0.5, "b": 0.5}, rows)
    assert "over the residues" not in verdict({"a": 0.95, "b": 0.95}, rows)


def test_means_are_over_the_same_targets():
    """The copy is compared over the targets that have one, the helix over all with a score."""
    found = standing({"a": 0.6, "b": 0.4, "d": 0.9}, rows_of((0.3, 0.5), (0.2, math.nan), (0.9, 0.9)))
    assert (found.targets, found.copies, found.better) == (2, 1, 1)
    assert (found.score, found.helix) == pytest.approx((0.5, 0.25))
    assert (found.score_of_copies, found.copy) == pytest.approx((0.6, 0.5))
