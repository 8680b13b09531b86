"""Sequences in: what a FASTA record may hold, and names that cannot leave the output directory."""

import gzip
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prediction.sequences import MAX_HEADER, MAX_NAME, InputError, Query, Rejected, read_fasta, safe_name


def read(tmp_path, content: str | bytes, name="seqs.fasta"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_fasta(path)


def test_names_and_sequences(tmp_path):
    text = ">sp|P1|A B\nmk t-a\nYI*\n>sp|P1|A\nGG\n>/etc/x\nAA\n>..\nCC\n>\nDD\n>SP|p1|a\nEE\n"
    found = read(tmp_path, text)
    assert [(q.name, q.sequence) for q in found] == [
        ("sp_P1_A", "MKTAYI"),
        ("sp_P1_A_2", "GG"),
        ("_etc_x", "AA"),
        ("sequence_4", "CC"),
        ("sequence_5", "DD"),
        ("SP_p1_a_3", "EE"),
    ]
    assert found[0].residue_index[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found[0].header == "sp|P1|A B"
    assert found[0].notes == ("1 gap characters left out", "final stop sign left out")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\\b", "a_b"),
        ("C:\\x", "C__x"),
        ("/", "_"),
        ("", ""),
        (" \t ", ""),
        ("...", ""),
        (".hidden", "hidden"),
        ("-rf", "_rf"),
        ("NUL", "_NUL"),
        ("con.x", "_con.x"),
        ("Caf\u00e9", "Cafe"),
        ("\u86cb\u767d\u8d28", "___"),
        ("a\x00b", "a_b"),
        ("x" * 100, "x" * 100),
    ],
)
def test_safe_names(header, name):
    assert safe_name(header) == name


@given(st.text(max_size=300))
def test_no_header_leaves_the_directory(header):
    name = safe_name(header)
    assert len(name) <= MAX_NAME and not name.startswith((".", "-"))
    assert name.isascii() and Path("out", name + ".pdb").resolve().parent == Path("out").resolve()


def test_long_headers_that_differ_at_their_end_stay_apart(tmp_path):
    first, second = read(tmp_path, f">{'x' * 9000}a\nMK\n>{'x' * 9000}b\nMK\n")
    assert first.name != second.name and len(first.name) == len(second.name) == MAX_NAME
    assert len(first.header) == MAX_HEADER and first.header.endswith("...")


def test_many_of_one_name_are_counted_on(tmp_path):
    """In time that grows with their number, not its square: 20,000 took a minute so."""
    found = read(tmp_path, ">a\nMK\n" * 20_000 + ">A_2\nMK\n")
    assert [query.name for query in found[:3]] == ["a", "a_2", "a_3"]
    assert (found[-2].name, found[-1].name) == ("a_20000", "A_2_2")


def test_letters_that_are_not_among_the_20(tmp_path):
    (query,) = read(tmp_path, ">a\nMUOBJZXK\n")
    assert query.sequence == "MCKXXXXK"
    assert query.notes == (
        "1 U folded as C",
        "1 O folded as K",
        *(f"1 {letter} folded as unknown, without atoms" for letter in "BJZX"),
    )


