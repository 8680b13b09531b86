"""Real files, mutated, on either side of the evaluator: it never crashes, never hangs, and prints no number that cannot
be. ``FUZZ_EXAMPLES=2000`` searches longer, from another seed every time."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.structure.io import read_structure, write_mmcif
from evaluation.lddt import main
from evaluation.run import STATUSES

BUNDLED = Path(__file__).resolve().parents[2] / "pipeline" / "demo_structures"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

SHARES = (
    "lddt_ca", "lddt_ca_common", "lddt_ca_mean_per_residue", "lddt_ca_intra", "lddt_ca_strict", "coverage", "lddt_all",
    "tm_score", "gdt_ts", "gdt_ha", "identity", "plddt_ece",
)  # fmt: skip

NUMBERS = (
    b"********",
    b"     nan",
    b"     inf",
    b"    1e30",
    b"   -1e38",
    b" 1e-300 ",
    b"-9999.999",
    b"99999999",
    b"0",
)
WORDS = (
    b"A",
    b"?",
    b".",
    b"'",
    b"_",
    b"UNK",
    b"MSE",
    b" CA ",
    b"HETATM",
    b"ATOM  ",
    b"TER",
    b"ENDMDL",
    b"MODEL",
    b"    ",
)
FIELDS = st.sampled_from((*NUMBERS, *WORDS, b"\x00", b"\xff\xfe"))
PLACE = st.floats(0, 1, exclude_max=True)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["delete", "repeat", "move"]), PLACE, PLACE, st.integers(1, 60)),
        st.tuples(st.just("cut"), PLACE),
        st.tuples(st.just("write"), PLACE, st.integers(0, 79), FIELDS),
        st.tuples(st.just("column"), st.integers(0, 79), FIELDS),
        st.tuples(
            st.just("replace"),
            st.sampled_from([b" CA ", b"ALA", b" A ", b"ATOM  ", b"\n", b"."]),
            FIELDS,
            st.integers(1, 400),
        ),
        st.tuples(st.just("flip"), PLACE, st.integers(1, 255)),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, mutations: list[tuple]) -> bytes:
    """Applies mutations in their order; places are shares of the file's length."""
    for kind, *how in mutations:
        lines = data.splitlines(keepends=True) or [b""]
        if kind in ("delete", "repeat", "move"):
            start, stop = int(how[0] * len(lines)), int(how[0] * len(lines)) + how[2]
            piece, rest = lines[start:stop], lines[:start] + lines[stop:]
            there = int(how[1] * len(rest))
            lines = rest if kind == "delete" else (lines if kind == "repeat" else rest)
            data = b"".join(lines if kind == "delete" else lines[:there] + piece + lines[there:])
        elif kind == "cut":
            data = data[: int(how[0] * len(data))]
        elif kind == "write":
            number = int(how[0] * len(lines))
            lines[number] = lines[number][: how[1]] + how[2] + lines[number][how[1] + len(how[2]) :]
            data = b"".join(lines)
        elif kind == "column":
            data = b"".join(line[: how[0]] + how[1] + line[how[0] + len(how[1]) :] for line in lines)
        elif kind == "replace":
            data = data.replace(*how)
        elif data:
            place = int(how[0] * len(data))
            data = data[:place] + bytes([data[place] ^ how[1]]) + data[place + 1 :]
    return data


@cache
def original(ending: str) -> bytes:
    """The first residues of a real chain, as PDB or as mmCIF."""
    source = min(BUNDLED.glob("*.pdb.gz"), key=lambda path: path.stat().st_size)
    atoms = [line for line in gzip.decompress(source.read_bytes()).splitlines(keepends=True) if line[:4] == b"ATOM"]
    pdb = b"".join(atoms[:240])
    if ending == ".pdb":
        return pdb
    with TemporaryDirectory() as folder:
        path = Path(folder) / "real.pdb"
        path.write_bytes(pdb)
        write_mmcif(path.with_suffix(".cif"), read_structure(path))
        return path.with_suffix(".cif").read_bytes()


def check(out: Path) -> None:
    """Every number that was written is one that can be."""
    with (out / "scores.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] in STATUSES
    assert bool(row["lddt_ca"]) == (row["status"] in ("scored", "partial")) and (row["lddt_ca"] or row["reason"])
    for name in SHARES:
        assert row[name] == "" or 0 <= float(row[name]) <= 1, (name, row[name])
    for name in ("plddt_pearson", "plddt_spearman"):
        assert row[name] == "" or -1 <= float(row[name]) <= 1, (name, row[name])
    assert row["rmsd_common"] == "" or 0 <= float(row["rmsd_common"]) < float("inf")
    assert row["mean_plddt"] == "" or 0 <= float(row["mean_plddt"]) <= 100
    with (out / "per_residue.csv").open(newline="") as file:
        for residue in csv.DictReader(file):
            for name in ("lddt_ca", "lddt_all"):
                assert residue[name] == "" or 0 <= float(residue[name]) <= 1, (name, residue)
            assert residue["plddt"] == "" or 0 <= float(residue["plddt"]) <= 100
    json.loads(
        (out / "summary.json").read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} in summary")
    )


@settings(
    max_examples=EXAMPLES or 120,
    derandomize=not EXAMPLES,
    deadline=10_000,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    mutations=MUTATIONS,
    ending=st.sampled_from([".pdb", ".cif"]),
    side=st.sampled_from(["preds", "truth", "both"]),
    match=st.sampled_from(["auto", "number", "label", "align"]),
)
def test_no_mutated_real_file_breaks_it(mutations, ending, side, match):
    with TemporaryDirectory() as folder:
        files = {}
        for whose in ("preds", "truth"):
            mutated = side in (whose, "both")
            files[whose] = Path(folder) / f"{whose}{ending if mutated else '.pdb'}"
            files[whose].write_bytes(mutate(original(ending), mutations) if mutated else original(".pdb"))
        out = Path(folder) / "out"
        options = ["--match", match, "--min-identity", "0", "--all-atom", "--superposition", "--out", str(out)]
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main([str(files["preds"]), str(files["truth"]), *options])
        assert status in (0, 1), err.getvalue()
        assert not re.search(r"(mean|median|Pearson|Spearman|error|\[) (nan|inf)\b", said.getvalue())
        check(out)


def test_mutations_do_what_they_say():
    data = b"one\ntwo\nsix\n"
    assert mutate(data, [("delete", 0.4, 0.0, 1)]) == b"one\nsix\n"
    assert mutate(data, [("repeat", 0.4, 0.0, 1)]) == b"two\none\ntwo\nsix\n"
    assert mutate(data, [("move", 0.7, 0.0, 1)]) == b"six\none\ntwo\n"
    assert mutate(data, [("cut", 0.5)]) == b"one\ntw"
    assert mutate(data, [("write", 0.4, 1, b"A")]) == b"one\ntAo\nsix\n"
    assert mutate(data, [("column", 0, b"?")]) == b"?ne\n?wo\n?ix\n"
    assert mutate(data, [("replace", b"\n", b".", 2)]) == b"one.two.six\n"
    assert mutate(data, [("flip", 0.0, 1)]) == b"nne\ntwo\nsix\n"
