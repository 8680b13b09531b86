"""Sets of real pairs with known scores. Another set in the same layout runs as it is (``--lddt-golden-dir``,
``--lddt-pairs-dir``)."""

import csv
from pathlib import Path

import pytest

from data_prep.structure.io import read_structure
from evaluation.match import match_residues
from evaluation.score import score_pair


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def golden_scores(lddt_golden_dir, tmp_path_factory):
    """The command on the whole set: rows of scores.csv, and of per_residue.csv by target and residue."""
    from evaluation.lddt import main

    out = tmp_path_factory.mktemp("golden")
    pairs = lddt_golden_dir / "pairs.csv"
    directory, more = str(lddt_golden_dir), ["--all-atom", "--superposition"]
    assert main([directory, directory, "--pairs", str(pairs), "--out", str(out), *more]) == 0
    residues: dict[str, dict] = {}
    for row in table(out / "per_residue.csv"):
        residues.setdefault(row["target"], {})[row["chain"], row["number"], row["insertion_code"]] = row
    return {row["target"]: row for row in table(out / "scores.csv")}, residues


def test_golden_scores_to_six_decimals(lddt_golden_dir, golden_scores):
    """Scores and counts as seven implementations agree on them (SETTINGS.txt beside the pairs)."""
    scores, _ = golden_scores
    columns = {
        "lddt_ca": "lddt_ca",
        "lddt_ca_common": "lddt_ca_common",
        "lddt_ca_mean_per_residue": "lddt_ca_mean_per_residue",
        "lddt_ca_intra": "lddt_ca_intra_pooled",
        "lddt_ca_strict": "af2",
        "n_truth": "n_truth",
        "n_matched": "n_matched",
        "n_extra": "n_extra",
        "n_name_mismatch": "n_name_mismatch",
    }
    expected = table(lddt_golden_dir / "pairs.csv")
    wrong = [
        f"{row['name']}: {ours} {scores[row['name']][ours]}, expected {row[theirs]}"
        for row in expected
        for ours, theirs in columns.items()
        if not abs(float(scores[row["name"]][ours] or "nan") - float(row[theirs])) <= 1e-6
    ]
    assert expected and not wrong, "\n".join(wrong)


def test_golden_residues_to_six_decimals(lddt_golden_dir, golden_scores):
    _, residues = golden_scores
    wrong, compared = [], 0
    for row in table(lddt_golden_dir / "pairs.csv"):
        name, ours = row["name"], residues[row["name"]]
        theirs = table(lddt_golden_dir / "per_residue" / f"{name}.csv")
        if len(theirs) != len(ours):
            wrong.append(f"{name}: {len(ours)} residues, expected {len(theirs)}")
        for residue in theirs:
            key = residue["chain"], residue["resnum"], residue["icode"]
            found = ours[key]
            compared += 1
            close = found["lddt_ca"] == residue["lddt_ca"] == "" or (
                abs(float(found["lddt_ca"] or "nan") - float(residue["lddt_ca"] or "nan")) <= 1e-6
            )
            if not close or found["in_pred"] != residue["in_pred"]:
                wrong.append(f"{name} {key}: {found['lddt_ca']}, expected {residue['lddt_ca']}")
    assert compared and not wrong, "\n".join(wrong[:20])


def test_golden_all_atom_scores(lddt_golden_dir, golden_scores):
    """OpenStructure computes in float32: an atom pair next to a threshold, of 10,000 and more, may fall on the other
    side of it. It reads the first conformer listed and we the one with the highest occupancy, so that the rows on
    alternate locations are another truth."""
    scores, _ = golden_scores
    rows = [row for row in table(lddt_golden_dir / "pairs.csv") if row["lddt_all_ost2.10"]]
    rows = [row for row in rows if row["category"] != "altloc"]
    wrong = [
        f"{row['name']}: {scores[row['name']]['lddt_all']}, expected {row['lddt_all_ost2.10']}"
        for row in rows
        if not abs(float(scores[row["name"]]["lddt_all"]) - float(row["lddt_all_ost2.10"])) <= 5e-6
    ]
    assert rows and not wrong, "\n".join(wrong)