def test_chains_of_a_complex(tmp_path):
    (query,) = read(tmp_path, ">a\nMKT*:\ngg-g\n")
    assert query.chains == ("MKT", "GGG") and query.length == 6 and query.sequence == "MKT:GGG"
    assert [index.tolist() for index in query.residue_index] == [[0, 1, 2], [0, 1, 2]]
    assert query.notes[-1] == "chain 2 of 2: 1 gap characters left out"


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        ("", "no sequence"),
        ("---", "no sequence"),
        ("*", "no sequence"),
        ("MK*T", r"stop sign (*) at position 3: only the last may be one"),
        ("MKT**", r"stop sign (*) at position 4: only the last may be one"),
        ("MK1T", "'1' at position 3: one-letter codes expected"),
        ("M\x00K", r"'\x00' at position 2: one-letter codes expected"),
        ("M\u00e9", r"'\xe9' at position 2: one-letter codes expected"),
        ("MK\u00df", r"'\xdf' at position 3: one-letter codes expected"),
        ("MK\ufb01", r"'\ufb01' at position 3: one-letter codes expected"),
        ("m\u0131k", r"'\u0131' at position 2: one-letter codes expected"),
        ("MK::G", "chain 2 of 3: no sequence"),
        ("MK:", "chain 2 of 2: no sequence"),
        ("XXBX", "every residue is unknown"),
        ("MK:XX", "chain 2 of 2: every residue is unknown"),
    ],
)
def test_a_bad_record_is_rejected_and_the_others_go_on(tmp_path, sequence, reason):
    bad, good = read(tmp_path, f">bad one\n{sequence}\n>good\nMKT\n")
    assert bad == Rejected("bad", "bad one", reason)
    assert isinstance(good, Query) and good.sequence == "MKT"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MKT\n", "not FASTA: its first line must start with '>', and is 'MKT'"),
        (b"\n@read 1\nMKT\n+\nIII\n", "not FASTA: .* and is '@read 1'"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("\ufeff>a\nMKT\n".encode("utf-16"), "not FASTA"),
        (b"\x1f\x8b\x08broken", "cannot be read as FASTA"),
        (b">a\n>b\nMK1\n", "none of its 2 records can be folded; the first, 'a': no sequence"),
    ],
)
def test_files_with_nothing_to_fold(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_directory(tmp_path):
    for path in (tmp_path / "none.fasta", tmp_path):
        with pytest.raises(InputError, match="cannot be read as FASTA"):
            read_fasta(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, newline, monkeypatch):
    data = "\ufeff>a b\nMK\nTA\n>c\nGG\n".replace("\n", newline).encode()
    expected = [("a", "MKTA"), ("c", "GG")]
    assert [(q.name, q.sequence) for q in read(tmp_path, data)] == expected
    assert [(q.name, q.sequence) for q in read(tmp_path, gzip.compress(data), "x.fasta.gz")] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert [(q.name, q.sequence) for q in read_fasta(Path("-"))] == expected


def test_bytes_that_are_no_utf_8_spoil_a_header_only(tmp_path):
    (query,) = read(tmp_path, b">caf\xe9 \x07bell\nMK\n")
    assert query.name == "caf_" and query.header == "caf\ufffd \ufffdbell"


def test_same_letters_same_key(tmp_path):
    a, b, c, d = read(tmp_path, ">a\nMKTG\n>b\nmktg\n>c\nMK:TG\n>d\nMKT:G\n")
    assert a.key == b.key and len({a.key, c.key, d.key}) == 3


def test_blanks_before_the_first_record_do_not_count(tmp_path):
    assert [query.sequence for query in read(tmp_path, "\n  \n>a\nMKTAYI\n")] == ["MKTAYI"]
    with pytest.raises(InputError, match="not FASTA: its first line must start with '>'"):
        read(tmp_path, "\nsomething\n>a\nMKTAYI\n")


@pytest.mark.parametrize("text", ["# STOCKHOLM 1.0\na MKTAYI\n//\n", ">a\nMKTAYI\n>b\nMK-avAYI\n"])
def test_alignments_are_said_to_be_such(tmp_path, text):
    with pytest.raises(InputError, match="an alignment, whose rows are not sequences to fold"):
        read(tmp_path, text)


@pytest.mark.parametrize(("letters", "what"), [("ACGTACGTTGCA", "DNA"), ("GGCUAACGUUAG", "RNA")])
def test_nucleic_acids_are_noticed(tmp_path, letters, what):
    (query,) = read(tmp_path, f">a\n{letters}\n")
    assert f"looks like {what}, and is folded as amino acids" in query.notes
