import gzip
import random
import tracemalloc

import numpy as np
import pytest

from data_prep.dataset.shards import check_storable
from data_prep.structure.binary_cif import _decode, _unpack
from data_prep.structure.io import StructureError, read_structure, read_structure_file, write_mmcif
from tests.data_prep.bcif_bytes import binary_cif, pack
from tests.data_prep.compare import differences
from tests.data_prep.pdb_text import chain, residue, seqres, text


@pytest.fixture
def both(tmp_path):
    """A file of two chains in mmCIF, and the same in BinaryCIF."""
    lines = chain([("MET", 3), ("LYS", 4)]) + residue("TRP", 4, -900.5, icode="B")
    head = ["REMARK   2 RESOLUTION.    1.90 ANGSTROMS.", "EXPDTA    X-RAY DIFFRACTION"]
    second = chain([("SER", -1), ("GLY", 9)], chain="B")
    (tmp_path / "x.pdb").write_bytes(text(head, seqres(["ALA", "MET", "LYS", "TRP"]), lines, ["TER"], second))
    write_mmcif(tmp_path / "x.cif", read_structure(tmp_path / "x.pdb"))
    (tmp_path / "x.bcif").write_bytes(binary_cif((tmp_path / "x.cif").read_text()))
    return tmp_path / "x.cif", tmp_path / "x.bcif"


def test_the_same_records_as_from_mmcif(both):
    cif, bcif = both
    file = read_structure_file(bcif)
    assert file.format == "bcif" and [record.id for record in file.records] == ["x_A", "x_B"]
    assert [differences(a, b) for a, b in zip(read_structure(cif), file.records, strict=True)] == [[], []]
    bcif.with_name("y.bcif.gz").write_bytes(gzip.compress(bcif.read_bytes()))
    assert read_structure(bcif.with_name("y.bcif.gz"), name="x")[0].sequence == file.records[0].sequence


def test_real_entries_are_the_same_from_both(structures_dir, tmp_path):
    paths = [path for path in sorted(structures_dir.iterdir()) if path.name.endswith((".cif", ".cif.gz"))][::70]
    for path in paths:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.name.endswith(".gz") else data
        (tmp_path / "x.bcif").write_bytes(binary_cif(data.decode()))
        ours, theirs = read_structure(tmp_path / "x.bcif"), read_structure(path, name="x")
        assert [differences(a, b) for a, b in zip(ours, theirs, strict=True)] == [[]] * len(ours), path.name


def test_changed_bytes_are_read_or_refused(both):
    _, bcif = both
    original, rng, refused = bcif.read_bytes(), random.Random(0), 0
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.choice([1, 3])):
            place = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[place] = rng.randrange(256)
            else:
                del data[place : place + rng.randrange(1, 40)]
        bcif.write_bytes(data)
        try:
            for record in read_structure(bcif):
                check_storable(record)
        except StructureError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < 400


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x81", "incomplete"),
        (b"\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\x91" * 4000 + b"\x00", "StackError"),
        (b"\xc1", "FormatError"),
        (b"\xd4\x05\x00", "extension type 5"),
        (b"\xdd\x00\x00\x50\x00" + bytes(0x5000), "exceeds max_array_len"),
        (b"\x00\x00", "extra data"),
        (b"\x81\x00\x00", "not allowed for map key"),
    ],
)
def test_damaged_messages(data, message):
    with pytest.raises(ValueError, match=message):
        _unpack(data)


def test_messages_come_back():
    value = {"a": [0, 127, -32, -33, 70_000, None, b"\0\xff", "é" * 40], "b": {"c": list(range(20))}}
    assert _unpack(pack(value)) == value


def decoded(values, *encoding):
    return _decode({"data": values, "encoding": list(encoding)}).tolist()


