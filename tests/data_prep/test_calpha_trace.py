"""The short way must find what reading the whole file finds, and say the same of it."""

import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.calpha_reader import _candidate, _ordinary, read_calpha, read_calpha_of
from data_prep.calpha_trace import CalphaTrace
from data_prep.structure_bytes import StructureError, read_text
from data_prep.structure_io import read_structure

ATOM = "ATOM  {serial:5d} {name:^4}{alt:1}{residue:>3} {chain}{number:4d}{code:1}   " + (
    "{x:8.3f}{y:8.3f}{z:8.3f}{q:6.2f}{b:6.2f}"
)


def line(serial, name, residue, number, chain="A", alt="", code="", q=1.0, b=30.0, seed=0):
    x, y, z = np.random.default_rng(serial + seed).uniform(-99, 99, 3)
    text = ATOM.format(
        serial=serial,
        name=name,
        alt=alt,
        residue=residue,
        chain=chain,
        number=number,
        code=code,
        x=x,
        y=y,
        z=z,
        q=q,
        b=b,
    )
    return f"{text:<76}{name[0]:>2}  \n"


def peptide(residues="ALA GLY SER TRP", chain="A", first=1, **more):
    lines, serial = [], 1
    for number, residue in enumerate(residues.split(), start=first):
        for name in ("N", "CA", "C", "O"):
            lines.append(line(serial, name, residue, number, chain, **more))
            serial += 1
    return lines


FIELDS = [*(name for name in CalphaTrace.__dataclass_fields__ if name != "cut_b_column"), "b_column"]


def of_whole_file(path):
    return [CalphaTrace.of(record) for record in read_structure(path)]


def differences(path) -> list[str]:
    """Fields in which the two ways differ; both may fail, with one message."""
    found = []
    for read in (of_whole_file, read_calpha):
        try:
            found.append(read(path))
        except StructureError as error:
            found.append(str(error))
    whole, short = found
    if isinstance(whole, str) or isinstance(short, str) or len(whole) != len(short):
        return [] if whole == short else [f"{whole} and {short}"]
    return [
        f"{path}: {name}: {getattr(a, name)} and {getattr(b, name)}"
        for a, b in zip(whole, short, strict=True)
        for name in FIELDS
        if not same(getattr(a, name), getattr(b, name))
    ]


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if hasattr(a, "of_ca"):  # atoms in any order
        return same(a.of_ca, b.of_ca) and same(a.n_atoms, b.n_atoms) and sorted(a.values) == sorted(b.values)
    return a == b


def is_ordinary(path) -> bool:
    text = read_text(path)
    candidate = _candidate(text) if text.format == "pdb" else None
    return candidate is not None and _ordinary([candidate]) is not None


def test_real_files_are_read_alike(structures_dir):
    files = sorted(structures_dir.iterdir())[::8]
    wrong = [word for path in files for word in differences(path)]
    assert files and not wrong, "\n".join(wrong[:10])
    assert sum(map(is_ordinary, files)) > len(files) // 4, "the short way is for most files"


def test_damaged_files_are_read_alike(bad_inputs_dir):
    files = [path for path in sorted(bad_inputs_dir.rglob("*")) if path.is_file()]
    wrong = [word for path in files for word in differences(path)]
    assert files and not wrong, "\n".join(wrong[:10])


