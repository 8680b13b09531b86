"""A batch gives what each sequence gives alone; complexes as fair-esm folds them; confidence against the losses."""

import numpy as np
import pytest
import torch

from pipeline.folding.model import FoldOutput
from pipeline.prediction.checks import contact_probability, contacts_kept, read_aligned_error
from pipeline.prediction.fold import PredictionError, chain_id, fold_batch
from pipeline.prediction.sequences import INDEX_JUMP, LINKER_LENGTH, Query, link, single_chain

CPU = torch.device("cpu")
TEXTS = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMXGLLEEK", "MKVLAAGIVG:GGSWQRTY")


@pytest.fixture(scope="module")
def batch(esmfold_like):
    queries = [single_chain(f"q{i}", text) for i, text in enumerate(TEXTS)]
    return fold_batch(esmfold_like, queries, CPU, 1)


def test_padding_changes_nothing(esmfold_like, batch):
    for together in batch:
        (alone,) = fold_batch(esmfold_like, [together.query], CPU, 1)
        np.testing.assert_allclose(together.atom14, alone.atom14, atol=2e-4)
        np.testing.assert_allclose(together.plddt, alone.plddt, atol=1e-3)
        np.testing.assert_allclose(together.error.pae, alone.error.pae, atol=1e-3)
        assert together.error.ptm == pytest.approx(alone.error.ptm, abs=1e-5)
        assert np.abs(alone.atom14).max() > 3 and alone.plddt.std() > 0.01, "the comparison is of something"


def test_records_hold_the_atoms_of_the_residues(batch):
    (record,) = batch[1].records
    assert record.sequence == "GSHMXGLLEEK" and record.chain_id == "A"
    assert not record.atom37_mask[4].any() and record.atom37_mask[3].sum() == 8  # X, and methionine
    assert record.auth_seq_id.tolist() == list(range(1, 12))
    ca = record.atom37_positions[:, 1]
    np.testing.assert_array_equal(ca[batch[1].known], batch[1].atom14[batch[1].known, 1])
    assert batch[1].mean_plddt == pytest.approx(batch[1].plddt[batch[1].known].mean())


def test_chains_are_linked_as_fair_esm_does_it():
    """Against ``encode_sequence`` of esm.esmfold.v1.misc, whose import needs openfold: its lines on numbers, here."""
    query = single_chain("c", "MKVLA:GG:WQRTYW")
    linked = link(query)
    chains = query.sequence.split(":")
    sequence = ("G" * 25).join(chains)
    index, chain = np.arange(len(sequence)), np.full(len(sequence), -1)
    start = 0
    for i, one in enumerate(chains):
        index[start : start + len(one) + 25] += i * 512
        chain[start : start + len(one)] = i
        start += len(one) + 25
    letters = np.array(list("ARNDCQEGHILKMFPSTWYVX"))
    assert "".join(letters[linked.aatype]) == sequence and len(linked) == query.linked_length
    np.testing.assert_array_equal(linked.residue_index, index)
    np.testing.assert_array_equal(linked.chain, chain)


def test_numbers_with_gaps_stay_apart_in_every_chain():
    own = (np.array([3, 4, 9]), np.array([5, 7]))
    linked = link(Query("c", ("MKV", "GG"), own))
    assert linked.residue_index[:3].tolist() == [3, 4, 9]
    assert linked.residue_index[3 : 3 + LINKER_LENGTH].tolist() == list(range(10, 10 + LINKER_LENGTH))
    second = 10 + LINKER_LENGTH + INDEX_JUMP
    assert linked.residue_index[-2:].tolist() == [second, second + 2]


def test_a_complex_has_its_chains_and_no_linker(batch):
    first, second = batch[2].records
    assert (first.chain_id, first.sequence, second.chain_id, second.sequence) == ("A", "MKVLAAGIVG", "B", "GGSWQRTY")
    assert second.auth_seq_id.tolist() == list(range(1, 9))
    assert batch[2].error.pae.shape == (18, 18) and 0 < batch[2].error.iptm < 1
    assert batch[0].error.iptm is None


def test_chain_ids_go_on_after_62():
    names = [chain_id(i) for i in range(62 + 62 * 62)]
    assert names[0] == "A" and names[61] == "9" and names[62] == "AA" and len(set(names)) == len(names)


def test_aligned_error():
    torch.manual_seed(0)
    logits = 3 * torch.randn(150, 150, 64)
    chain = np.repeat([0, 1], [90, 60])
    error = read_aligned_error(logits, chain)
    assert error.largest == 31.75  # AlphaFold DB's
    centers = (np.arange(64) + 0.5) * 0.5
    assert error.pae == pytest.approx(logits.softmax(-1).numpy() @ centers, abs=1e-4)
    tm = (logits.softmax(-1).numpy() / (1 + (centers / (1.24 * 135 ** (1 / 3) - 1.8)) ** 2)).sum(-1)
    assert error.ptm == pytest.approx(tm.mean(-1).max(), abs=1e-6)
    between = [tm[i, chain != chain[i]].mean() for i in range(150)]
    assert error.iptm == pytest.approx(max(between), abs=1e-5)
    assert read_aligned_error(logits, chain * 0).iptm is None


def test_contacts_of_a_distogram():
    """Bin 19 is from 7.9375 to 8.25 angstrom: a fifth of it lies below 8."""
    logits = torch.full((3, 3, 64), -30.0)
    for i, k in enumerate((18, 19, 20)):
        logits[0, i, k] = 0.0
    assert contact_probability(logits)[0].tolist() == pytest.approx([1, 0.2, 0], abs=1e-5)
    uniform = contact_probability(torch.zeros(3, 3, 64))
    assert uniform[0, 0] == pytest.approx((8 - 2) / 0.3125 / 64, abs=5e-3)


def test_contacts_that_the_coordinates_have():
    n = 20
    beta = np.zeros((n, 3), dtype=np.float32)
    beta[:, 0] = 1.5 * np.arange(n)  # i and i + 6 are 9 apart: within the slack; i and i + 9, 13.5: not
    atom14 = np.zeros((n, 14, 3), dtype=np.float32)
    atom14[:, 4] = beta
    index, alanine = np.arange(n), np.zeros(n, dtype=np.int64)
    near, far = (np.eye(n, k=k) + np.eye(n, k=-k) for k in (6, 9))
    assert contacts_kept(near, atom14, alanine, index) == 1.0
    assert contacts_kept(far, atom14, alanine, index) == 0.0
    assert contacts_kept(near + far, atom14, alanine, index) == pytest.approx(14 / (14 + 11))
    assert contacts_kept(np.eye(n, k=5), atom14, alanine, index) is None, "neighbours say nothing"
    assert contacts_kept(np.zeros((n, n)), atom14, alanine, index) is None


def test_numbers_that_are_not_finite_are_an_error(esmfold_like, monkeypatch):
    original = type(esmfold_like).forward

    def broken(self, *arguments) -> FoldOutput:
        output = original(self, *arguments)
        output.structure.positions[-1, 0, 2] = float("nan")
        return output

    monkeypatch.setattr(type(esmfold_like), "forward", broken)
    with pytest.raises(PredictionError, match="q0: the model gave numbers that are not finite"):
        fold_batch(esmfold_like, [single_chain("q0", TEXTS[0])], CPU, 0)
