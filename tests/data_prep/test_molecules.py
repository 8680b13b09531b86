"""Which residues are one chain, in files as programs write them: what ends a molecule, and what does not."""

import re

import gemmi
import numpy as np
import pytest

from data_prep.structure.io import read_structure, write_mmcif
from data_prep.structure.residues import ATOM37_INDEX
from tests.data_prep.pdb_text import atom_line, residue, seqres, text

NAMES = ["GLY", "ALA", "SER", "THR", "VAL", "LEU"]


@pytest.fixture
def read(tmp_path):
    def read(data: bytes, name: str = "x.pdb", **options):
        (tmp_path / name).write_bytes(data)
        return read_structure(tmp_path / name, **options)

    return read


def peptide(names, first=1, x=0.0, **options) -> list[str]:
    """Bonded residues, numbered from ``first`` on."""
    lines = [residue(name, first + i, x + 3.3 * i, **options) for i, name in enumerate(names)]
    return [line for part in lines for line in part]


def with_segment(lines, segment) -> list[str]:
    return [line[:72].ljust(72) + segment for line in lines]


def oxt(resname, number, x) -> list[str]:
    return [atom_line("OXT", resname, number, x)]


# What ends a molecule

ENDS = {
    "TER, numbers that run on (tleap)": lambda a, b: [*a, *oxt("SER", 3, 9.5), "TER", *peptide(b, 4, 40)],
    "OXT without TER (OpenMM)": lambda a, b: [*a, *oxt("SER", 3, 9.5), *peptide(b, 4, 40)],
    "OT2 without TER (CHARMM)": lambda a, b: [*a, atom_line("OT2", "SER", 3, 9.5), *peptide(b, 4, 40)],
    "TER, further away than a gap is long": lambda a, b: [*a, "TER", *peptide(b, 4, 40)],
    "segment ids, and numbers that run on": lambda a, b: [
        *with_segment(a, "PROA"), *with_segment(peptide(b, 4, 12), "PROB"),
    ],
    "segment ids, and numbers that start again (psfgen)": lambda a, b: [
        *with_segment(a, "PROA"), *with_segment(peptide(b, 1, 40), "PROB"),
    ],
    "numbers that start again": lambda a, b: [*a, *peptide(b, 1, 40)],
    "numbers that overlap in part, at TER": lambda a, b: [*a, "TER", *peptide(b, 2, 40)],
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_a_molecule_ends(read, how):
    records = read(text(ENDS[how](peptide(NAMES[:3]), NAMES[2:6])))
    assert [record.sequence for record in records] == ["GAS", "STVL"]
    assert [record.id for record in records] == ["x_A", "x_A-2"]
    assert all(re.match("2 molecules under one chain id: .* after SER A3", r.warnings[-1]) for r in records)


ONE = {
    "TER at a gap": lambda: [*peptide(NAMES[:3]), "TER", *peptide(NAMES[3:], 7, 20)],
    "OXT at a gap that the chain can bridge": lambda: [
        *peptide(NAMES[:3]), *oxt("SER", 3, 9.5), *peptide(NAMES[3:], 7, 20),
    ],
    "TER between bonded residues": lambda: [*peptide(NAMES[:3]), "TER", *peptide(NAMES[3:], 4, 9.9)],
    "numbers that start again over a bond": lambda: [*peptide(NAMES[:3]), *peptide(NAMES[3:], 1, 9.9)],
    "another segment id over a bond": lambda: [
        *with_segment(peptide(NAMES[:3]), "PROA"), *with_segment(peptide(NAMES[3:], 4, 9.9), "PROB"),
    ],
    "a permuted order without a number twice": lambda: [*peptide(NAMES[:3], 200), *peptide(NAMES[3:], 30, 20)],
    "SEQRES that holds both": lambda: [
        *seqres(NAMES), *peptide(NAMES[:3]), *oxt("SER", 3, 9.5), "TER", *peptide(NAMES[3:], 4, 40),
    ],
    "caps and TER in the middle": lambda: [
        *peptide(NAMES[:3]), atom_line("N", "NME", 3, 9.9, icode="A", record="HETATM"), "TER",
        atom_line("C", "ACE", 3, 18, icode="B", record="HETATM"), *peptide(NAMES[3:], 4, 9.9),
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", ONE)
def test_a_molecule_goes_on(read, how):
    (record,) = read(text(ONE[how]()))
    assert record.sequence == "GASTVL"


def test_half_of_a_homodimer_is_not_listed_twice(read):
    """The second copy has the names and numbers of the first."""
    first, second = read(text(peptide(NAMES), peptide(NAMES, 1, 50)))
    assert first.sequence == second.sequence == "GASTVL"
    assert np.allclose(second.ca_positions[:, 0] - first.ca_positions[:, 0], 50)


def test_two_backbones_of_one_number_and_name_are_two_residues(read):
    """Next to each other, without an insertion code."""
    (record,) = read(text(peptide(["GLY", "ALA"]), residue("ALA", 2, 6.6), residue("SER", 3, 9.9)))
    assert record.sequence == "GAAS" and record.ca_mask.all()
    assert record.warnings == ("1 numbers of several residues without insertion code, all kept: ALA, ALA at ALA A2",)


def test_nucleotides_under_the_protein_s_chain_id_are_parted(read):
    dna = [atom_line(name, "DA", number, 100 + number) for number in range(1, 9) for name in ("P", "C1'")]
    (record,) = read(text(peptide(NAMES), dna))
    assert record.sequence == "GASTVL" and "8 nucleotides under the same chain id" in record.warnings[0]


# Frames


@pytest.mark.parametrize("end", ["END", "ENDMDL"])
@pytest.mark.parametrize("ter", [[], ["TER"]])
def test_frames_without_model_records(read, end, ter):
    frames = [[*peptide(NAMES, 1, 0.1 * i), *ter, end] for i in range(4)]
    data = "\n".join(line for frame in frames for line in frame).encode()
    (record,) = read(data)
    assert record.ca_positions[0, 0] == 1 and record.warnings == (
        "frames without MODEL records, parted by END or ENDMDL",
        "4 models, the first one was read",
    )
    assert [r.id for r in read(data, model="all")] == ["x_A.m1", "x_A.m2", "x_A.m3", "x_A.m4"]


def test_what_follows_end_and_is_something_else_is_of_the_same_model(read):
    records = read(text(peptide(NAMES), ["END"], peptide(NAMES[::-1], chain="B")))
    assert [record.chain_id for record in records] == ["A", "B"]
    assert records[0].warnings == ("atoms after END read as part of the same model",)


# HETATM behind TER


def test_modified_residues_behind_ter(read):
    """Bonded, they take their place in the chain; one that fills no place is a ligand."""
    mse = residue("MSE", 3, 6.6, record="HETATM")
    ligand = residue("MSE", 90, 80, record="HETATM")
    (record,) = read(text(peptide(["GLY", "ALA"]), residue("SER", 4, 9.9), ["TER"], mse, ligand))
    assert record.sequence == "GAMS" and record.auth_seq_id.tolist() == [1, 2, 3, 4]
    assert record.warnings[:2] == (
        "1 HETATM residues after TER belong to the chain: MSE A3",
        "1 HETATM residues after the end of their chain and not bonded to it taken for ligands: MSE A90",
    )


def test_a_modified_residue_behind_ter_that_modres_names(read):
    """Its bond is open, and its number and distance fit."""
    modres = ["MODRES 1ABC SEP A    4  SER  PHOSPHOSERINE"]
    lines = [*peptide(NAMES[:2]), *residue("GLY", 6, 18), "TER", *residue("SEP", 4, 12, record="HETATM")]
    (record,) = read(text(modres, lines))
    assert record.sequence == "GASG" and record.residue_index.tolist() == [0, 1, 3, 5]


# Numbers and geometry


def test_numbers_that_jump_over_a_bond_leave_no_gap(read):
    (record,) = read(text(peptide(NAMES[:3]), peptide(NAMES[3:], 40, 9.9)))
    assert record.residue_index.tolist() == [0, 1, 2, 3, 4, 5]


def test_neighbours_far_apart_have_a_gap_between_them(read):
    (record,) = read(text(peptide(NAMES[:3]), peptide(NAMES[3:], 4, 30)))
    assert record.residue_index.tolist() == [0, 1, 2, 8, 9, 10]
    assert record.warnings == ("1 gaps that the numbers do not show, by C-N distance: before THR A4",)


def test_numbers_of_waters_are_nobody_s_concern(read):
    waters = [atom_line("O", "HOH", 1, 50 + i, record="HETATM") for i in range(9)]
    waters = [line[:22] + "271a" + line[26:] for line in waters]
    (record,) = read(text(peptide(NAMES), waters))
    assert record.sequence == "GASTVL" and record.warnings == ()


# Conformers


def test_a_conformer_without_backbone_does_not_win(read):
    """B has two atoms and the highest occupancy; its residue keeps the backbone of A."""
    a = [*residue("SER", 2, 3.3, altloc="A", occupancy=0.3), atom_line("CB", "SER", 2, 4.5, altloc="A", occupancy=0.3)]
    b = [atom_line("CB", "SER", 2, 4.6, altloc="B", occupancy=0.9)]
    (record,) = read(text(residue("GLY", 1, 0), a, b, residue("ALA", 3, 6.6)))
    assert record.ca_mask.all() and record.atom37_positions[1, ATOM37_INDEX["CB"], 0] == np.float32(4.5)
    assert record.warnings == (
        "1 residues with alternate locations: highest occupancy kept (1 by their backbone, 0 atoms from other ones)",
    )


def test_complementary_conformers_make_one_residue(read):
    a = residue("SER", 2, 3.3, altloc="A", occupancy=0.5)
    b = [atom_line("CB", "SER", 2, 4.6, altloc="B", occupancy=0.5), atom_line("OG", "SER", 2, 5.9, altloc="B")]
    (record,) = read(text(residue("GLY", 1, 0), a, b, residue("ALA", 3, 6.6)))
    assert record.atom37_mask[1].sum() == 6


# Names


@pytest.mark.parametrize(
    ("name", "letter"),
    [("CASN", "N"), ("CASP", "D"), ("NMET", "M"), ("CMET", "M"), ("NHID", "H"), ("HISD", "H"), ("LYSH", "K"),
     ("AS4", "D"), ("GL4", "E"), ("LSN", "K"), ("ARN", "R"), ("NLN", "N"), ("OLS", "S"), ("OLT", "T"), ("TYM", "Y"),
     ("LYP", "K"), ("ASH", "D"), ("GLH", "E"), ("HIP", "H"), ("CYX", "C")],
)  # fmt: skip
def test_names_of_force_fields(read, name, letter):
    lines = residue("XXX", 2, 3.3)
    named = [line[:17] + name.ljust(4) + line[21:] for line in lines]
    (record,) = read(text(residue("GLY", 1, 0), named, residue("ALA", 3, 6.6)))
    assert (record.sequence, record.chain_id) == (f"G{letter}A", "A") and record.ca_mask.all()


@pytest.mark.parametrize("names", [("OC1", "OC2"), ("OT1", "OT2"), ("O1", "O2"), ("O'", "O''"), ("O", "OXT")])
def test_names_of_the_last_oxygens(read, names):
    last = [*residue("ALA", 2, 3.3)[:3], *(atom_line(name, "ALA", 2, 6 + i) for i, name in enumerate(names))]
    (record,) = read(text(residue("GLY", 1, 0), last))
    assert record.atom37_mask[1, [ATOM37_INDEX["O"], ATOM37_INDEX["OXT"]]].all()


# mmCIF


@pytest.fixture
def cif(tmp_path, read):
    """Columns of the _atom_site loop of a peptide as a block that can be changed and read."""
    write_mmcif(tmp_path / "x.cif", read(text(seqres(NAMES), peptide(NAMES))))
    return gemmi.cif.read(str(tmp_path / "x.cif")).sole_block()


def reread(block, tmp_path):
    (tmp_path / "y.cif").write_text(block.as_string())
    return read_structure(tmp_path / "y.cif")


def test_author_s_columns_unknown_in_some_rows(cif, tmp_path):
    for tag in ("auth_seq_id", "auth_asym_id"):
        column = cif.find_values(f"_atom_site.{tag}")
        for row in range(4, 12):
            column[row] = "?"
    (record,) = reread(cif, tmp_path)
    assert record.sequence == "GASTVL" and record.auth_seq_id.tolist() == [1, 2, 3, 4, 5, 6]


def test_label_numbers_that_contradict_the_sequence_are_not_believed(cif, tmp_path):
    """THR 4 is not observed, and label_seq_id counts what is (ModelAngelo)."""
    table = cif.find("_atom_site.", ["label_comp_id", "label_seq_id"])
    rows = [i for i, row in enumerate(table) if row[0] == "THR"]
    for row in table:
        if row[0] in ("VAL", "LEU"):
            row[1] = str(int(row[1]) - 1)
    for i in reversed(rows):
        table.remove_row(i)
    (record,) = reread(cif, tmp_path)
    assert record.sequence == "GASTVL" and record.observed.tolist() == [True] * 3 + [False] + [True] * 2
    assert record.warnings == ("label_seq_id contradicts the sequence at 2 residues: aligned instead",)
