import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from data_prep.dataset.store import Placement
from data_prep.structure.io import write_mmcif, write_pdb
from evaluation.baselines import helix_ca
from evaluation.lddt_scores import lddt_ca
from tests.datasets import write_dataset


@pytest.fixture
def case(tmp_path, record, walk, sequence):
    """Directories of three predictions and four truths: right, noisy, unreadable; one truth has no prediction."""
    preds, truth = tmp_path / "preds", tmp_path / "truth"
    preds.mkdir()
    truth.mkdir()
    generator = np.random.default_rng(0)
    for i, name in enumerate(("right", "noisy", "broken", "absent")):
        letters, shape = sequence(40, i), walk(40, i)
        write_mmcif(truth / f"{name}.cif", [record(letters, shape)])
        if name == "broken":
            (preds / "broken.pdb").write_text("not a structure\n")
        elif name != "absent":
            noise = generator.normal(size=shape.shape) * (name == "noisy")
            plddt = generator.uniform(40, 95, 40).round(1)
            write_pdb(preds / f"{name}.pdb", [record(letters, shape + noise, b_factors=plddt, backbone=True)])
    return preds, truth


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_and_its_files(case, run, tmp_path):
    done = run(*case, "--out", tmp_path / "scores", "--report")
    assert done.status == 1, "one failed"
    assert done.err == ""
    assert "2 of 4 targets scored (1 failed, 1 missing)" in done.out
    for name in ("scores.csv", "per_residue.csv", "summary.json", "report.html"):
        assert f"wrote {tmp_path / 'scores' / name}" in done.out
    rows = {row["target"]: row for row in table(tmp_path / "scores" / "scores.csv")}
    assert list(next(iter(rows.values())))[:4] == ["target", "status", "reason", "lddt_ca"]
    assert {name: row["status"] for name, row in rows.items()} == {
        "absent": "missing",
        "broken": "failed",
        "noisy": "scored",
        "right": "scored",
    }
    assert rows["right"]["lddt_ca"] == "1.000000"
    assert rows["noisy"]["plddt_scale"] == "0-100" and 40 < float(rows["noisy"]["mean_plddt"]) < 95
    assert "broken.pdb" in rows["broken"]["reason"]
    assert rows["broken"]["lddt_ca"] == "" and rows["absent"]["prediction"] == ""
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["counts"] == {"targets": 4, "scored": 2, "partial": 0, "failed": 1, "missing": 1, "extra": 0}
    noisy = float(rows["noisy"]["lddt_ca"])
    assert summary["scored"]["lddt_ca"]["mean"] == pytest.approx((1 + noisy) / 2, abs=1e-6)
    assert summary["missing_as_0"]["lddt_ca"]["mean"] == pytest.approx((1 + noisy) / 4, abs=1e-6)
    assert summary["missing_as_0"]["lddt_ca"]["n"] == 4
    assert len(summary["sha256"]) == 4
    assert summary["plddt"]["scales"] == {"0-100": 2}
    assert summary["plddt"]["per_residue"]["n"] == 80 and summary["plddt"]["per_target"]["n"] == 2
    assert "80 residues, 2 target(s) with scale 0-100: Pearson" in done.out
    residues = table(tmp_path / "scores" / "per_residue.csv")
    both = np.array([(float(row["plddt"]), float(row["lddt_ca"])) for row in residues[:40]])
    assert float(rows["noisy"]["plddt_pearson"]) == pytest.approx(np.corrcoef(both.T)[0, 1], abs=1e-5)
    assert rows["right"]["plddt_pearson"] == "", "all scores are 1"
    assert float(rows["right"]["plddt_ece"]) == pytest.approx(1 - float(rows["right"]["mean_plddt"]) / 100, abs=1e-6)
    assert [row["target"] for row in residues] == ["noisy"] * 40 + ["right"] * 40
    assert np.mean([float(row["lddt_ca"]) for row in residues[:40]]) == pytest.approx(
        float(rows["noisy"]["lddt_ca_mean_per_residue"]), abs=1e-6
    )


def test_the_same_run_writes_the_same_bytes(case, run, tmp_path):
    for name in ("one", "two"):
        run(*case, "--out", tmp_path / name, "--report")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_scores_that_cost_more_come_when_asked_for(case, run, tmp_path):
    optional = {"lddt_all", "tm_score", "gdt_ts", "gdt_ha", "rmsd_common"}
    plain = run(*case, "--out", tmp_path / "plain")
    more = run(*case, "--out", tmp_path / "more", "--all-atom", "--superposition")
    assert "GDT-TS" in more.out and "GDT-TS" not in plain.out
    for folder, present in (("plain", False), ("more", True)):
        (row,) = (row for row in table(tmp_path / folder / "scores.csv") if row["target"] == "noisy")
        assert all(bool(row[name]) == present for name in optional)
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        assert (optional <= summary["scored"].keys()) == present
        residues = table(tmp_path / folder / "per_residue.csv")
        assert all(bool(residue["lddt_all"]) == present for residue in residues)
    assert 0 < float(row["tm_score"]) < 1 and float(row["rmsd_common"]) > 0.5