def test_golden_superposition_scores(lddt_golden_dir, golden_scores):
    """TM-score to its 4 decimals, RMSD to its 3. GDT counts residues: the search may find one more or one fewer within
    two of the four cutoffs."""
    scores, _ = golden_scores
    wrong, compared = [], 0
    for row in table(lddt_golden_dir / "pairs.csv"):
        if not row["tm_score"]:
            continue
        one_residue = 0.25 / int(row["n_truth"])
        allowed = {"tm_score": 1e-4, "gdt_ts": 2 * one_residue + 1e-4, "gdt_ha": 2 * one_residue + 1e-4}
        for name, tolerance in (allowed | {"rmsd_common": 1e-3}).items():
            compared += 1
            found = scores[row["name"]][name]
            if not abs(float(found) - float(row[name])) <= tolerance:
                wrong.append(f"{row['name']}: {name} {found}, expected {row[name]}")
    assert compared and not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def published_pairs(lddt_pairs_dir):
    """Rows with a published value, their chains, and our score by alignment and by auto."""
    rows = [row for row in table(lddt_pairs_dir / "pairs.csv") if row["agrees_4dp"] in ("yes", "no")]
    assert rows
    scored = []
    for row in rows:
        truth = read_structure(lddt_pairs_dir / "truth" / row["truth"])
        prediction = read_structure(lddt_pairs_dir / "preds" / row["pred"])
        scored.append((row, truth, prediction, *(score_pair(truth, prediction, mode) for mode in ("align", "auto"))))
    return scored


def test_published_scores_by_alignment(published_pairs):
    """Sequence alignment alone gives every computed value to its 5 decimals and, where the two agree, every published
    value to its 4 (their last digit may have been rounded twice)."""
    wrong = []
    for row, _, _, aligned, _ in published_pairs:
        computed = float(row["computed_lddt_ca_pair_weighted"])
        mean = float(row["computed_lddt_ca_per_residue_mean"])
        if abs(aligned.lddt_ca - computed) > 1e-5 or abs(aligned.lddt_ca_mean_per_residue - mean) > 1e-5:
            wrong.append(f"{row['pred']}: {aligned.lddt_ca:.6f}, expected {computed}")
        if row["agrees_4dp"] == "yes" and abs(aligned.lddt_ca - float(row["published_lddt"])) >= 1e-4:
            wrong.append(f"{row['pred']}: {aligned.lddt_ca:.6f}, published {row['published_lddt']}")
        if aligned.n_matched != int(row["n_matched"]):
            wrong.append(f"{row['pred']}: {aligned.n_matched} residues matched, expected {row['n_matched']}")
    assert not wrong, "\n".join(wrong)


def test_published_scores_by_auto(published_pairs):
    """``auto`` gives the published value where that is right, and the computed one everywhere but where the residue
    numbers alone pair every residue with one of its name: they decide a tie that the alignment leaves open."""
    wrong = []
    for row, truth, prediction, aligned, auto in published_pairs:
        if row["agrees_4dp"] == "yes" and abs(auto.lddt_ca - float(row["published_lddt"])) >= 1e-4:
            wrong.append(f"{row['pred']}: {auto.lddt_ca:.6f}, published {row['published_lddt']}")
        if abs(auto.lddt_ca - float(row["computed_lddt_ca_pair_weighted"])) > 1e-5:
            number = match_residues(truth[0], prediction[0], "number")
            if auto.match != "number" or not number.identical == auto.n_truth == aligned.n_matched:
                wrong.append(f"{row['pred']}: {auto.lddt_ca:.6f} by {auto.match}, aligned {aligned.lddt_ca:.6f}")
    assert not wrong, "\n".join(wrong)
