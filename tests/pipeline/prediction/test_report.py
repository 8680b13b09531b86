"""The page of a directory of predictions, opened in a browser: rows, structure, curve, error map."""

import base64
import json
import re
from dataclasses import replace

import gemmi
import numpy as np
import pytest
from markupsafe import escape

from pipeline.prediction.report import MAP_PIXELS, RESIDUE_BYTES, PageDetails, page_bytes, write_report
from pipeline.prediction.rows import PredictionRow
from tests.browser import CHROMIUM, open_page
from tests.pipeline.prediction.conftest import rows

HEADER = "<script>alert('x')</script> & more"
SEQUENCES = {"a": "MKTAYIAKQRQISFVKSHFSRQLE", "b": "GSHMLXEEKQRAAL:MKTAYIAK", "bad": "M1"}


@pytest.fixture(scope="module")
def page(tmp_path_factory, weights_path):
    """A page of a chain with a relaxed structure, a complex with an unknown residue, and a record that was rejected."""
    from pipeline.predict import main

    folder = tmp_path_factory.mktemp("report")
    fasta = folder / "s.fasta"
    fasta.write_text("".join(f">{name} {HEADER}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    words = ["--run", weights_path, "--fasta", fasta, "--out", folder / "out", "--device", "cpu"]
    assert main([str(word) for word in words]) == 1
    out = folder / "out"
    assert "relaxed</th>" not in (out / "report.html").read_text(), "no column without a value"
    (out / "relaxed").mkdir()
    moved = gemmi.read_structure(str(out / "a.pdb"))
    for atom in moved[0].all():
        atom.atom.pos.x += 1
    (out / "relaxed" / "a.pdb").write_text(moved.make_pdb_string())
    found = [PredictionRow.from_cells(row) for row in rows(out)]
    relaxed = [replace(row, relaxed="done", relaxed_clashes=7) if row.name == "a" else row for row in found]
    return write_report(out, relaxed, "a model")


def test_headers_are_text_and_every_row_is_there(page):
    text = page.read_text()
    assert HEADER not in text and text.count(str(escape(HEADER))) == 3
    assert "rejected: &#39;1&#39; at position 2" in text
    assert "<th>ipTM</th>" in text and "<th>clashes, relaxed</th>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_a_click_on_a_row_shows_atoms(page):
    script = """
    const seen = {};
    const pixels = (canvas) =>
      new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size;
    seen.before = document.getElementById("detail").hidden;
    for (const name of ["a", "b"]) {
      [...document.querySelectorAll("td button")].find((button) => button.textContent === name).click();
      const atoms = viewer.selectedAtoms({});
      seen[name] = {
        atoms: atoms.length, chains: [...new Set(atoms.map((atom) => atom.chain))], b: atoms[0].b, x: atoms[1].x,
        title: document.getElementById("detail-name").textContent,
        chosen: document.querySelector("tr.chosen").cells[0].textContent,
        curve: pixels(document.getElementById("curve")), map: pixels(document.getElementById("map")),
        error: chosen.errorAt(0, 0), canvas: document.querySelectorAll("#viewer canvas").length,
        versions: !document.getElementById("versions").hidden,
      };
      if (name === "a") {
        const version = document.getElementById("version");
        version.value = "atoms";
        version.dispatchEvent(new Event("change"));
        seen.own = viewer.selectedAtoms({})[1].x;
        version.value = "relaxed";
      }
    }
    const search = document.getElementById("search");
    search.value = "REJECTED";
    search.dispatchEvent(new Event("input"));
    seen.shown = document.getElementById("shown").textContent;
    document.querySelectorAll("th")[1].click();
    seen.sorted = [...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
    document.querySelectorAll("th")[1].click();
    seen.reversed = [...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
    return seen;
    """
    opened = open_page(page, script, seconds=180)
    assert opened.failures == [] and opened.requests == []
    seen = opened.value
    assert seen["before"] is True
    assert seen["a"]["atoms"] == 4 * 24 and seen["a"]["chains"] == ["A"], "N, CA, C and O of every residue"
    assert seen["b"]["atoms"] == 4 * 21 and seen["b"]["chains"] == ["A", "B"], "the unknown residue has none"
    assert seen["a"]["title"] == "a, 24 residues." and seen["a"]["chosen"] == "a"
    assert seen["a"]["canvas"] >= 1 and seen["a"]["curve"] > 4 and seen["a"]["map"] > 4
    lines = (page.parent / "a.pdb").read_text().splitlines()
    ca = next(line for line in lines if line.startswith("ATOM") and line[12:16].strip() == "CA")
    assert seen["own"] == pytest.approx(float(ca[30:38]), abs=0.006)
    assert seen["a"]["x"] == pytest.approx(float(ca[30:38]) + 1, abs=0.006), "the relaxed one is shown first"
    assert seen["a"]["versions"] and not seen["b"]["versions"]
    assert seen["a"]["b"] == pytest.approx(float(ca[60:66]), abs=0.06)
    (error,) = json.loads((page.parent / "a.pae.json").read_text())
    expected = error["predicted_aligned_error"][0][0]
    assert float(seen["a"]["error"].split(": ")[1].split()[0]) == pytest.approx(expected, abs=0.11)
    assert seen["shown"] == "1 of 3 sequences."
    assert seen["sorted"] == ["b", "a", "bad"] and seen["reversed"] == ["a", "b", "bad"], "blanks are last both ways"


def test_long_error_maps_are_averaged(page, tmp_path):
    n = 2 * MAP_PIXELS
    matrix = np.kron(np.arange(4).reshape(2, 2) * 8, np.ones((n // 2, n // 2), dtype=int))
    document = [{"predicted_aligned_error": matrix.tolist(), "max_predicted_aligned_error": 31.75}]
    (tmp_path / "x.pae.json").write_text(json.dumps(document))
    (tmp_path / "x.pdb").write_bytes((page.parent / "a.pdb").read_bytes())
    found = PageDetails().of_row(tmp_path, PredictionRow("x", "x.pdb")).error
    pixels = np.frombuffer(base64.b64decode(found["pixels"]), dtype=np.uint8).reshape(MAP_PIXELS, MAP_PIXELS)
    assert (found["size"], found["length"]) == (MAP_PIXELS, n)
    assert [pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]] == [0, 64, 129, 193]
    (tmp_path / "x.pae.json").write_text(json.dumps([document[0] | {"max_predicted_aligned_error": float("nan")}]))
    assert PageDetails().of_row(tmp_path, PredictionRow("x", "x.pdb")).error is None
    (tmp_path / "x.pae.json").unlink()
    assert PageDetails().of_row(tmp_path, PredictionRow("x", "x.pdb")).error is None
    assert PageDetails().of_row(tmp_path, PredictionRow("none", "none.pdb")) is None


def test_structures_beyond_the_size_of_the_page_are_rows(page, tmp_path, monkeypatch):
    """Of a chain with its relaxed structure and a complex, both with error maps, the larger one is left out."""
    found = [PredictionRow.from_cells(row) for row in rows(page.parent)]
    found[0] = replace(found[0], relaxed="done")
    size = page_bytes(24, True, True)
    assert size == 24 * 2 * RESIDUE_BYTES + 24 * 24 * 4 // 3
    monkeypatch.setattr("pipeline.prediction.report.MAX_DETAILED_BYTES", size - 1)
    for suffix in (".pdb", ".pae.json"):
        (tmp_path / f"b{suffix}").write_bytes((page.parent / f"b{suffix}").read_bytes())
    text = write_report(tmp_path, found, "a model").read_text()
    assert "Choose a row of the table. 1 structures are not in this page" in text and text.count("data-place=") == 1
    (detail,) = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert detail["name"] == "b"
    assert len(json.dumps(detail, separators=(",", ":"))) == pytest.approx(page_bytes(22, False, True), rel=0.2), (
        "the estimate"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_many_rows_are_shown_in_part_and_searched_in_full(tmp_path):
    many = [PredictionRow(f"s{i}", status="failed", reason="of old age", length=i) for i in range(1200)]
    script = """
    const seen = [], search = document.getElementById("search"), more = document.getElementById("more");
    const look = () => seen.push([
      document.getElementById("shown").textContent, more.hidden,
      [...document.querySelectorAll("tbody tr:not([hidden])")].map((row) => row.cells[0].textContent).join(" "),
    ]);
    look();
    document.querySelectorAll("th")[1].click();
    document.querySelectorAll("th")[1].click();
    look();
    search.value = "s77";
    search.dispatchEvent(new Event("input"));
    look();
    search.value = "";
    more.click();
    look();
    return seen;
    """
    opened = open_page(write_report(tmp_path, many, "a model"), script, seconds=180)
    assert opened.failures == [] and opened.requests == []
    first, reversed_, found, whole = opened.value
    names = [f"s{i}" for i in range(1200)]
    assert first == ["1200 of 1200 sequences, the first 500 are shown.", False, " ".join(names[:500])]
    assert reversed_[2] == " ".join(names[:-501:-1]) and not reversed_[1]
    assert found[:2] == ["11 of 1200 sequences.", True] and set(found[2].split()) == {"s77", *names[770:780]}
    assert whole == ["1200 of 1200 sequences.", True, " ".join(reversed(names))]


def test_no_rows_are_a_page(tmp_path):
    assert "0 sequences" in write_report(tmp_path, [], "a model").read_text()
