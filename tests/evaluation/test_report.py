import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evaluation.evaluate import Row, Settings
from evaluation.output import summarise
from evaluation.report import HEIGHT, WIDTH, against_length, histogram, write_report
from evaluation.score import score_pair


def test_histogram_counts_every_score_once():
    drawing = histogram([0.0, 0.049, 0.05, 0.5, 1.0])
    counts = {bar["title"].split(" from ")[1]: int(bar["title"].split()[0]) for bar in drawing["bars"]}
    assert counts == {"0.00 to 0.05": 2, "0.05 to 0.10": 1, "0.50 to 0.55": 1, "0.95 to 1.00": 1}
    tall, low = (next(bar for bar in drawing["bars"] if bar["title"].startswith(count)) for count in "21")
    assert tall["height"] == pytest.approx(2 * low["height"], abs=0.2)


def test_points_lie_inside_and_in_order():
    drawing = against_length([("a", 50, 0.2), ("b", 300, 0.9)])
    a, b = drawing["points"]
    assert 0 < a["x"] < b["x"] < WIDTH
    assert 0 < b["y"] < a["y"] < HEIGHT, "a higher score stands higher"
    assert a["title"] == "a: 0.200, 50 residues"


def test_no_scores_draw_empty_axes():
    assert histogram([])["bars"] == [] and against_length([])["points"] == []


class Tags(HTMLParser):
    """Checks that tags close in order; collects what would need the network."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br"):
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
    assert len(re.findall("<circle", page)) == 1