def test_decoders_by_hand():
    """The examples of the specification's text, worked by hand."""
    as_bytes = {"kind": "ByteArray", "type": 1}
    packing = {"kind": "IntegerPacking", "byteCount": 1, "isUnsigned": False, "srcSize": 4}
    assert decoded(np.array([1, 2, 127, 1, -128, -3], "i1").tobytes(), packing, as_bytes) == [1, 2, 128, -131]
    run = {"kind": "RunLength", "srcSize": 5}
    assert decoded(np.array([7, 3, 0, 2], "i1").tobytes(), run, as_bytes) == [7, 7, 7, 0, 0]
    assert decoded(np.array([0, 3, -1], "i1").tobytes(), {"kind": "Delta", "origin": 1000}, as_bytes) == [
        1000,
        1003,
        1002,
    ]
    steps = {"kind": "IntervalQuantization", "min": 0, "max": 1, "numSteps": 5}
    assert decoded(np.array([0, 1, 4], "i1").tobytes(), steps, as_bytes) == [0, 0.25, 1]


@pytest.mark.parametrize("size", [4, 2**31 - 1])
def test_run_lengths_that_would_fill_the_memory(size):
    data = np.array([7, size], "<i4").tobytes()
    encoding = [{"kind": "RunLength", "srcSize": size + (size < 10)}, {"kind": "ByteArray", "type": 3}]
    with pytest.raises(ValueError, match="run lengths do not add up"):
        _decode({"data": data, "encoding": encoding})


def atom_table(rows: int, values: int) -> bytes:
    """A file of two columns of _atom_site in which run lengths state ``values`` values in a table of ``rows`` rows."""
    encoding = [{"kind": "RunLength", "srcSize": values}, {"kind": "ByteArray", "type": 3}]
    data = {"data": np.array([7, values], "<i4").tobytes(), "encoding": encoding}
    columns = [{"name": name, "data": data, "mask": None} for name in ("Cartn_x", "Cartn_y")]
    category = {"name": "_atom_site", "rowCount": rows, "columns": columns}
    return pack({"encoder": "x", "version": "0.3", "dataBlocks": [{"header": "X", "categories": [category]}]})


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (9_000_000, 9_000_000, r"9000000 atoms cannot be stated in \d+ bytes"),
        (3, 9_000_000, "run lengths of 9000000 values in a table of 3 rows"),
    ],
)
def test_run_lengths_beyond_what_the_file_can_hold_are_not_expanded(tmp_path, rows, values, message):
    path = tmp_path / "x.bcif"
    path.write_bytes(atom_table(rows, values))
    tracemalloc.start()
    with pytest.raises(StructureError, match=message):
        read_structure(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, "expanded, a column takes 72 MB"


@pytest.mark.parametrize(
    "encoding",
    [
        {"kind": "IntegerPacking", "byteCount": 2**40, "isUnsigned": True, "srcSize": 3},
        {"kind": "IntegerPacking", "byteCount": 0, "isUnsigned": False, "srcSize": 3},
        {"kind": "FixedPoint", "factor": 0},
        {"kind": "FixedPoint", "factor": float("nan")},
        {"kind": "IntervalQuantization", "min": 0, "max": 1, "numSteps": 1},
        {"kind": "IntervalQuantization", "min": 0, "max": float("inf"), "numSteps": 9},
    ],
)
def test_numbers_that_an_encoding_cannot_have(encoding):
    """Two to the power of a stated number of bits alone would fill the memory."""
    with pytest.raises(ValueError, match=r"packed integers of|fixed point numbers with|intervals from"):
        _decode({"data": np.arange(3), "encoding": [encoding]})


def test_strings_that_repeat_their_text_are_refused():
    # Each word would be the whole text again: a file of 10 MB would take 10 TB.
    offsets = {"offsets": np.array([0, 9, 0, 9], "i1").tobytes(), "offsetEncoding": [{"kind": "ByteArray", "type": 1}]}
    encoding = {"kind": "StringArray", "stringData": "ALAGLYSER", "dataEncoding": offsets["offsetEncoding"], **offsets}
    with pytest.raises(ValueError, match="overlap"):
        _decode({"data": b"\0", "encoding": [encoding]})
