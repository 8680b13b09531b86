import pickle
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from data_prep.dataset import store as dataset_module
from data_prep.dataset.ledger import LedgerRow, read_ledger
from data_prep.dataset.store import DatasetError, DatasetWriter, Placement, StructureDataset
from data_prep.structure.io import read_structure
from data_prep.structure.record import ProteinRecord
from tests.data_prep.compare import differences
from tests.datasets import write_dataset


def make_record(name: str, length: int, seed: int = 0, **fields) -> ProteinRecord:
    """Random coordinates in thousandths of an angstrom, a third of the atoms not stated, residue 1 not observed."""
    rng = np.random.default_rng(seed)
    mask = rng.random((length, 37)) < 0.66
    mask[1:2] = False
    thousandths = rng.integers(-9_999_999, 9_999_999, (length, 37, 3))
    return ProteinRecord(
        id=name,
        chain_id="A",
        sequence="".join(rng.choice(list("ARNDCQEGHILKMFPSTWYVX"), length)),
        residue_index=np.cumsum(rng.integers(1, 3, length)).astype(np.int32) - 1,
        atom37_positions=np.where(mask[..., None], thousandths / 1000, 0).astype(np.float32),
        atom37_mask=mask,
        b_factors=np.where(mask, rng.random((length, 37)) * 100, 0).astype(np.float32),
        auth_seq_id=rng.integers(-50, 5000, length).astype(np.int32),
        insertion_code=rng.choice(["", "A"], length).astype("<U1"),
        **fields,
    )


@pytest.fixture
def records() -> list[ProteinRecord]:
    return [
        make_record("a_A", 30, 1, resolution=1.9, method="X-RAY DIFFRACTION", deposition_date="2001-02-03"),
        make_record("b_A", 1, 2, source_file="d/b.pdb", source_sha256="0f", warnings=("one", "two"), model_number=3),
        make_record("c_A", 55, 3, release_date="2004-05-06"),
    ]