def test_undefined_values_are_blank(run, tmp_path, record):
    """Residue 3 lies alone; the prediction has nothing in common with the rest but one residue."""
    positions = np.array([[0, 0, 0], [3.8, 0, 0], [90, 0, 0]], dtype=float)
    write_pdb(tmp_path / "t.pdb", [record("ACD", positions)])
    write_pdb(tmp_path / "p.pdb", [record("ACD", positions, present=[True, False, True])])
    assert run(tmp_path / "p.pdb", tmp_path / "t.pdb", "--out", tmp_path / "out", "--match", "number").status == 0
    (row,) = table(tmp_path / "out" / "scores.csv")
    assert (row["lddt_ca"], row["lddt_ca_common"], row["status"]) == ("0.000000", "", "partial")
    assert [row["lddt_ca"] for row in table(tmp_path / "out" / "per_residue.csv")] == ["0.000000", "0.000000", ""]
    for file in (tmp_path / "out").iterdir():
        assert "nan" not in file.read_text().lower(), file.name


def test_an_undefined_truth_is_an_error_and_not_one(run, tmp_path, record):
    write_pdb(tmp_path / "t.pdb", [record("AC", np.array([[0, 0, 0], [90.0, 0, 0]]))])
    done = run(tmp_path / "t.pdb", tmp_path / "t.pdb", "--out", tmp_path / "out")
    assert done.status == 1
    (row,) = table(tmp_path / "out" / "scores.csv")
    assert row["status"] == "failed" and "lDDT is undefined" in row["reason"] and row["lddt_ca"] == ""


def test_missing_predictions_fail_only_with_strict(case, run):
    preds, truth = case
    (preds / "broken.pdb").unlink()
    assert run(preds, truth).status == 0
    assert run(preds, truth, "--strict").status == 1
    for name in ("broken", "absent"):
        (truth / f"{name}.cif").unlink()
    assert run(preds, truth, "--strict").status == 0


def test_predictions_named_by_chain(case, run, tmp_path, record, sequence, walk):
    preds, truth = case
    chains = [record(sequence(40, 7), walk(40, 7), chain="A"), record(sequence(40, 8), walk(40, 8), chain="B")]
    write_pdb(truth / "dimer.pdb", chains)
    shutil.rmtree(preds)
    preds.mkdir()
    write_pdb(preds / "dimer_B.pdb", [record(sequence(40, 8), walk(40, 8), chain="A")])
    write_pdb(preds / "dimer_C.pdb", [record(sequence(40, 8), walk(40, 8), chain="A")])
    done = run(preds, truth, "--out", tmp_path / "out")
    assert done.status == 1
    rows = {row["target"]: row for row in table(tmp_path / "out" / "scores.csv")}
    assert rows["dimer_B"]["lddt_ca"] == "1.000000" and rows["dimer_B"]["chain_map"] == "B=A"
    assert "has no protein chain 'C', only 'A', 'B'" in rows["dimer_C"]["reason"]
    assert list(rows) == ["dimer_B", "dimer_C"]
    assert "named <stem>_<chain>" in done.out


def test_named_chains(run, tmp_path, record, sequence, walk):
    letters, shape = sequence(40, 9), walk(40, 9)
    noisy = shape + np.random.default_rng(0).normal(size=shape.shape)
    write_pdb(tmp_path / "t.pdb", [record(letters, shape)])
    write_pdb(tmp_path / "p.pdb", [record(letters, shape, chain="A"), record(letters, noisy, chain="B")])
    files = tmp_path / "p.pdb", tmp_path / "t.pdb"
    assert "1.0000" in run(*files).out
    assert "1.0000" not in run(*files, "--chain-map", "A=B").out
    assert run(*files, "--chain-map", "A=Z").status == 1
    for wrong in ("A", "A=B,A=C", "A=B,C=B"):
        assert run(*files, "--chain-map", wrong).status == 2


def test_a_dataset_as_truth(run, tmp_path, record, sequence, walk):
    from dataclasses import replace

    from data_prep.dataset.store import Placement
    from tests.datasets import write_dataset

    truth = replace(record(sequence(40, 10), walk(40, 10)), id="x_A")
    write_dataset(tmp_path / "dataset", [truth], placements={"x_A": Placement("val")})
    (tmp_path / "preds").mkdir()
    write_pdb(tmp_path / "preds" / "x_A.pdb", [truth])
    done = run(tmp_path / "preds", tmp_path / "dataset", "--split", "val")
    assert done.status == 0
    assert "expected: all 1 records of split val" in done.out
    assert "mean 1.0000" in done.out


