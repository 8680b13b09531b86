"""The call of MMseqs2 and what is made of its result, with a stand-in that writes such a result."""

import os
import stat
import sys

import pytest

from data_prep.dataset.clusters import (
    MmseqsError,
    candidate_pairs,
    mmseqs_is_installed,
    mmseqs_version,
    similarities,
)
from tests.data_prep.test_clusters import mutated, random_sequence

STAND_IN = """#!{python}
import sys
if sys.argv[1] == "version":
    print("15-test")
    sys.exit()
assert sys.argv[1] == "easy-search" and sys.argv[2] == sys.argv[3], sys.argv
assert sys.argv[sys.argv.index("--format-output") + 1] == "query,target"
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
    stand_in("0\t0\n0\t1\n1\t0\n2\t1\n")
    found = candidate_pairs(["A" * 10, "C" * 20, "D" * 30], work=tmp_path)
    assert found == [(0, 1), (1, 2)] and [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert mmseqs_is_installed() and mmseqs_version() == "15-test"


def test_what_it_finds_is_aligned(stand_in, tmp_path):
    """Of three relatives it finds two pairs, and one that scores too little: neither score nor identity are its own."""
    base = random_sequence(80, 1)
    sequences = [base, mutated(base, 20), mutated(base, 40), random_sequence(80, 2)]
    stand_in("0\t1\n2\t0\n0\t3\n")
    exact = {(pair.i, pair.j): pair for pair in similarities(sequences)}
    assert similarities(sequences, method="mmseqs", keep=tmp_path) == [exact[0, 1], exact[0, 2]]


@pytest.mark.skipif(not mmseqs_is_installed(), reason="needs MMseqs2 (apt-get install mmseqs2)")
def test_the_program_itself_finds_relatives(tmp_path):
    base, other = random_sequence(150, 1), random_sequence(150, 2)
    sequences = [base, mutated(base, 30), other, mutated(other, 15), mutated(base, 45, 2), random_sequence(90, 3)]
    found = similarities(sequences, method="mmseqs", keep=tmp_path)
    exact = {(pair.i, pair.j): pair.identity for pair in similarities(sequences)}
    assert {(0, 1), (0, 4), (1, 4), (2, 3)} <= {(pair.i, pair.j) for pair in found}
    assert all(pair.identity == exact[pair.i, pair.j] for pair in found)
    assert list(tmp_path.iterdir()) == []


def test_its_failure_is_one_line(stand_in, monkeypatch):
    stand_in("", "sys.exit('first line\\nout of memory')")
    with pytest.raises(MmseqsError, match=r"^mmseqs easy-search failed with exit status 1: out of memory$"):
        candidate_pairs(["A"])
    stand_in("0 1 nonsense\n")
    with pytest.raises(MmseqsError, match="a result without the columns"):
        candidate_pairs(["A", "C"])
    monkeypatch.setenv("PATH", "")
    assert not mmseqs_is_installed()
    with pytest.raises(MmseqsError, match="mmseqs: cannot be run"):
        mmseqs_version()
