import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from data_prep.structure.io import write_pdb
from evaluation.output import summarise
from evaluation.report import distance_differences, write_plots
from evaluation.run import Row, Settings
from evaluation.score import score_pair


@pytest.fixture
def rows(record, walk, sequence) -> list[Row]:
    letters, shape = sequence(30, 0), walk(30, 0)
    moved = shape.copy()
    moved[4] += 3.0
    truth = record(letters, shape)
    plddt = np.linspace(30, 90, 30)
    prediction = record(letters, moved, present=np.arange(30) != 9, b_factors=plddt, backbone=True)
    return [
        Row("bad/one", "partial", score=score_pair([truth], [prediction])),
        Row("good", "scored", score=score_pair([truth], [truth])),
        Row("gone", "missing"),
    ]


def test_the_map_is_the_difference_of_distances(rows):
    difference = distance_differences(rows[0])
    true, pred = rows[0].score.trace.true, rows[0].score.trace.pred
    expected = np.linalg.norm(pred[4] - pred[19]) - np.linalg.norm(true[4] - true[20])
    assert difference[4, 20] == pytest.approx(expected, abs=1e-5) and abs(expected) > 0.1
    assert difference[3, 20] == pytest.approx(0, abs=1e-5)
    assert np.isnan(difference[9]).all() and not np.isnan(np.delete(np.delete(difference, 9, 0), 9, 1)).any()


def test_files_are_whole_and_the_same_again(rows, tmp_path):
    summary = summarise(rows, Settings(), 0, [])
    written = write_plots(tmp_path / "plots", rows, summary)
    names = ["histogram.svg", "length.svg", "confidence.svg", "residues_bad_one.svg", "distances_bad_one.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(names)
    for path in written[:-1]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert written[-1].read_bytes().startswith(b"\x89PNG")
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_plots(tmp_path / "plots", rows, summary)] == before


def test_chosen_targets_are_drawn(rows, tmp_path):
    summary = summarise(rows, Settings(), 0, [])
    names = {path.name for path in write_plots(tmp_path, rows, summary, ["good"])}
    assert {"residues_good.svg", "distances_good.png"} < names and not any("bad" in name for name in names)
    empty = write_plots(tmp_path / "none", rows[2:], summarise(rows[2:], Settings(), 0, []))
    assert [path.name for path in empty] == ["histogram.svg", "length.svg"]


def test_no_drawing_takes_the_place_of_another(rows, tmp_path):
    twins = [replace(rows[0], target=name) for name in ("a b", "a_b", "A:B", "x" * 200, "x" * 201)]
    wanted = [row.target for row in twins]
    written = write_plots(tmp_path, twins, summarise(twins, Settings(), 0, []), [*wanted, "a b"])
    drawn = [path.name.removesuffix(".svg") for path in written if path.name.startswith("residues")]
    assert drawn == [f"residues_{name}" for name in ("a_b", "a_b_2", "A_B_3", "x" * 60, "x" * 60 + "_2")]
    assert all(path.is_file() for path in written)


def test_plots_by_the_command(run, tmp_path, record):
    for directory in ("p", "t"):
        (tmp_path / directory).mkdir()
        write_pdb(tmp_path / directory / "x.pdb", [record("ACDEFGHIKL")])
    found = run(tmp_path / "p", tmp_path / "t", "--out", tmp_path / "o", "--plots", "--plot-target", "y")
    assert found.status == 0 and "residues_x.svg" in found.out
    assert "--plot-target y: no target of this name has a score" in found.err
    assert "add --out DIR" in run(tmp_path / "p", tmp_path / "t", "--plots").err
    assert "add --plots" in run(tmp_path / "p", tmp_path / "t", "--plot-target", "x").err
