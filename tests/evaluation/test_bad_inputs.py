"""Damaged files and awkward directories end as the table beside them says (``--bad-inputs-dir``)."""

import csv
import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from data_prep.structure.io import structure_stem
from evaluation.targets import structure_files


def expected_rows(directory: Path, stage: str) -> list[dict[str, str]]:
    with (directory / "expected.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == stage]
    assert rows, f"no row of stage {stage}"
    return rows


def scores(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def exit_statuses(text: str) -> tuple[set[int], set[int]]:
    """Allowed exit statuses without and with --strict, from such as ``exit 0, or 1 with --strict`` and ``non-zero``."""
    if text == "non-zero":
        return {1, 2}, {1, 2}
    plain, _, strict = text.partition(", or ")
    allowed = {int(digit) for digit in re.findall(r"\d", plain)}
    assert allowed, f"no exit status in {text!r}"
    return allowed, {int(digit) for digit in re.findall(r"\d", strict)} or allowed


def expected_numbers(text: str) -> dict[str, float]:
    """``a 1.0; mean 1.0 over scored, 0.5 with missing as 0`` by what the numbers are of."""
    patterns = {
        "mean": r"mean ([\d.]+) over scored",
        "mean_missing_as_0": r"([\d.]+) with missing as 0",
        "lddt_ca_common": r"common ([\d.]+)",
        "lddt_ca": r"^(?:lddt_ca |\w+ )?([\d.]+)",
    }
    found = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    return {name: float(match[1]) for name, match in found.items() if match}


def test_evaluator_cases(bad_inputs_dir, run, tmp_path):
    wrong = []
    for number, case in enumerate(expected_rows(bad_inputs_dir, "evaluator")):
        folder, out = bad_inputs_dir / case["path"], tmp_path / str(number)
        done = run(folder / "preds", folder / "truth", "--out", out)
        strict = run(folder / "preds", folder / "truth", "--strict")
        allowed, allowed_strict = exit_statuses(case["expected_status"])
        if done.status not in allowed or strict.status not in allowed_strict:
            wrong.append(f"{case['case']}: exit {done.status}, {strict.status} with --strict: {done.out}{done.err}")
        if done.status == 2:
            if not done.err.startswith("error: ") or done.err.count("\n") != 1:
                wrong.append(f"{case['case']}: not one line: {done.err}")
            continue
        rows, summary = scores(out), json.loads((out / "summary.json").read_text())
        best = next((row for row in rows if row["lddt_ca"]), None)
        values = {
            "mean": summary["scored"]["lddt_ca"]["mean"],
            "mean_missing_as_0": summary["missing_as_0"]["lddt_ca"]["mean"],
        }
        for name, value in expected_numbers(case["expected_value"]).items():
            found = values.get(name) if name in values else best and best[name]
            if found is None or abs(float(found) - value) > 1e-6:
                wrong.append(f"{case['case']}: {name} is {found}, expected {value}")
        if done.status == 1 and not any(row["status"] == "failed" and row["reason"] for row in rows):
            wrong.append(f"{case['case']}: exit 1 without a reason")
        if not case["expected_value"] and done.status == 1 and best is not None:
            wrong.append(f"{case['case']}: a number where none was expected: {best['lddt_ca']}")
    assert not wrong, "\n".join(wrong)


def test_what_each_case_says(bad_inputs_dir, run, tmp_path):
    """Words of the report that a person needs, found by what the table asks for."""
    asked = {
        "identity too low": "sequence identity too low",
        "0 CA atoms": "0 CA atoms",
        "is empty": "empty file",
        "names differ": "residue name(s) differ",
        "numbers do not match": "residue numbers do not match, the sequences were aligned",
        "no prediction": "missing: no prediction of this name",
        "no truth file": "extra: no truth of this name",
        "no structure files": "no structure files in",
        "no counterpart": "has no counterpart in the prediction",
        "2 chains": "prediction has 2 chains, truth 1",
    }
    seen = 0
    for number, case in enumerate(expected_rows(bad_inputs_dir, "evaluator")):
        folder, out = bad_inputs_dir / case["path"], tmp_path / str(number)
        done = run(folder / "preds", folder / "truth", "--out", out)
        said = done.out + done.err
        if (out / "scores.csv").exists():
            said += (out / "scores.csv").read_text()
        for ask, answer in asked.items():
            if ask in case["expected_report"]:
                seen += 1
                assert answer in said, f"{case['case']}: {said}"
    assert seen


def test_damaged_files_against_themselves(bad_inputs_dir, run, tmp_path):
    """A file scored against itself: 1.0 where it can be read, a failed row with a reason where it cannot."""
    wrong = []
    for number, case in enumerate(expected_rows(bad_inputs_dir, "both")):
        path, out = bad_inputs_dir / case["path"], tmp_path / str(number)
        if case["expected_status"] == "skip":
            assert path not in structure_files(path.parent)
            continue
        if "duplicate stems" in case["case"]:  # a case of two names: give the file a twin, whether it has one or not
            folder = tmp_path / f"{number}_twins"
            folder.mkdir()
            shutil.copyfile(path, folder / path.name)
            (folder / f"{structure_stem(path)}.ent.gz").write_bytes(gzip.compress(path.read_bytes()))
            path = folder
        done = run(path, path, "--out", out)
        if done.err or done.status not in (0, 1):
            wrong.append(f"{case['case']}: exit {done.status}: {done.err}")
            continue
        (row,) = scores(out)
        if case["expected_status"] == "error" and not (
            done.status == 1 and row["status"] == "failed" and row["reason"]
        ):
            wrong.append(f"{case['case']}: {row['status']} {row['lddt_ca']}, expected an error")
        if case["expected_status"] in ("ok", "warning") and (done.status != 0 or row["lddt_ca"] != "1.000000"):
            wrong.append(f"{case['case']}: {row['status']} {row['lddt_ca']} {row['reason']}, expected 1.0")
        if case["expected_status"] == "warning" and not row["warnings"]:
            wrong.append(f"{case['case']}: no warning")
        counted = re.match(r"(\d+) residues", case["expected_report"])
        if counted and row["n_truth"] not in ("", counted[1]):
            wrong.append(f"{case['case']}: {row['n_truth']} residues, expected {counted[1]}")
    assert not wrong, "\n".join(wrong)


def test_the_parsers_of_the_table():
    assert exit_statuses("exit 0, or 1 with --strict") == ({0}, {1})
    assert exit_statuses("exit 1 or 2") == ({1, 2}, {1, 2})
    assert exit_statuses("non-zero") == ({1, 2}, {1, 2})
    assert expected_numbers("a 1.0; mean 1.0 over scored, 0.5 with missing as 0") == {
        "mean": 1.0,
        "mean_missing_as_0": 0.5,
        "lddt_ca": 1.0,
    }
    assert expected_numbers("lddt_ca 0.942238; common 1.000000") == {"lddt_ca": 0.942238, "lddt_ca_common": 1.0}
    assert expected_numbers("") == {}
    with pytest.raises(AssertionError):
        exit_statuses("fine")
