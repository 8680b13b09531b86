"""The demo's baseline is an alpha helix, its table says what was scored, and it deletes nothing but its own."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_prep.release import program
from data_prep.structure_io import read_structure
from pipeline.demo import DemoError, ideal_helix, main, scores_of

STRUCTURES = Path(__file__).resolve().parents[2] / "pipeline" / "demo_structures"


def test_ideal_helix():
    """Alpha carbons of an alpha helix: 3.8 angstrom to the next, 5.0 to the third, 6.2 to the fourth, right-handed."""
    record = read_structure(STRUCTURES / "d1ecaa_.pdb.gz")[0]
    helix = ideal_helix(record)
    assert len(helix) == len(record)
    assert helix.ca_mask.all()
    ca = helix.ca_positions
    for offset, distance in ((1, 3.8), (3, 5.0), (4, 6.2)):
        assert np.linalg.norm(ca[offset:] - ca[:-offset], axis=1) == pytest.approx(distance, abs=0.1)
    a, b, c = ca[1] - ca[0], ca[2] - ca[1], ca[3] - ca[2]
    assert np.dot(np.cross(a, b), c) > 0


def test_a_target_without_a_score_ends_the_demo(tmp_path):
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,scored,,0.5\n")
    assert scores_of(tmp_path) == {"a": 0.5}
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,failed,no atoms,\n")
    with pytest.raises(DemoError, match="a is failed: no atoms"):
        scores_of(tmp_path)


def test_the_demo_in_two_steps(tmp_path, capfd):
    """All commands, with a model that has learned nothing yet; then again in the same place."""
    out = tmp_path / "out"
    assert main(["--out", str(out), "--max-steps", "2"]) == 0
    title, _, *lines = (out / "summary.txt").read_text().splitlines()
    assert title == f"lDDT-Calpha of held-out chains, mean over 6; {program()}"
    means = {name: float(value) for name, value in (line.split(": ") for line in lines)}
    assert list(means) == ["straight helix", "untrained", "trained"]
    assert means["straight helix"] == pytest.approx(0.313, abs=5e-4)  # as in the README
    assert means["untrained"] == pytest.approx(0.011, abs=2e-3)
    with (out / "scores" / "scores.csv").open(newline="") as stream:
        trained = [float(row["lddt_ca"]) for row in csv.DictReader(stream)]
    assert len(trained) == 6 and means["trained"] == pytest.approx(np.mean(trained), abs=1e-4)
    assert (out / "scores" / "report.html").is_file() and (out / "run" / "report.html").is_file()
    assert "Training chains: 28. Adapter: LoRTA rank 8, 728 parameters" in capfd.readouterr().out
    (out / "run" / "config.toml").write_text("")  # whatever became of it, a demo's directory is made anew
    assert main(["--out", str(out), "--max-steps", "-1"]) == 1
    assert "max_steps" in capfd.readouterr().err and not (out / "run").exists()


def test_no_directory_but_an_earlier_demo_is_deleted(tmp_path, capsys):
    mine = tmp_path / "dataset" / "index.parquet"
    mine.parent.mkdir()
    mine.write_text("of pipeline.prepare")
    assert main(["--out", str(tmp_path)]) == 2
    assert "is not an earlier demo: choose another --out" in capsys.readouterr().err
    assert main(["--out", str(mine)]) == 2
    assert mine.read_text() == "of pipeline.prepare"
