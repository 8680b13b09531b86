"""Relaxation by OpenMM, on a stretch of lysozyme (1AKI, 1.5 angstrom) with two disulfide bridges, whole and broken."""

import sys
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from data_prep.structure.io import read_structure
from data_prep.structure.residues import RESTYPE_ATOM14_MASK, RESTYPE_ATOM14_TO_ATOM37, RESTYPES
from pipeline.prediction import engine
from pipeline.prediction.checks import GeometryCounts, find_violations
from pipeline.prediction.fold import Prediction
from pipeline.prediction.predictor import Structure
from pipeline.prediction.relaxation import RelaxationError, alpha_carbon_shift, relax
from pipeline.prediction.sequences import Query
from tests.pipeline.prediction.conftest import rows

FIRST, LAST = 60, 97  # bridges 63-79 and 75-93
NOTHING = GeometryCounts(0, 0, 0, 0)


def changed(prediction: Prediction, **fields) -> Prediction:
    """With other fields, and its violations counted again."""
    other = replace(prediction, **fields)
    counts, _ = find_violations(other.atom14, other.aatype, other.residue_index, other.chain)
    return replace(other, geometry=counts)


@pytest.fixture(scope="module", autouse=True)
def openmm():
    """The module; every test here needs it."""
    return pytest.importorskip("openmm", reason="relaxation needs OpenMM: pip install 'lorta-fold[relax]'")


@pytest.fixture(scope="module")
def crystal() -> Prediction:
    (record,) = read_structure(resources.files("pipeline") / "demo_structures" / "1aki_A.pdb.gz")
    aatype = record.aatype[FIRST:LAST].astype(np.int64)
    slots, exists = RESTYPE_ATOM14_TO_ATOM37[aatype], RESTYPE_ATOM14_MASK[aatype]
    atom14 = np.take_along_axis(record.atom37_positions[FIRST:LAST], slots[..., None], 1) * exists[..., None]
    index = np.arange(len(aatype))
    query = Query("x", ("".join(RESTYPES[i] for i in aatype),), (index,))
    plddt = np.linspace(40, 90, len(aatype), dtype=np.float32)
    nothing = np.zeros(len(aatype), dtype=np.int64)
    whole = Prediction(query, aatype, index, nothing, atom14.astype(np.float32), plddt, None, None, NOTHING)
    return changed(whole)


@pytest.fixture(scope="module")
def broken(crystal) -> Prediction:
    """Each atom 0.25 angstrom off, and the second half pushed 2 angstrom into the first."""
    noise = np.random.default_rng(0).normal(scale=0.25, size=crystal.atom14.shape)
    moved = crystal.atom14 + noise
    moved[20:] += np.array([0.0, 0.0, 2.0]) * np.sign(moved[:20].mean((0, 1)) - moved[20:].mean((0, 1)))[2]
    return changed(crystal, atom14=(moved * RESTYPE_ATOM14_MASK[crystal.aatype][..., None]).astype(np.float32))


@pytest.fixture(scope="module")
def relaxed(broken) -> Prediction:
    return relax(broken)


def test_what_was_broken_is_whole_and_near(broken, relaxed):
    assert min(broken.geometry.broken_bonds, broken.geometry.clashes, broken.geometry.bad_residues) > 1
    assert relaxed.geometry == NOTHING and relaxed.relaxed_by.startswith("OpenMM ")
    assert 0.2 < alpha_carbon_shift(broken, relaxed) < 1.5
    bond = np.linalg.norm(relaxed.atom14[:, 1] - relaxed.atom14[:, 0], axis=-1)
    np.testing.assert_allclose(bond, 1.46, atol=0.06)  # N-CA: three standard deviations
    np.testing.assert_array_equal(relaxed.plddt, broken.plddt)
    assert not relaxed.atom14[~RESTYPE_ATOM14_MASK[relaxed.aatype]].any(), "no atoms that a residue does not have"


def test_from_python_and_again_the_same(broken, relaxed):
    found = Structure(broken, "a model").relax()
    np.testing.assert_array_equal(found.prediction.atom14, relaxed.atom14)
    assert not any("clashes" in warning for warning in found.warnings)


def test_a_sound_structure_stays_and_bridges_are_bonds(crystal):
    found = relax(crystal)
    assert found.geometry == NOTHING and alpha_carbon_shift(crystal, found) < 0.15
    for i, j in ((63, 79), (75, 93)):
        length = np.linalg.norm(found.atom14[i - FIRST, 5] - found.atom14[j - FIRST, 5])
        assert length == pytest.approx(2.04, abs=0.03), "sulfurs that are not bonded keep 3.5 angstrom apart"


def test_chains_are_cut_at_gaps_and_unknown_residues(crystal):
    """Pieces: 0 to 9, 11 (alone), 13 to 19; 20 to 36 is another chain."""
    aatype = crystal.aatype.copy()
    aatype[[10, 12]] = 20
    atom14 = crystal.atom14 * RESTYPE_ATOM14_MASK[aatype][..., None]
    chain = (np.arange(len(aatype)) >= 20).astype(np.int64)
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=0.2, size=atom14.shape) * RESTYPE_ATOM14_MASK[aatype][..., None]
    cut = changed(crystal, aatype=aatype, atom14=(atom14 + noise).astype(np.float32), chain=chain)
    found = relax(cut)
    assert cut.geometry.broken_bonds > 3 and cut.geometry.bad_residues > 10
    assert found.geometry.broken_bonds == 0 and found.geometry.bad_residues <= 1  # the one that stays
    np.testing.assert_array_equal(found.atom14[10:13], cut.atom14[10:13])
    assert np.abs(found.atom14[13:] - cut.atom14[13:])[RESTYPE_ATOM14_MASK[aatype[13:]]].min() > 0


