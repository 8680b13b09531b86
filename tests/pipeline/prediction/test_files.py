"""Files as other programs read them: gemmi, Biopython, biotite, the dictionary; AlphaFold DB's JSON."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from data_prep.structure.io import read_structure
from data_prep.structure.residues import sequence_to_aatype
from pipeline.prediction.checks import AlignedError
from pipeline.prediction.files import format_aligned_error, write_files
from pipeline.prediction.fold import PredictionError, fold_batch
from pipeline.prediction.rows import PredictionRow, done_row, failed_row, relaxed_row, warnings_of
from pipeline.prediction.sequences import Query, single_chain

DICTIONARY = Path("/usr/share/libcifpp/mmcif_ma.dic")
"""Debian's libcifpp-data has it: mmcif_ma.dic of https://github.com/ihmwg/ModelCIF, version 1.4.2."""
MODEL = "a model with 'quotes' and \"more\""
TEXTS = {"one": "MKTAYIAKQRQISFVXKSHFSRQ", "it's; #2": "MKVLAAGIVG:GGSWQRTY:MKVLAAGIVG"}


@pytest.fixture(scope="module")
def predictions(esmfold_like):
    queries = [single_chain(name, text) for name, text in TEXTS.items()]
    return fold_batch(esmfold_like, queries, torch.device("cpu"), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, predictions):
    path = tmp_path_factory.mktemp("files")
    for i, prediction in enumerate(predictions):
        named = replace(prediction, query=replace(prediction.query, name=f"p{i}"))
        write_files(path, named, "both", MODEL)
    write_files(path, replace(named, relaxed_by="OpenMM 8.6.1"), "both", MODEL)
    return path


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("i", [0, 1])
def test_our_reader_gets_back_what_was_written(folder, predictions, i, suffix):
    found, expected = read_structure(folder / f"p{i}{suffix}"), predictions[i].records
    assert [(r.chain_id, r.sequence) for r in found] == [(r.chain_id, r.sequence) for r in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.atom37_mask, b.atom37_mask)
        np.testing.assert_allclose(a.atom37_positions, b.atom37_positions, atol=6e-4)
        np.testing.assert_allclose(a.b_factors, b.b_factors, atol=6e-3)
        np.testing.assert_array_equal(a.auth_seq_id[a.observed], b.auth_seq_id[b.observed])


def test_numbering_with_gaps_is_kept(esmfold_like, tmp_path):
    query = Query("gap", ("MKTAYI",), (np.array([0, 1, 2, 10, 11, 12]),))
    (prediction,) = fold_batch(esmfold_like, [query], torch.device("cpu"), 0)
    write_files(tmp_path, prediction, "both", MODEL)
    for suffix in (".pdb", ".cif"):
        (record,) = read_structure(tmp_path / f"gap{suffix}")
        assert record.auth_seq_id.tolist() == [1, 2, 3, 11, 12, 13] and record.sequence == "MKTAYI"


def test_biopython_reads_them_without_a_warning(folder):
    from Bio.PDB import MMCIFParser, PDBParser

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix, parser in ((".pdb", PDBParser()), (".cif", MMCIFParser())):
            chains = list(parser.get_structure("x", folder / f"p1{suffix}").get_chains())
            assert [(chain.id, len(chain)) for chain in chains] == [("A", 10), ("B", 8), ("C", 10)]


def test_biotite_reads_them_without_a_warning(folder, predictions):
    biotite = pytest.importorskip("biotite.structure.io", reason="biotite is the second opinion on mmCIF")
    from biotite.structure.io import pdbx

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms = biotite.load_structure(folder / "p1.pdb", extra_fields=["b_factor"])
        again = pdbx.get_structure(pdbx.CIFFile.read(folder / "p1.cif"), model=1, extra_fields=["b_factor"])
        sequences = pdbx.get_sequence(pdbx.CIFFile.read(folder / "p1.cif"))
    assert len(atoms) == len(again) == sum(r.atom37_mask.sum() for r in predictions[1].records)
    np.testing.assert_array_equal(atoms.coord, again.coord)
    np.testing.assert_allclose(atoms.b_factor, again.b_factor, atol=6e-3)
    assert {chain: str(sequence) for chain, sequence in sequences.items()} == {
        "A": "MKVLAAGIVG", "B": "GGSWQRTY", "C": "MKVLAAGIVG",
    }  # fmt: skip


