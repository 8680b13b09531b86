import json
from math import comb

import pytest

from data_prep.files.errors import UserError
from evaluation.compare import compare, main, read_scores, sign_test


@pytest.fixture
def write(tmp_path):
    """``write(name, rows)``: a directory with a scores.csv of (target, status, value, hash of the truth)."""

    def make(name, rows):
        folder = tmp_path / name
        folder.mkdir()
        lines = ["target,status,reason,lddt_ca,rmsd_common,truth_sha256"]
        lines += [f"{target},{status},,{value},{value},{digest}" for target, status, value, digest in rows]
        (folder / "scores.csv").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture
def runs(write):
    a = write(
        "a", [("w", "scored", 0.5, "1"), ("x", "scored", 0.6, "2"), ("y", "missing", "", ""), ("z", "scored", 0.7, "3")]
    )
    b = write(
        "b",
        [("w", "scored", 0.6, "1"), ("x", "partial", 0.8, "2"), ("y", "scored", 0.9, "4"), ("z", "failed", "", "3")],
    )
    return a, b


def read_both(runs, metric="lddt_ca"):
    return [read_scores(run, metric) for run in runs]


def test_differences_by_hand(runs):
    """In both: w +0.1, x +0.2. y is new in B (+0.9 with missing as 0), z is lost (-0.7)."""
    found = compare(*read_both(runs), "lddt_ca")
    assert found.differences == pytest.approx({"w": 0.1, "x": 0.2})
    assert found.estimate.mean == pytest.approx(0.15) and found.estimate.n == 2
    assert found.estimate_missing_as_0.mean == pytest.approx((0.1 + 0.2 + 0.9 - 0.7) / 4)
    assert (found.better, found.worse, found.equal, found.p_value) == (2, 0, 0, 0.5)
    assert (found.only_a, found.only_b, found.other_truth) == (("z",), ("y",), ())


def test_less_is_better_for_a_distance(runs):
    found = compare(*read_both(runs, "rmsd_common"), "rmsd_common")
    assert (found.better, found.worse) == (0, 2)
    assert found.estimate_missing_as_0 is None, "no prediction is not 0 A away"


def test_the_interval_is_of_paired_differences(write):
    """Targets differ by 0.8 and the runs by exactly 0.01 everywhere: the interval is a point, and flagged."""
    values = [i / 64 for i in range(50)]
    a = write("a", [(f"t{i}", "scored", value, "") for i, value in enumerate(values)])
    b = write("b", [(f"t{i}", "scored", value + 0.125, "") for i, value in enumerate(values)])
    found = compare(*read_both((a, b)), "lddt_ca")
    assert (found.estimate.low, found.estimate.high, found.estimate.degenerate) == (0.125, 0.125, True)
    assert found.p_value == pytest.approx(2 / 2**50)


def test_sign_test_is_the_exact_binomial():
    assert sign_test(0, 0) is None
    assert sign_test(5, 5) == 1.0
    assert sign_test(8, 2) == sign_test(2, 8) == pytest.approx(2 * (1 + 10 + comb(10, 2)) / 1024)


def test_another_truth_is_noticed(write, capsys):
    a = write("a", [("x", "scored", 0.5, "1"), ("y", "scored", 0.5, "1")])
    b = write("b", [("x", "scored", 0.5, "2"), ("y", "scored", 0.5, "1")])
    assert main([str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "warning: 1 target(s) were scored against another truth file" in out
    assert "equal in 2: no difference to test" in out


def test_the_command(runs, tmp_path, capsys):
    assert main([str(runs[0]), str(runs[1] / "scores.csv"), "--out", str(tmp_path / "diff.json")]) == 0
    out = capsys.readouterr().out
    assert "B - A over 2 targets in both: mean 0.1500" in out
    assert "failed or missing as 0: mean 0.1250" in out
    assert "1 target(s) with a score in A alone: z" in out
    written = json.loads((tmp_path / "diff.json").read_text())
    assert written["differences"]["x"] == pytest.approx(0.2) and written["better"] == 2


@pytest.mark.parametrize(
    ("text", "metric", "found"),
    [
        (None, "lddt_ca", "does not exist: expected a scores.csv or the --out directory"),
        ("target,status\n", "lddt_ca", "no column lddt_ca; found target, status"),
        ("target,status,lddt_ca\nx,scored,high\n", "lddt_ca", "row 2 has 'high' as lddt_ca"),
        ("target,status,lddt_ca\nx,scored,1\nx,scored,1\n", "lddt_ca", "row 3 is target x once more"),
        ("lddt_ca,status,target\n1,scored\n", "lddt_ca", "row 2 has no target"),
        ("target,status,lddt_ca\nq,scored,1\n", "lddt_ca", "no target has a lddt_ca in both runs"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(runs, tmp_path, capsys, text, metric, found):
    if text is not None:
        (tmp_path / "scores.csv").write_text(text)
    assert main([str(runs[0]), str(tmp_path / "scores.csv"), "--metric", metric]) == 2
    error = capsys.readouterr().err
    assert found in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_seed_is_a_whole_number(runs, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, runs), "--seed", "-1"])
    assert "argument --seed: '-1': expected a whole number of at least 0" in capsys.readouterr().err


def test_cells_that_are_not_finite_are_refused(write, runs):
    with pytest.raises(UserError, match="expected a finite number"):
        read_scores(write("c", [("w", "scored", "nan", "")]), "lddt_ca")