def first_residues(prediction: Prediction, count: int) -> Prediction:
    names = ("aatype", "residue_index", "chain", "atom14", "plddt")
    return replace(prediction, **{name: getattr(prediction, name)[:count] for name in names})


def test_another_platform_gives_the_same(broken, monkeypatch):
    part = first_residues(broken, 6)
    expected = relax(part).atom14
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "Reference")
    np.testing.assert_allclose(relax(part).atom14, expected, atol=0.1)
    assert np.abs(expected - part.atom14).max() > 0.3, "something was relaxed"
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "Abacus")
    with pytest.raises(RelaxationError, match=r"OPENMM_DEFAULT_PLATFORM: There is no registered Platform"):
        relax(part)


def test_an_interruption_goes_through_openmm(openmm, broken, monkeypatch):
    """Python raises KeyboardInterrupt where it runs next: in the reporter."""

    class Interrupted(openmm.MinimizationReporter):
        steps = 0

        def report(self, *_):
            self.steps += 1
            raise KeyboardInterrupt

    reporter = Interrupted()
    monkeypatch.setattr("pipeline.prediction.relaxation._interruptible", lambda: reporter)
    with pytest.raises(KeyboardInterrupt):
        relax(first_residues(broken, 6))
    assert reporter.steps == 1


def test_what_cannot_be_relaxed_is_one_line(crystal):
    for bad, message in (
        (first_residues(crystal, 1), "no two residues are bonded"),
        (replace(crystal, atom14=crystal.atom14 * 0), "atoms lie in one place"),
    ):
        with pytest.raises(RelaxationError, match=message) as error:
            relax(bad)
        assert "\n" not in str(error.value)


@pytest.fixture
def folds_to(monkeypatch):
    """Makes the command's model give this prediction, whatever the sequence's name."""

    def patch(prediction: Prediction) -> str:
        def fold(model, queries, *_):
            return [replace(prediction, query=query) for query in queries]

        monkeypatch.setattr(engine, "fold_batch", fold)
        return prediction.query.sequence

    return patch


def test_the_command_writes_both(broken, relaxed, folds_to, fasta, predict, capsys, monkeypatch):
    sequence = folds_to(broken)
    monkeypatch.setattr(engine, "relax", lambda prediction: replace(relaxed, query=prediction.query))
    path = fasta(a=sequence, twin=sequence)
    out = predict(path)
    capsys.readouterr()
    assert not (out / "relaxed").exists() and {row["relaxed"] for row in rows(out)} == {""}
    predict(path, "--relax")
    screen = capsys.readouterr().out
    assert "Folding 2 sequences, with" in screen, "what was folded without --relax is folded again"
    assert f"Relaxed 2 structures, in {out / 'relaxed'}: {2 * broken.geometry.clashes} clashes are now 0" in screen
    assert sorted(path.name for path in (out / "relaxed").iterdir()) == ["a.cif", "a.pdb", "twin.cif", "twin.pdb"]
    for folder, expected in ((out, broken), (out / "relaxed", relaxed)):
        (record,) = read_structure(folder / "twin.pdb")
        ca = record.atom37_positions[:, 1]
        np.testing.assert_allclose(ca, expected.atom14[:, 1], atol=6e-4)
        np.testing.assert_allclose(record.b_factors[:, 1], broken.plddt, atol=6e-3)
    for row in rows(out):
        assert row["relaxed"] == "done" and (float(row["relax_seconds"]) > 0) is (row["name"] == "a")
        assert int(row["clashes"]) == broken.geometry.clashes and row["relaxed_clashes"] == "0"
        assert float(row["relaxed_shift"]) == pytest.approx(alpha_carbon_shift(broken, relaxed), abs=6e-4)
    predict(path, "--relax")
    assert "2 of them are done" in capsys.readouterr().out
    (out / "relaxed" / "a.pdb").unlink()
    predict(path, "--relax")
    assert "1 of them are done" in capsys.readouterr().out and (out / "relaxed" / "a.pdb").is_file()
    predict(fasta(b=sequence), "--overwrite")
    assert not (out / "relaxed").exists() and not (out / "a.pdb").exists()


def test_what_cannot_be_relaxed_keeps_its_file(crystal, folds_to, fasta, predict, capsys):
    sequence = folds_to(changed(crystal, atom14=crystal.atom14 * 0))
    out = predict(fasta(a=sequence), "--relax")
    (row,) = rows(out)
    assert row["status"] == "done" and row["relaxed"] == "failed" and not row["relaxed_clashes"]
    assert row["warnings"].endswith("; not relaxed: atoms lie in one place")
    assert (out / "a.pdb").is_file() and not (out / "relaxed").exists()
    assert "Relaxed 0 structures" in (screen := capsys.readouterr().out) and "1 could not be relaxed" in screen
    predict(fasta(a=sequence), "--relax")
    assert "1 of them are done" in capsys.readouterr().out, "it was tried"


def test_without_openmm(fasta, predict, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "openmm", None)
    predict(fasta(a="MKT"), "--relax", code=2)
    text = capsys.readouterr().err
    assert "--relax needs OpenMM" in text and "lorta-fold[relax]" in text and len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()