@pytest.mark.parametrize("per_shard", [1, 2, 256])
def test_records_come_back_exactly(records, tmp_path, monkeypatch, per_shard):
    monkeypatch.setattr(dataset_module, "RECORDS_PER_SHARD", per_shard)
    write_dataset(tmp_path / "d", records)
    dataset = pickle.loads(pickle.dumps(StructureDataset(tmp_path / "d")))
    assert len(dataset) == 3 and dataset.ids() == ["a_A", "b_A", "c_A"] and "b_A" in dataset
    assert len(list((tmp_path / "d/shards").iterdir())) == -(-3 // per_shard)
    for record in records[::-1]:
        back = dataset.load(record.id)
        assert differences(record, back) == []
        rest = ("id", "source_file", "source_sha256", "model_number", "warnings")
        assert [getattr(back, name) for name in rest] == [getattr(record, name) for name in rest]


def test_real_chains_come_back_exactly(structures_dir, tmp_path):
    paths = sorted(path for path in structures_dir.iterdir() if path.is_file())[::50]
    records = {record.id: record for path in paths for record in read_structure(path)}
    write_dataset(tmp_path / "d", records.values())
    dataset = StructureDataset(tmp_path / "d")
    assert all(differences(record, dataset.load(name)) == [] for name, record in records.items())


def test_splits_index_and_ledger(records, tmp_path):
    placements = {
        "a_A": Placement("train", 0, 2),
        "b_A": Placement("val", 1, 1, "a_A", 0.25),
        "c_A": Placement("none", 0, 2),
    }
    ledger = [LedgerRow("z.pdb", "", "unreadable", "why, and more"), LedgerRow("a.pdb", "A", "accepted", "", "a_A")]
    write_dataset(tmp_path / "d", records, placements=placements, ledger=ledger, settings={"x": [1, None]})
    dataset = StructureDataset(tmp_path / "d")
    assert [dataset.ids(split) for split in ("train", "val", "none")] == [["a_A"], ["b_A"], ["c_A"]]
    row = dataset.table.to_pylist()[1]
    assert (row["length"], row["cluster"], row["cluster_size"]) == (1, 1, 1)
    assert (row["nearest_train_id"], row["nearest_train_identity"]) == ("a_A", 0.25)
    assert dataset.row("a_A")["resolution"] == 1.9 and dataset.table.to_pylist()[2]["resolution"] is None
    assert dataset.description["settings"] == {"x": [1, None]}
    assert read_ledger(tmp_path / "d/ledger.csv") == [ledger[1], ledger[0]]
    assert (tmp_path / "d/ledger.csv").read_text().startswith("file,chain,status,reason")
    assert "3 protein chains (1 val, 1 train, 1 none)" in (tmp_path / "d/README.md").read_text()


def test_the_documented_format_can_be_read_without_our_code(records, tmp_path):
    """The recipe of docs/data-format.md, step by step."""
    write_dataset(tmp_path / "d", records)
    row = pq.read_table(tmp_path / "d/index.parquet").to_pylist()[2]
    tensors = load_file(tmp_path / "d/shards" / f"{row['shard']:05d}.safetensors")
    residues = slice(row["residue_start"], row["residue_start"] + row["length"])
    atoms = slice(row["atom_start"], row["atom_start"] + row["n_atoms"])
    bits = tensors["atom_mask"][residues]
    mask = np.array([[(byte_row[k // 8] >> (7 - k % 8)) & 1 for k in range(37)] for byte_row in bits], dtype=bool)
    assert np.array_equal(mask, records[2].atom37_mask)
    assert np.array_equal((tensors["positions"][atoms] / 1000).astype(np.float32), records[2].atom37_positions[mask])
    assert np.array_equal(tensors["aatype"][residues], records[2].aatype)


def test_what_the_format_cannot_hold_is_refused(records, tmp_path):
    moved = replace(records[0], atom37_positions=records[0].atom37_positions + np.float32(0.0004))
    with pytest.raises(ValueError, match=r"a_A: positions must be finite multiples of 0\.001"):
        write_dataset(tmp_path / "d", [moved])
    with pytest.raises(ValueError, match="residue_index must be strictly increasing"):
        write_dataset(tmp_path / "d", [replace(records[0], residue_index=records[0].residue_index[::-1])])
    with pytest.raises(DatasetError, match="two records have the id a_A"):
        write_dataset(tmp_path / "d", [records[0], records[0]])
    with pytest.raises(DatasetError, match="no records to write"):
        write_dataset(tmp_path / "d", [])
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_dataset_never_has_the_name(records, tmp_path):
    with pytest.raises(RuntimeError), DatasetWriter(tmp_path / "d") as writer:
        writer.add(records[0])
        assert not (tmp_path / "d").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_overwriting_is_asked_for_and_hits_datasets_only(records, tmp_path):
    write_dataset(tmp_path / "d", records)
    with pytest.raises(DatasetError, match="is a finished dataset; --update adds"):
        write_dataset(tmp_path / "d", records[:1])
    assert len(StructureDataset(tmp_path / "d")) == 3
    write_dataset(tmp_path / "d", records[:1], overwrite=True)
    assert len(StructureDataset(tmp_path / "d")) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(DatasetError, match="is not a dataset"):
        write_dataset(tmp_path / "mine", records, overwrite=True)
    assert (tmp_path / "mine/thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "mine"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a dataset \(no dataset\.json\)"),
        ("{", r"its dataset\.json cannot be read"),
        ("[]", "does not describe a lorta-fold dataset"),
        (
            '{"format": "lorta-fold dataset", "format_version": 99}',
            "has format version 99, this program reads version 1",
        ),
        ('{"format": "lorta-fold dataset", "format_version": 1}', r"index\.parquet cannot be read"),
    ],
)
def test_what_is_no_dataset(tmp_path, content, message):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        StructureDataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_id_and_missing_shard(records, tmp_path):
    write_dataset(tmp_path / "d", records)
    dataset = StructureDataset(tmp_path / "d")
    with pytest.raises(KeyError, match="no record x_A"):
        dataset.load("x_A")
    (tmp_path / "d/shards/00000.safetensors").unlink()
    with pytest.raises(DatasetError, match=r"00000\.safetensors: cannot be read"):
        dataset.load("a_A")
