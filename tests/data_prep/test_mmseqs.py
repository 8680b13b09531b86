"""The call of MMseqs2 and what is made of its result, with a stand-in that writes such a result."""

import os
import stat
import sys

import pytest

from data_prep import mmseqs
from data_prep.clusters import Similarity, similarities
from data_prep.mmseqs import MmseqsError, similar_pairs

STAND_IN = """#!{python}
import sys
if sys.argv[1] == "version":
    print("15-test")
    sys.exit()
assert sys.argv[1] == "easy-search" and sys.argv[2] == sys.argv[3], sys.argv
assert sys.argv[sys.argv.index("--format-output") + 1] == "query,target,nident,raw"
open(sys.argv[4], "w").write({result!r})
{last}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    def make(result: str, last: str = "") -> None:
        program = tmp_path / "bin" / "mmseqs"
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN.format(python=sys.executable, result=result, last=last))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return make


def test_pairs_of_its_result(stand_in, tmp_path):
    stand_in("0\t0\t10\t99\n0\t1\t4\t50\n1\t0\t5\t50\n0\t2\t9\t39.9\n2\t1\t3\t40\n")
    found = similar_pairs(["A" * 10, "C" * 20, "D" * 30], min_score=40, work=tmp_path)
    assert found == [(0, 1, 0.5), (1, 2, 0.15)] and [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert mmseqs.is_installed() and mmseqs.version() == "15-test"


def test_identical_sequences_are_searched_once(stand_in, tmp_path):
    stand_in("0\t1\t4\t50\n")
    found = similarities(["AAAA", "CCCCC", "AAAA"], method="mmseqs", keep=tmp_path)
    assert found == [Similarity(0, 1, 1.0), Similarity(0, 2, 1.0), Similarity(1, 2, 1.0)]


def test_its_failure_is_one_line(stand_in, monkeypatch):
    stand_in("", "sys.exit('first line\\nout of memory')")
    with pytest.raises(MmseqsError, match=r"^mmseqs easy-search failed with exit status 1: out of memory$"):
        similar_pairs(["A"], min_score=40)
    stand_in("0 1 nonsense\n")
    with pytest.raises(MmseqsError, match="a result without the columns"):
        similar_pairs(["A", "C"], min_score=40)
    monkeypatch.setenv("PATH", "")
    assert not mmseqs.is_installed()
    with pytest.raises(MmseqsError, match="mmseqs: cannot be run"):
        mmseqs.version()