def test_gemmi_reads_entities_and_confidence(folder, predictions):
    structure = gemmi.read_structure(str(folder / "p1.cif"))
    assert [entity.subchains for entity in structure.entities] == [["A", "C"], ["B"]], "one entity per sequence"
    assert len(structure.entities[0].full_sequence) == 10
    block = gemmi.cif.read(str(folder / "p1.cif")).sole_block()
    metrics = {row.str(0): row[1] for row in block.find("_ma_qa_metric.", ["name", "id"])}
    assert set(metrics) == {"mean pLDDT", "pTM", "ipTM", "pLDDT"}
    overall = {row[0]: row[1] for row in block.find("_ma_qa_metric_global.", ["metric_id", "metric_value"])}
    assert float(overall[metrics["ipTM"]]) == pytest.approx(predictions[1].error.iptm, abs=6e-4)
    local = [float(value) for value in block.find_values("_ma_qa_metric_local.metric_value")]
    np.testing.assert_allclose(local, predictions[1].plddt, atol=6e-3)
    assert block.find_value("_struct.pdbx_structure_determination_methodology") == "computational"
    assert "OpenMM" not in list(block.find_values("_software.name"))


def test_a_relaxed_structure_says_so_and_lies_apart(folder):
    assert sorted(path.name for path in (folder / "relaxed").iterdir()) == ["p1.cif", "p1.pdb"], "no aligned error"
    own, relaxed = (gemmi.cif.read(str(path / "p1.cif")).sole_block() for path in (folder, folder / "relaxed"))
    assert dict(relaxed.find("_software.", ["name", "version"]))["OpenMM"] == "8.6.1"
    steps = [row[0] for row in relaxed.find("_ma_protocol_step.", ["step_name"])]
    assert steps == ["prediction", "relaxation"]
    assert len(list(own.find("_atom_site.", ["id"]))) == len(list(relaxed.find("_atom_site.", ["id"])))


def test_the_dictionary_of_the_pdb_accepts_them(folder):
    dictionary = pytest.importorskip("ihm.dictionary")
    if not DICTIONARY.is_file():
        pytest.skip(f"no {DICTIONARY}: apt-get install libcifpp-data")
    with DICTIONARY.open() as stream:
        modelcif = dictionary.read(stream)
    paths = sorted(folder.rglob("*.cif"))
    assert len(paths) == 3
    for path in paths:
        with path.open() as stream:
            modelcif.validate(stream)
    text = (folder / "p0.cif").read_text().replace("_ma_qa_metric.mode", "_ma_qa_metric.moody")
    (folder / "wrong.cif_").write_text(text)
    with (folder / "wrong.cif_").open() as stream, pytest.raises(dictionary.ValidatorError, match="moody"):
        modelcif.validate(stream)


def test_long_sequences_have_lines_that_cif_allows(predictions, tmp_path):
    whole = predictions[0]
    n = 3000
    long = replace(
        whole,
        query=single_chain("long", "W" * n),
        aatype=sequence_to_aatype("W" * n),
        residue_index=np.arange(n),
        chain=np.zeros(n, dtype=np.int64),
        atom14=np.zeros((n, 14, 3), dtype=np.float32),
        plddt=np.full(n, 50, dtype=np.float32),
        error=None,
    )
    write_files(tmp_path, long, "mmcif", MODEL)
    text = (tmp_path / "long.cif").read_text()
    assert max(map(len, text.splitlines())) <= 2048
    (record,) = read_structure(tmp_path / "long.cif")
    assert record.sequence == "W" * n


def test_aligned_error_as_alphafold_db_has_it():
    pae = np.array([[0.25, 31.6], [12.4, 0.4]], dtype=np.float32)
    text = format_aligned_error(AlignedError(pae, 0.5, None, 31.75))
    assert json.loads(text) == [{"predicted_aligned_error": [[0, 32], [12, 0]], "max_predicted_aligned_error": 31.75}]