def test_many_targets_show_the_best_and_the_worst(run, tmp_path, record, sequence, walk):
    for folder in ("preds", "truth"):
        (tmp_path / folder).mkdir()
    letters, shape = sequence(20, 11), walk(20, 11)
    for i in range(25):
        write_pdb(tmp_path / "truth" / f"t{i:02}.pdb", [record(letters, shape)])
        noise = np.random.default_rng(i).normal(size=shape.shape) * i / 10
        write_pdb(tmp_path / "preds" / f"t{i:02}.pdb", [record(letters, shape + noise)])
    done = run(tmp_path / "preds", tmp_path / "truth")
    assert "best 10 of 25" in done.out and "worst 10 of 25" in done.out
    assert "t00" in done.out and "t24" in done.out and "t12" not in done.out


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["nowhere", "nowhere"], "error: PREDS: nowhere does not exist"),
        (["{preds}", "{truth}", "--report"], "error: --report writes report.html into the directory of --out"),
        (["{preds}", "{truth}", "--out", "{truth}/right.cif"], "is a file: expected a directory"),
        (["{preds}", "{truth}", "--pairs", "nowhere.csv"], "error: --pairs nowhere.csv: cannot be read as CSV"),
        (["{preds}", "{truth}", "--match", "best"], "invalid choice: 'best'"),
        (["{preds}", "{truth}", "--min-identity", "2"], "expected a share between 0 and 1"),
        (["{preds}", "{truth}", "--seed", "-1"], "argument --seed: '-1': expected a whole number of at least 0"),
        (["{preds}"], "the following arguments are required: TRUTH"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(case, run, arguments, found):
    preds, truth = case
    done = run(*(argument.format(preds=preds, truth=truth) for argument in arguments))
    assert done.status == 2
    assert found in done.err and "Traceback" not in done.err
    if done.err.startswith("error: "):
        assert done.err.count("\n") == 1


def test_help_has_an_example(run):
    done = run("--help")
    assert done.status == 0
    assert "python -m evaluation.lddt preds/ truth/ --out scores --report" in done.out


def test_a_dataset_as_truth_puts_the_baselines_beside_every_score(tmp_path, run, record, walk, sequence):
    """The target's twin is in training, so that the copy has 1.0; the prediction is the truth stretched by 2."""
    letters, shape = sequence(40, 1), walk(40, 1)
    chains = [replace(record(letters, shape), id=name) for name in ("t", "twin")]
    placements = {"t": Placement("val", 1), "twin": Placement("train", 0)}
    write_dataset(tmp_path / "data", chains, placements=placements)
    (tmp_path / "preds").mkdir()
    write_pdb(tmp_path / "preds" / "t.pdb", [record(letters, 2 * shape)])
    words = (tmp_path / "preds", tmp_path / "data", "--split", "val")
    done = run(*words, "--out", tmp_path / "s", "--report")
    assert done.status == 0
    (row,) = table(tmp_path / "s" / "scores.csv")
    found = [row[name] for name in ("nearest_train", "nearest_train_identity", "lddt_ca_copy", "lddt_ca_copy_common")]
    assert found == ["twin", "1.000000", "1.000000", "1.000000"]
    helix = lddt_ca(helix_ca(40), shape).score
    assert float(row["lddt_ca_helix"]) == pytest.approx(helix, abs=1e-6)
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())["baselines"]
    gap = f"{1 - float(row['lddt_ca']):.2f}"
    assert f"below the copy of the nearest training chain by {gap} (better on 0 of 1 chains" in summary["words"]
    assert summary["standing"]["copy"] == 1.0 and summary["targets"]["t"]["nearest_train"] == "twin"
    assert f"one straight helix {helix:.3f}, copy of the nearest training chain 1.000" in summary["means"]
    page = (tmp_path / "s" / "report.html").read_text()
    for line in (f"without a model: {summary['means']}", f"the predictions: {summary['words']}"):
        assert line in done.out and line in page
    assert '<td class="text">twin</td><td>1.0000</td>' in page
    assert run(*words, "--out", tmp_path / "s", "--resume").status == 0
    assert table(tmp_path / "s" / "scores.csv") == [row]


def test_files_as_truth_have_no_baselines(case, run, tmp_path):
    """Nothing is known of training chains: the columns are there and blank."""
    run(*case, "--out", tmp_path / "s")
    for row in table(tmp_path / "s" / "scores.csv"):
        assert row["nearest_train"] == row["lddt_ca_helix"] == row["lddt_ca_copy"] == ""
    assert json.loads((tmp_path / "s" / "summary.json").read_text())["baselines"] is None
