"""The report as a browser's parser sees it: whole, self-contained, with the numbers of the dataset."""

import html.parser
import json
import re

import pytest

from data_prep.dataset import report
from data_prep.dataset.ledger import LedgerRow
from data_prep.dataset.report import chart, report_page
from data_prep.dataset.store import Placement, StructureDataset
from tests.data_prep.test_dataset import make_record
from tests.datasets import write_dataset


class Page(html.parser.HTMLParser):
    """Rows of the tables by id, text, and every address that the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.loads: list[str] = []
        self.open: list[str] = []
        self._table = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[name] for name in ("src", "href") if name in values]
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "table":
            self._table = values.get("id", "")
        elif tag == "tr":
            self.tables.setdefault(self._table, []).append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert tag in ("meta", "input") or self.open.pop() == tag
        self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.tables[self._table][-1][-1] += data


@pytest.fixture
def page(tmp_path):
    records = [make_record("a_A", 30, 1, resolution=1.9, release_date="2001-02-03"), make_record("<b>_A", 12, 2)]
    placements = {"a_A": Placement("train"), "<b>_A": Placement("val", 1, 1, "a_A", 0.25)}
    rows = [
        LedgerRow("z.pdb", "", "unreadable", "empty file (0 bytes)"),
        LedgerRow("a.pdb", "A", "accepted", "", "a_A"),
        LedgerRow("\udcff.pdb", "<i>", "rejected", "too short: 3 residues"),
    ]
    write_dataset(tmp_path / "d", records, placements=placements)
    dataset = StructureDataset(tmp_path / "d")

    def make() -> str:
        text = report_page(dataset.table, rows, dataset.description)["report.html"]
        assert text == report_page(dataset.table, rows, dataset.description)["report.html"]
        return text

    return make


def test_numbers_of_the_dataset(page):
    shown = Page(page())
    assert shown.open == [] and shown.loads == [], "whole, and nothing is loaded from elsewhere"
    assert shown.tables["splits"][1:] == [["train", "1", "1", "30"], ["val", "1", "1", "12"]]
    assert shown.tables["nearest"][1:] == [["<b>_A", "val", "a_A", "0.250"]], "names are text, not markup"
    assert [row[:2] for row in shown.tables["reasons"][1:]] == [
        ["unreadable", "empty file"],
        ["rejected", "too short"],
    ]
    assert [row[2] for row in shown.tables["ledger"][1:]] == ["accepted", "unreadable", "rejected"]


def test_a_long_ledger_is_cut_and_says_so(page, monkeypatch):
    monkeypatch.setattr(report, "MAX_ROWS", 2)
    text = page()
    assert len(Page(text).tables["ledger"]) == 1 + 2 and "The first 2 of 3 rows" in text


def test_histogram_counts_every_value():
    drawn = chart("x", [1, 1, 2, 40, None], "units", bins=4)
    counts = [int(count) for count in re.findall(r"<title>[^<]*: (\d+)</title>", drawn.plot.__html__())]
    assert sum(counts) == 4 and max(counts) == 3
    assert drawn.note == "4 values, 1 to 40 units, median 1.5; 1 not stated"
    assert sum(int(c) for c in re.findall(r": (\d+)</title>", chart("y", [0.25, 0.5, 0.5], "").plot.__html__())) == 3
    assert sum(int(c) for c in re.findall(r": (\d+)</title>", chart("y", [0.3], "").plot.__html__())) == 1
    assert chart("y", [0.25, 34350.0], "").note == "2 values, 0.25 to 34350, median 1.718e+04"
    assert chart("z", [None], "A").note == "no values; 1 not stated"


SEARCH = """
const field = document.getElementById("search"), found = document.getElementById("found");
const rows = [...document.querySelectorAll("#ledger tbody tr")];
const shown = [found.textContent];
for (const words of %s) {
  field.value = words;
  field.dispatchEvent(new InputEvent("input"));
  shown.push(rows.map(row => row.getBoundingClientRect().height > 0 ? "x" : "-").join("") + " " + found.textContent);
}
const bars = [...document.querySelectorAll("svg .mark, .share div")].map(bar => bar.getBoundingClientRect());
return {shown, drawn: bars.filter(box => box.width > 0 && box.height > 0).length,
        wide: document.documentElement.scrollWidth > innerWidth};
"""


def test_the_page_in_a_browser(page, tmp_path, browser):
    """The search hides the rows without the words, the charts are drawn, and nothing is asked from elsewhere."""
    (tmp_path / "report.html").write_text(page(), encoding="utf-8", errors="backslashreplace")
    words = ["EMPTY", "pdb rejected", "", "nowhere", "<i>"]
    opened = browser(tmp_path / "report.html", SEARCH % json.dumps(words))
    assert opened.failures == [] and opened.requests == []
    assert opened.value["shown"] == [
        "3 of 3 rows",
        *("-x- 1 of 3 rows", "--x 1 of 3 rows", "xxx 3 of 3 rows", "--- 0 of 3 rows", "--x 1 of 3 rows"),
    ]
    assert opened.value["drawn"] > 6 and not opened.value["wide"]