def test_what_pdb_cannot_hold_is_mmcif_alone(esmfold_like, tmp_path):
    (whole,) = fold_batch(esmfold_like, [single_chain("many", "MKTAYIA" * 9)], torch.device("cpu"), 0)
    chains = Query("many", tuple(whole.query.sequence), tuple(np.array([0]) for _ in range(63)))
    prediction = replace(whole, query=chains, chain=np.arange(63))
    assert write_files(tmp_path, prediction, "both", MODEL) == ["many.cif"]
    assert len(read_structure(tmp_path / "many.cif")) == 63 and not (tmp_path / "many.pdb").exists()
    with pytest.raises(PredictionError, match=r"give --format mmcif"):
        write_files(tmp_path, prediction, "pdb", MODEL)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([10_000], "residue 10000 does not fit a PDB file, which ends at 9999"),
        ([5_000, 4_000], "atom 102002 does not fit a PDB file, which ends at 99999"),
    ],
)
def test_numbers_that_pdb_has_no_digits_for_are_mmcif_alone(predictions, tmp_path, lengths, message):
    """Biopython reads no letters in place of residue numbers."""
    total, chains = sum(lengths), tuple(name * length for name, length in zip("WL", lengths, strict=False))
    aatype = sequence_to_aatype("".join(chains))
    many = replace(
        predictions[0],
        query=Query("many", chains, tuple(map(np.arange, lengths))),
        aatype=aatype,
        residue_index=np.arange(total),
        chain=np.repeat(np.arange(len(lengths)), lengths),
        atom14=np.zeros((total, 14, 3), dtype=np.float32),
        plddt=np.full(total, 50, dtype=np.float32),
    )
    with pytest.raises(PredictionError, match=f"many: {message}"):
        write_files(tmp_path, many, "pdb", MODEL)
    assert not list(tmp_path.iterdir())


def test_rows_come_back_from_their_cells(predictions):
    done = done_row(predictions[1], ["p1.pdb"], 1.25, device="cpu", batch_size=2, notes=("a", "b"))
    failed = failed_row(predictions[0].query, 'no, "memory"\nat all', device="cpu")
    for row in (done, failed, PredictionRow("x", status="rejected", reason="no sequence")):
        assert PredictionRow.from_cells({k: str(v) for k, v in row.as_cells().items()}) == row
    assert done.notes == "a; b" and done.chains == 3 and done.length == 28
    geometry = replace(predictions[1].geometry, broken_bonds=0, bad_angles=0, clashes=2, bad_residues=0)
    relaxed = relaxed_row(done, replace(predictions[1], geometry=geometry), 1.26, 3.0)
    assert PredictionRow.from_cells({k: str(v) for k, v in relaxed.as_cells().items()}) == relaxed
    assert relaxed.clashes == done.clashes and relaxed.relaxed_clashes == 2 and relaxed.relaxed == "done"
    assert relaxed.warnings == "; ".join(
        (done.warnings, "relaxation moved alpha carbons by 1.3 angstrom", "still there after relaxation: clashes: 2")
    )


def test_warnings_name_what_is_wrong(predictions):
    prediction = predictions[0]
    sure = replace(
        prediction,
        plddt=np.full_like(prediction.plddt, 90),
        contacts_kept=0.9,
        geometry=replace(prediction.geometry, broken_bonds=0, bad_angles=0, clashes=0, bad_residues=0),
    )
    assert warnings_of(sure) == []
    assert warnings_of(replace(sure, plddt=sure.plddt - 30)) == ["low confidence (mean pLDDT 60.0)"]
    assert warnings_of(replace(sure, plddt=sure.plddt - 50)) == ["very low confidence (mean pLDDT 40.0)"]
    assert warnings_of(replace(sure, contacts_kept=0.43)) == [
        "distogram and coordinates disagree (43% of the predicted contacts are there)"
    ]
    broken = replace(sure.geometry, broken_bonds=2, clashes=3)
    assert warnings_of(replace(sure, geometry=broken)) == ["clashes: 3", "broken bonds: 2"]