ORDINARY = {
    "plain": peptide(),
    "two chains": [*peptide(), "TER\n", *peptide(chain="B"), "TER\n", "END\n"],
    "one model": ["MODEL        1\n", *peptide(), "ENDMDL\n", "END\n"],
    "no line end": [*peptide(), "END"],
    "only alpha carbons": [one for one in peptide() if " CA " in one],
    "hydrogens": [*peptide(), line(90, "H", "TRP", 4), line(91, "HA", "TRP", 4, b=0.0)],
    "insertion codes": [*peptide("ALA"), *peptide("GLY", code="A"), *peptide("TRP", first=2)],
    "conformers": [
        *peptide("ALA"),
        *(line(50 + i, name, "GLY", 2, alt=alt, q=q, seed=ord(alt)) for alt, q in (("A", 0.3), ("B", 0.7))
          for i, name in enumerate(("N", "CA", "C", "O"))),
    ],
    "water after the chain": [*peptide(), "TER      17      TRP A   4".ljust(80) + "\n",
                              line(60, "O", "HOH", 101).replace("ATOM  ", "HETATM")],
    "record names": ["ATOM-" + peptide()[0][5:], *peptide()[1:]],
    "no alpha carbon in one residue": [one for one in peptide() if not (" CA " in one and "SER" in one)],
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_take_the_short_way(name, tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text("".join(ORDINARY[name]))
    assert is_ordinary(path) and not differences(path)


UNUSUAL = {
    "selenomethionine": peptide("ALA MSE GLY"),
    "sequence": ["SEQRES   1 A    5  ALA GLY SER TRP VAL\n", *peptide()],
    "atom twice": [*peptide(), line(99, "CA", "TRP", 4)],
    "foreign atom": [*peptide(), line(99, "CB", "GLY", 5), line(98, "SG", "ALA", 6)],
    "two models": ["MODEL        1\n", *peptide(), "ENDMDL\n", "MODEL        2\n", *peptide(), "ENDMDL\n"],
    "numbers backwards": [*peptide("TRP", first=4), *peptide("SER", first=3), *peptide("ALA GLY")],
    "number twice": [*peptide("ALA"), *peptide("GLY")],
    "chain comes again": [*peptide(), *peptide(chain="B"), *peptide("SER", first=9)],
    "ligand inside": [*peptide(), line(60, "O1", "GOL", 9).replace("ATOM  ", "HETATM")],
    "atoms after TER": [*peptide(), "TER      17      TRP A   4".ljust(80) + "\n", *peptide("SER", first=9)],
    "stars": [*peptide(), line(99, "N", "GLY", 5).replace(line(99, "N", "GLY", 5)[30:54], "*" * 24)],
    "blank coordinate": [*peptide(), line(99, "N", "GLY", 5)[:46] + " " * 8 + line(99, "N", "GLY", 5)[54:]],
    "control byte": [*peptide()[:-1], peptide()[-1][:20] + "\x01" + peptide()[-1][21:]],
    "tabs": [one.replace("  ", "\t") for one in peptide()],
    "windows lines": [one.replace("\n", "\r\n") for one in peptide()],
    "other records": [*peptide(), peptide()[-1].replace("ATOM  ", "HETACM")],
    "cut off": [*peptide(), peptide()[-1][:45]],
    "end of a model that did not begin": [*peptide()[:9], "ENDMDL\n", *peptide()[9:]],
    "chain ids of two letters": [one[:20] + "B" + one[21:] for one in peptide()],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_are_read_whole(name, tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text("".join(UNUSUAL[name]), newline="")
    assert not is_ordinary(path) and not differences(path)


def test_files_are_read_together_as_alone(tmp_path):
    texts = ORDINARY | {name: UNUSUAL[name] for name in ("selenomethionine", "atom twice", "stars", "cut off")}
    paths = [tmp_path / f"{i}.pdb" for i in range(len(texts))]
    for path, lines in zip(paths, texts.values(), strict=True):
        path.write_text("".join(lines))
    (tmp_path / "empty.pdb").touch()
    together = read_calpha_of([*paths, tmp_path / "empty.pdb"])
    assert isinstance(together.pop(), StructureError)
    for name, path, traces in zip(texts, paths, together, strict=True):
        alone = read_calpha(path)
        assert len(traces) == len(alone), name
        for a, b in zip(traces, alone, strict=True):
            assert not [field for field in FIELDS if not same(getattr(a, field), getattr(b, field))], name


def test_compressed_and_damaged_streams(tmp_path):
    data = gzip.compress("".join(peptide()).encode())
    (tmp_path / "x.pdb.gz").write_bytes(data)
    assert len(read_calpha(tmp_path / "x.pdb.gz")[0]) == 4 and not differences(tmp_path / "x.pdb.gz")
    (tmp_path / "y.pdb.gz").write_bytes(data[:-8] + bytes(4) + data[-4:])
    with pytest.raises(StructureError, match="checksum"):
        read_calpha(tmp_path / "y.pdb.gz")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(sorted(ORDINARY)),
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from([*b" -.0A9Z*\n\t", 0xE9]), st.booleans()), max_size=6
    ),
)
def test_mutated_files_are_read_alike(base, edits, tmp_path):
    data = bytearray("".join(ORDINARY[base]).encode())
    for place, byte, insert in edits:
        at = place % len(data)
        data[at : at + (not insert)] = bytes([byte])
    path = tmp_path / "x.pdb"
    path.write_bytes(data)
    assert not differences(path)
