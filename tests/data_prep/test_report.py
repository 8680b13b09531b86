"""The report as a browser's parser sees it: whole, self-contained, with the numbers of the dataset."""

import html.parser
import json
import re
import shutil
import subprocess

import pytest

from data_prep import report
from data_prep.dataset import Placement, StructureDataset, write_dataset
from data_prep.histograms import histogram
from data_prep.ledger import LedgerRow
from data_prep.report import report_page
from tests.data_prep.test_dataset import make_record


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
        if tag not in ("meta", "input", "rect", "line"):
            self.open.append(tag)
        if tag == "table":
            self._table = values.get("id", "")
        elif tag == "tr":
            self.tables.setdefault(self._table, []).append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag):
        assert tag in ("meta", "input", "rect", "line") or self.open.pop() == tag
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
    chart = histogram("x", [1, 1, 2, 40, None], "units", bins=4)
    counts = [int(count) for count in re.findall(r"<title>[^<]*: (\d+)</title>", chart.svg)]
    assert sum(counts) == 4 and max(counts) == 3
    assert chart.note == "4 values, 1 to 40 units, median 1.5; 1 not stated"
    assert sum(int(c) for c in re.findall(r": (\d+)</title>", histogram("y", [0.25, 0.5, 0.5], "").svg)) == 3
    assert sum(int(c) for c in re.findall(r": (\d+)</title>", histogram("y", [0.3], "").svg)) == 1
    assert histogram("z", [None], "A").note == "no values; 1 not stated"


STUB = """
const cells = JSON.parse(process.argv[1]);
const stubs = cells.map(text => ({textContent: text, hidden: false}));
const count = {};
const field = {value: "", addEventListener: (kind, call) => { field[kind] = call; }};
const document = {
  querySelectorAll: selector => { if (selector !== "#ledger tbody tr") throw selector; return stubs; },
  getElementById: id => ({found: count, search: field})[id],
};
(document => { %s })(document);
const shown = [count.textContent];
for (const word of JSON.parse(process.argv[2])) {
  field.value = word;
  field.input();
  shown.push(stubs.map(row => row.hidden ? "-" : "x").join("") + " " + count.textContent);
}
console.log(JSON.stringify(shown));
"""


def test_the_search_hides_rows_without_the_words(page):
    """The page's script as it stands, run by node on stand-ins for the elements that it asks for."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run the page's script")
    text = page()
    assert 'id="search"' in text and 'id="found"' in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    rows = ["".join(row) for row in Page(text).tables["ledger"][1:]]
    words = ["EMPTY", "pdb rejected", "", "nowhere"]
    command = [node, "-e", STUB % script, json.dumps(rows), json.dumps(words)]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert shown == ["3 of 3 rows", "-x- 1 of 3 rows", "--x 1 of 3 rows", "xxx 3 of 3 rows", "--- 0 of 3 rows"]
