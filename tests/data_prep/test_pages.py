"""The one page and the one plotter: whole, escaped, the same bytes again, loaded late."""

import subprocess
import sys

import numpy as np
import pytest

from data_prep.pages import curves, curves_with_spread, dots_by_name, histogram, json_for_script, scatter, viewer

PLOTS = {
    "curves": curves({"a": [(1, 2.0), (2, 3.0)], "b": np.ones((5000, 2))}, "x", "y", log=True),
    "scatter": scatter([(0.1, 0.2), (0.5, 0.6)], "x", "y", tips=["<one>", "two"], square=True),
    "histogram": histogram([1, 1, 2], np.array([0.5, 1.5, 2.5, 3.5]), "x", "n", "A"),
    "spread": curves_with_spread({"a": [[(1, 2), (2, 3)], [(1, 3), (2, 4)]]}, "x", "y"),
    "dots": dots_by_name({"a": [0.1, 0.2], "b": [0.3]}, "score"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_element_and_the_same_again(name):
    svg = PLOTS[name].__html__()
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>") and svg == PLOTS[name].__html__()


def test_marks_say_what_they_are():
    assert "<title>&lt;one&gt;</title></use>" in PLOTS["scatter"].__html__()
    svg = PLOTS["histogram"].__html__()
    assert svg.count("</title></path>") == 2 and "<title>0.5 to 1.5 A: 2</title>" in svg, "an empty bin has no bar"


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_files_are_whole_and_the_same_again(kind, begin, tmp_path):
    written = [PLOTS["scatter"].save(tmp_path / f"{n}.{kind}").read_bytes() for n in (1, 2)]
    assert written[0] == written[1] and written[0].startswith(begin)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"1.{kind}", f"2.{kind}"]


def test_nothing_ends_the_script_element():
    assert json_for_script({"a": "</script>"}) == '{"a":"\\u003c/script>"}'


def test_the_viewer_comes_with_its_licence():
    assert "3Dmol" in viewer()["library"] and "Copyright (c) 2014, University of Pittsburgh" in viewer()["licence"]


def test_what_draws_is_loaded_when_something_is_drawn():
    code = "import sys, data_prep.pages; print([name for name in ('matplotlib', 'jinja2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
