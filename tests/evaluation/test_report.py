import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.output import summarise
from evaluation.report import reliability, score_histogram, scores_by_length, write_report
from evaluation.run import Row, Settings
from evaluation.score import score_pair


def tips(plot) -> dict[str, str]:
    """What stands under the pointer of each mark of a plot, and where the mark is (or its outline)."""
    found = re.findall(r'<(?:use|path) class="mark"([^>]*)><title>([^<]*)</title>', plot.__html__())
    return {title: attributes for attributes, title in found}


def scored(*values):
    """Rows of targets with a name, a length and a score."""
    return [Row(name, "scored", score=SimpleNamespace(n_truth=n, lddt_ca=score)) for name, n, score in values]


def test_histogram_counts_every_score_once():
    marks = tips(score_histogram(scored(*(("x", 9, score) for score in (0.0, 0.049, 0.05, 0.5, 1.0)))))
    assert list(marks) == ["0 to 0.05: 2", "0.05 to 0.1: 1", "0.5 to 0.55: 1", "0.95 to 1: 1"]
    heights = [np.ptp([float(y) for y in re.findall(r"[ML] \S+ (\S+)", mark)]) for mark in marks.values()]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)


def test_points_lie_in_order():
    marks = tips(scores_by_length(scored(("a", 50, 0.2), ("b", 300, 0.9))))
    assert list(marks) == ["a: 0.200, 50 residues", "b: 0.900, 300 residues"]
    a, b = ([float(re.search(f'{axis}="([^"]*)"', mark)[1]) for axis in "xy"] for mark in marks.values())
    assert 0 < a[0] < b[0] and 0 < b[1] < a[1], "a higher score stands higher"


def test_no_scores_draw_empty_axes():
    assert tips(score_histogram([])) == tips(scores_by_length([])) == {}


