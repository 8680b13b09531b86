"""Sequences in: what a FASTA file may hold, and names that cannot leave the output directory."""

import pytest

from pipeline.predict import InputError, read_fasta


def queries(tmp_path, text: str):
    path = tmp_path / "seqs.fasta"
    path.write_text(text)
    return read_fasta(path)


def test_names_and_sequences(tmp_path):
    found = queries(tmp_path, ">sp|P1|A B\nmk t-a\nYI*\n>sp|P1|A\nGG\n>/etc/x\nAA\n>..\nCC\n>\nDD\n>SP|p1|a\nEE\n")
    assert [(q.name, q.sequence) for q in found] == [
        ("sp_P1_A", "MKTAYI"),
        ("sp_P1_A_2", "GG"),
        ("_etc_x", "AA"),
        ("sequence_4", "CC"),
        ("sequence_5", "DD"),
        ("SP_p1_a_3", "EE"),
    ]
    assert found[0].residue_index.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MKT\n", "not FASTA"),
        ("", "not FASTA"),
        (">a\n>b\nMKT\n", "record 'a' has no sequence"),
        (">a\nMK1T\n", "has '1' in its sequence"),
        (">a\nMK*T\n", "has '*' in its sequence"),
    ],
)
def test_mistakes(tmp_path, text, message):
    with pytest.raises(InputError, match=message.replace("*", r"\*")) as error:
        queries(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read as FASTA"):
        read_fasta(tmp_path / "none.fasta")