class Tags(HTMLParser):
    """Checks that tags close in order; collects what would need the network."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_stands_alone_and_escapes_names(tmp_path, record, sequence):
    chain = record(sequence(30, 0))
    moved = record(sequence(30, 0), chain.ca_positions + np.random.default_rng(0).normal(size=(30, 3)))
    rows = [
        Row("<b>odd & name</b>", "scored", score=score_pair([chain], [moved])),
        Row("gone", "missing", "no prediction of this name"),
    ]
    summary = summarise(rows, Settings(), 0, ["a note"])
    page = write_report(tmp_path, rows, summary).read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.links == []
    assert "&lt;b&gt;odd &amp; name&lt;/b&gt;" in page and "<b>odd" not in page
    assert "missing: no prediction of this name" in page and "a note" in page
    assert f"{rows[0].score.lddt_ca:.4f}" in page
    assert page.count("</title></use>") == 1
    assert "Copyright (c) 2014, University of Pittsburgh" in page, "the viewer's licence asks for its notice"


@pytest.fixture
def shown(tmp_path, record, walk, sequence):
    """A page of one target of two chains, a residue missing in the prediction, another moved; and its score."""
    letters, shape = sequence(24, 1), walk(24, 1)
    truth = [
        record(letters[:12], shape[:12], chain="A", numbers=range(5, 17), codes=["B"] + [""] * 11),
        record(letters[12:], shape[12:], chain="B"),
    ]
    moved = shape.copy()
    moved[3] += 2.0
    plddt = np.linspace(30, 90, 24).round(1)
    there = np.arange(24) != 7
    prediction = [
        record(letters[:12], moved[:12], chain="A", numbers=range(5, 17), codes=["B"] + [""] * 11,
               present=there[:12], b_factors=plddt[:12], backbone=True),
        record(letters[12:], moved[12:], chain="B", b_factors=plddt[12:], backbone=True),
    ]  # fmt: skip
    row = Row("</script><b>", "partial", "one is missing", score=score_pair(truth, prediction))
    summary = summarise([row], Settings(), 0, [])
    return row, write_report(tmp_path, [row], summary), moved, shape


def test_the_page_has_the_residues_of_its_targets(shown):
    row, path, moved, shape = shown
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    (target,) = json.loads(text)
    assert target["name"] == "</script><b>"
    assert (target["numbers"][0], target["numbers"][12], target["chains"][12]) == ("5B", "1", "B")
    assert target["matched"] == [int(i != 7) for i in range(24)]
    assert target["lddt"][7] == 0 and target["plddt"][7] is None and target["plddt"][0] == 30
    assert target["lddt"] == [round(1000 * value) for value in row.score.residues.columns()["lddt_ca"]]
    true, pred = (np.array(target[which]).reshape(-1, 3) / 100 for which in ("true", "pred"))
    assert np.linalg.norm(true[0] - true[20]) == pytest.approx(np.linalg.norm(shape[0] - shape[20]), abs=0.02)
    assert np.linalg.norm(pred[3] - pred[19]) == pytest.approx(np.linalg.norm(moved[3] - moved[20]), abs=0.02)
    assert np.sqrt(((pred - np.delete(true, 7, axis=0)) ** 2).sum(axis=1).mean()) < 1, "superposed"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_script_of_the_page(shown, tmp_path):
    """The functions behind the drawings, run by node on the page's own data."""
    _, path, moved, shape = shown
    page = path.read_text()
    scripts = re.findall(r'<script>\n"use strict";(.*?)</script>', page, re.DOTALL)
    assert len(scripts) == 2
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    (tmp_path / "page.js").write_text(
        "\n".join(scripts)
        + f"""
const [target] = {data};
const places = predPlaces(target);
console.log(JSON.stringify({{
  places,
  moved: distanceDifference(target, places, 3, 20),
  missing: distanceDifference(target, places, 7, 20),
  colours: [0, 4, -9, null].map(colourOf),
  name: residueName(target, 0),
  order: ["0.9", "", "10", "0.5", "x"].sort(compareCells),
  pred: viewerAtoms(target, places, "pred").map((atom) => atom.bonds),
  scores: [0, 1000, null].map(scoreColour),
}}));"""
    )
    done = subprocess.run(["node", tmp_path / "page.js"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["places"] == [i - (i > 7) if i != 7 else -1 for i in range(24)]
    difference = np.linalg.norm(moved[3] - moved[20]) - np.linalg.norm(shape[3] - shape[20])
    assert found["moved"] == pytest.approx(difference, abs=0.04) and abs(difference) > 0.2
    assert found["missing"] is None
    white, red, blue, grey = found["colours"]
    assert white == [255, 255, 255] and red[0] > red[2] and blue[2] > blue[0] and len(set(grey)) == 1
    assert found["name"].startswith("A ") and found["name"].endswith("5B")
    assert found["order"] == ["0.5", "0.9", "10", "x", ""]
    bonds = found["pred"]
    assert bonds[0] == [1] and bonds[1] == [0, 2] and bonds[6] == [5], "no bond over the missing residue"
    assert bonds[10] == [9] and bonds[11] == [12], "nor between chains"
    assert found["scores"][0] != found["scores"][1]


def test_confidence_is_drawn_where_there_is_some(shown):
    page = shown[1].read_text()
    assert "on the line, the confidence is right" in page
    marks = tips(reliability([{"n": 5, "mean_plddt": 50.0, "mean_lddt": 0.5}]))
    assert list(marks) == ["5 residues: pLDDT 50.0, lDDT 0.500"]


def test_the_page_in_a_browser(shown, browser):
    """A click on a target draws its curves, its map and the 3D view, without a request and without an error."""
    row, path, *_ = shown
    opened = browser(
        path,
        """
        const ink = (element) => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [element.width, element.height];
          const pen = canvas.getContext("2d");
          pen.drawImage(element, 0, 0);
          const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
          return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 4).join())).size;
        };
        const hidden = document.getElementById("detail").hidden;
        document.querySelector("#targets button").click();
        await new Promise((resolve) => setTimeout(resolve, 500));
        const search = document.getElementById("search");
        search.value = "no such target";
        search.dispatchEvent(new Event("input"));
        return {
          hidden,
          shown: !document.getElementById("detail").hidden,
          name: document.getElementById("detail-name").textContent,
          curves: ink(document.getElementById("curves")),
          map: ink(document.getElementById("map")),
          view: [...document.querySelectorAll("#viewer canvas")].map(ink),
          complaint: document.getElementById("viewer").textContent,
          found: document.getElementById("shown").textContent,
        };
        """,
    )
    assert opened.failures == [] and opened.requests == []
    value = opened.value
    assert value["hidden"] and value["shown"] and value["name"] == row.target
    assert value["curves"] > 5 and value["map"] > 5, "colours on the canvas"
    assert len(value["view"]) == 1 and value["view"][0] > 20, f"colours of the 3D view; {value['complaint']}"
    assert value["found"] == "0 of 1 targets."
