"""Reading and writing: one decision per test on small files, then whole sets of real and of damaged files."""

import csv
import gzip
import hashlib
import random
import re
import tracemalloc
import warnings

import gemmi
import numpy as np
import pytest
from Bio.PDB import MMCIFIO, MMCIFParser, PDBParser

from data_prep.dataset.shards import check_storable
from data_prep.structure import structure_bytes
from data_prep.structure.io import (
    StructureError,
    read_structure,
    read_structure_file,
    structure_stem,
    write_mmcif,
    write_pdb,
)
from data_prep.structure.residues import ATOM37_INDEX
from data_prep.structure.structure_bytes import read_text
from tests.conftest import case_dir
from tests.data_prep.compare import differences
from tests.data_prep.pdb_text import atom_line, chain, residue, seqres, text

CA, CB, SD, OXT = (ATOM37_INDEX[name] for name in ("CA", "CB", "SD", "OXT"))


@pytest.fixture
def read(tmp_path):
    """Reads the text of a file, given as bytes; returns its records."""

    def read(data: bytes, name: str = "x.pdb", **options):
        path = tmp_path / name
        path.write_bytes(data)
        return read_structure(path, **options)

    return read


# What a residue is


def test_plain_chain(read):
    (record,) = read(text(chain([("GLY", 5), ("ALA", 6), ("SER", 7)])))
    assert (record.id, record.chain_id, record.sequence, record.warnings) == ("x_A", "A", "GAS", ())
    assert record.residue_index.tolist() == [0, 1, 2] and record.auth_seq_id.tolist() == [5, 6, 7]
    assert record.ca_positions[:, 0].tolist() == pytest.approx([4.3, 7.6, 10.9])
    assert record.atom37_mask.sum() == 12 and (record.b_factors[record.atom37_mask] == 10).all()


def test_selenomethionine_is_methionine_with_its_selenium_as_sulphur(read):
    lines = [*residue("MSE", 1, 0, record="HETATM"), atom_line("SE", "MSE", 1, 9.5, record="HETATM")]
    (record,) = read(text(lines, chain([("ALA", 2)])))
    assert record.sequence == "MA"
    assert record.atom37_mask[0, SD] and record.atom37_positions[0, SD, 0] == np.float32(9.5)
    assert record.warnings == ("1 non-standard residues: 1 MSE -> M",)


def test_atoms_that_the_parent_does_not_have_are_left_out(read):
    # CH2 is a tryptophan atom in atom37 and a methyl group of N-dimethyl-lysine here.
    (record,) = read(text([*residue("MLY", 1, 0), atom_line("CH2", "MLY", 1, 9)], chain([("ALA", 2)])))
    assert record.sequence == "KA" and not record.atom37_mask[0, ATOM37_INDEX["CH2"]]


def test_d_amino_acid_is_unknown_with_its_backbone(read):
    (record,) = read(text(chain([("GLY", 1), ("ALA", 2)]), [*residue("DAL", 3, 9), atom_line("CB", "DAL", 3, 12)]))
    assert record.sequence == "GAX" and record.atom37_mask[2, CA] and not record.atom37_mask[2, CB]


def test_chain_of_d_amino_acids_and_of_nucleotides_are_skipped_with_a_reason(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_bytes(
        text(
            chain([("GLY", 1), ("ALA", 2)]),
            chain([("DAL", 1), ("DLE", 2), ("GLY", 3)], chain="B"),
            [atom_line("P", "DA", 1, 50, chain="C")],
        )
    )
    file = read_structure_file(path)
    assert [record.chain_id for record in file.records] == ["A"]
    assert {chain.chain_id: chain.reason for chain in file.skipped} == {
        "B": "no protein chain (2 D-amino acids, 1 L-amino acids)",
        "C": "no protein chain (1 nucleotides, 0 L-amino acids)",
    }


def test_calcium_is_no_alpha_carbon_and_ligands_after_ter_are_no_residues(read):
    calcium = ["HETATM   99 CA    CA A 300      50.000   0.000   0.000  1.00 20.00"]
    ligand = residue("GLU", 301, 60, record="HETATM")
    (record,) = read(text(chain([("GLY", 1), ("ALA", 2)]), ["TER"], calcium, ligand))
    assert record.sequence == "GA" and record.warnings == (
        "1 HETATM residues after the end of their chain and not bonded to it taken for ligands: GLU A301",
    )


def test_without_ter_a_chain_ends_where_it_is_no_longer_bonded(read):
    """Residues at 0 and 3.3, a bonded MSE at 6.6 as HETATM, then a free amino acid far away."""
    (polymer,) = [chain([("GLY", 1), ("ALA", 2)])]
    last, free = residue("MSE", 3, 9.9, record="HETATM"), residue("GLU", 301, 60, record="HETATM")
    (record,) = read(text(polymer, last, free))
    assert record.sequence == "GAM" and record.warnings[0] == (
        "1 HETATM residues after the end of their chain and not bonded to it taken for ligands: GLU A301"
    )
    (record,) = read(text(polymer, residue("MSE", 3, 60, record="HETATM"), ["TER"], free))
    assert record.sequence == "GAM", "TER says where the chain ends"
    only_calphas = [line for line in [*polymer, *last, *free] if line[12:16].strip() == "CA"]
    assert read(text(only_calphas))[0].sequence == "GAM"


def test_force_field_names_are_understood(read):
    (record,) = read(text(chain([("HSD", 1), ("CYX", 2)]), [atom_line("OT2", "CYX", 2, 20)]))
    assert record.sequence == "HC" and record.atom37_mask[1, OXT]


# Which conformer


def altloc_residue(letter: str, occupancy: float, x: float, resname: str = "SER") -> list[str]:
    return residue(resname, 1, x, altloc=letter, occupancy=occupancy)


def test_altloc_of_highest_occupancy_as_a_whole(read):
    lines = altloc_residue("A", 0.4, 0) + altloc_residue("B", 0.6, 100) + [atom_line("CB", "SER", 1, 7, altloc="A")]
    (record,) = read(text(lines, chain([("ALA", 2)])))
    assert record.atom37_positions[0, CA, 0] == 101
    assert not record.atom37_mask[0, CB], "conformer B has no CB; A's must not be mixed in"
    assert record.warnings == ("1 residues with alternate locations: highest occupancy kept",)


def test_altloc_ties_go_to_the_first_listed(read):
    (record,) = read(text(altloc_residue("B", 0.5, 100), altloc_residue("A", 0.5, 0), chain([("ALA", 2)])))
    assert record.atom37_positions[0, CA, 0] == 101


def test_microheterogeneity_is_one_residue(read):
    lines = altloc_residue("A", 0.3, 0, "PRO") + altloc_residue("B", 0.7, 100, "SER")
    (record,) = read(text(lines, chain([("ALA", 2)])))
    assert record.sequence == "SA" and "PRO/SER -> SER A1" in record.warnings[0]


def test_microheterogeneity_with_shared_atoms(read):
    """As in 1EJG: N stands once, without an altloc, in the component that is listed first."""
    proline = [atom_line("N", "PRO", 1, 0), *residue("PRO", 1, 0, altloc="A", occupancy=0.3)[1:]]
    serine = residue("SER", 1, 0.1, altloc="B", occupancy=0.6)[1:] + residue("SER", 1, 0.2, altloc="C")[1:]
    (record,) = read(text(proline, serine, chain([("ALA", 2)])))
    assert record.sequence == "SA" and record.warnings[0].startswith("1 heterogeneous positions")
    both = [line[:16] + "A" + line[17:] for line in serine[:3]]
    assert read(text(proline, both, chain([("ALA", 2)])))[0].sequence == "PSA", "conformer A of two residues"


def test_equal_numbers_without_altloc_are_two_residues(read):
    (record,) = read(text(chain([("GLY", 1), ("SER", 1), ("ALA", 2)])))
    assert record.sequence == "GSA" and "1 numbers of several residues" in record.warnings[0]


def test_first_of_atoms_listed_twice(read):
    (record,) = read(text(chain([("GLY", 1)]), [atom_line("CA", "GLY", 1, 77)]))
    assert record.atom37_positions[0, CA, 0] == pytest.approx(4.3)
    assert record.warnings == ("1 atoms listed twice, first kept: CA of GLY A1",)


def test_models(read):
    data = text(["MODEL        1"], chain([("GLY", 1)]), ["ENDMDL", "MODEL        7"], chain([("ALA", 1)]), ["ENDMDL"])
    assert read(data)[0].sequence == "G"
    (record,) = read(data, model=7)
    assert record.sequence == "A" and record.model_number == 7
    with pytest.raises(StructureError, match=r"has no model 3: its models are 1, 7"):
        read(data, model=3)


def test_every_model_is_a_record_of_its_own(read):
    first, second = chain([("GLY", 1), ("ALA", 2)]), chain([("ALA", 2)])
    data = text(
        ["MODEL        1"], first, ["ENDMDL", "MODEL        2", "ENDMDL"], ["MODEL        7"], second, ["ENDMDL"]
    )
    records = read(data, model="all")
    assert [(record.id, record.model_number, record.sequence) for record in records] == [
        ("x_A.m1", 1, "GA"),
        ("x_A.m7", 7, "A"),
    ]
    assert [record.warnings for record in records] == [("model 1 of 2",), ("model 2 of 2",)]
    (only,) = read(text(first), model="all")
    assert only.id == "x_A" and only.warnings == ()


def test_a_model_without_atoms_is_passed_over(read):
    data = text(["MODEL        1", "ENDMDL", "MODEL        2"], chain([("GLY", 1)]), ["ENDMDL"])
    assert read(data)[0].model_number == 2
    with pytest.raises(StructureError, match="has no model 1: its models are 2"):
        read(data, model=1)


def test_models_of_mmcif_are_those_of_pdb(tmp_path, read):
    """The same three models by way of both formats."""
    pieces = [chain([("GLY", 1), ("SER", 2)]), chain([("GLY", 1)]), chain([("GLY", 1), ("SER", 2)])]
    lines = [line for n, piece in enumerate(pieces, 1) for line in (f"MODEL     {n:4d}", *piece, "ENDMDL")]
    records = read(text(lines), model="all")
    gemmi.read_pdb_string(text(lines).decode()).make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    others = read_structure(tmp_path / "x.cif", model="all")
    assert [record.id for record in others] == ["x_A.m1", "x_A.m2", "x_A.m3"] == [record.id for record in records]
    for one, other in zip(records, others, strict=True):
        assert np.array_equal(one.atom37_positions, other.atom37_positions) and one.sequence == other.sequence
        assert one.model_number == other.model_number


def test_mmcif_without_sequences_is_read_as_a_pdb_file_is(tmp_path, read):
    """Biopython states no sequence, no label_seq_id for MSE, which gets a label_asym_id of its own, and else the
    author's number, also where it is not positive."""
    names = [("GLY", -1), ("ALA", 0), ("MSE", 1), ("MSE", 2), ("SER", 3), ("MSE", 4)]
    lines, x = [], 0.0
    for name, number in names:
        lines += residue(name, number, x, record="HETATM" if name == "MSE" else "ATOM")
        x += 3.3
    lines += [*residue("GLU", 301, 90, record="HETATM"), *residue("HOH", 302, 99, record="HETATM")[:1]]
    (tmp_path / "x.pdb").write_bytes(text(lines))
    structure = PDBParser(QUIET=True).get_structure("x", tmp_path / "x.pdb")
    writer = MMCIFIO()
    writer.set_structure(structure)
    writer.save(str(tmp_path / "x.cif"))
    (record,) = read_structure(tmp_path / "x.cif")
    assert record.sequence == "GAMMSM" and record.auth_seq_id.tolist() == [-1, 0, 1, 2, 3, 4]
    assert differences(record, read_structure(tmp_path / "x.pdb")[0]) == []


def test_mmcif_with_sequences_and_no_label_seq_id(tmp_path, read):
    """gemmi writes such files: MSE as HETATM belongs to the chain, and SEQRES finds its places by alignment."""
    lines = [*residue("MSE", 5, 0, record="HETATM"), *residue("GLY", 6, 3.3), *residue("ALA", 9, 50)]
    names = ["MET", "MSE", "GLY", "SER", "SER", "ALA"]
    (tmp_path / "x.pdb").write_bytes(text(seqres(names), lines, ["TER"]))
    structure = gemmi.read_structure(str(tmp_path / "x.pdb"))
    structure.setup_entities()
    document = structure.make_mmcif_document()
    document.write_file(str(tmp_path / "x.cif"))
    expected = read_structure(tmp_path / "x.pdb")[0]
    assert expected.sequence == "MMGSSA" and expected.observed.tolist() == [False, True, True, False, False, True]
    assert differences(expected, read_structure(tmp_path / "x.cif")[0]) == []
    document[0].find_mmcif_category("_entity_poly_seq.").erase()
    document.write_file(str(tmp_path / "x.cif"))
    assert differences(expected, read_structure(tmp_path / "x.cif")[0]) == [], "entity_poly has one-letter codes"


def test_many_models_take_time_in_proportion(read):
    """A trajectory: every further model costs the same, so that its lines are not gone through again for each."""
    model = ["MODEL        1", *chain([("GLY", 1), ("ALA", 2)]), "TER", "ENDMDL"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read(text(model * 300), model="all")
    assert len(records) == 300 and records[-1].id == "x_A.m1-300"


def test_chain_ids_of_two_letters(read, tmp_path):
    """gemmi writes them in columns 21 and 22; a force field's LYSH or another mark there is no chain id."""
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    (tmp_path / "a.pdb").write_bytes(text(seqres(["GLY", "ALA", "LYS"]), chain([("GLY", 1), ("ALA", 2)]), ["TER"]))
    for name, first in (("A", 1), ("AA", 11), ("BA", 21)):
        part = gemmi.read_structure(str(tmp_path / "a.pdb"))[0][0]
        part.name = name
        for number, one in enumerate(part):
            one.seqid.num = first + number
        structure[0].add_chain(part)
    structure.setup_entities()
    for entity in structure.entities:
        entity.full_sequence = ["GLY", "ALA", "LYS"]
    records = read(structure.make_pdb_string().encode())
    assert [(record.id, record.sequence) for record in records] == [("x_A", "GAK"), ("x_AA", "GAK"), ("x_BA", "GAK")]
    assert [record.auth_seq_id.tolist() for record in records] == [[1, 2, 0], [11, 12, 0], [21, 22, 0]]
    lines = chain([("GLY", 1), ("LYS", 2), ("HIS", 3)])
    marked = [line[:20] + mark + line[21:] for line, mark in zip(lines, "    HHHHAAAA", strict=True)]
    assert [record.chain_id for record in read(text(marked))] == ["A"]
    assert [record.chain_id for record in read(text([line[:20] + "%" + line[21:] for line in lines]))] == ["A"]


def test_chain_id_used_by_two_copies(read):
    one = chain([("GLY", 1), ("ALA", 2)])
    assert [record.id for record in read(text(one, ["TER"], one, ["TER"]))] == ["x_A", "x_A-2"]


def test_ids_differ_also_without_case_and_are_safe_as_file_names(read):
    records = read(text(chain([("GLY", 1)]), chain([("ALA", 1)], chain="a"), chain([("ALA", 1)], chain="/")), "a b.pdb")
    assert [record.id for record in records] == ["a%20b_A", "a%20b_a-2", "a%20b_%2F"]


def test_blank_chain_id_leaves_the_stem(read):
    assert read(text(chain([("GLY", 1)], chain=" ")))[0].id == "x"


# Where residues stand


def test_gap_in_numbers_is_a_gap_without_seqres(read):
    (record,) = read(text(chain([("GLY", 1), ("ALA", 2), ("SER", 9)])))
    assert record.residue_index.tolist() == [0, 1, 8] and len(record) == 3


def test_insertion_codes_keep_their_order(read):
    lines = chain([("GLY", 52)]) + residue("ALA", 52, 6.6, icode="A") + residue("SER", 53, 9.9)
    (record,) = read(text(lines))
    assert record.sequence == "GAS" and record.insertion_code.tolist() == ["", "A", ""]
    assert record.residue_index.tolist() == [0, 1, 2]


def test_numbers_say_which_of_equal_residues_was_observed(read):
    names = ["ALA", "GLY", "GLY", "GLY", "GLY", "SER"]
    (record,) = read(text(seqres(names), chain([("ALA", 11), ("GLY", 14), ("SER", 16)])))
    assert record.sequence == "AGGGGS" and record.observed.tolist() == [True, False, False, True, False, True]


def test_a_peptide_bond_outweighs_a_jump_in_the_numbers(read):
    # Chymotrypsin-like numbering: 35 is followed by 37, and nothing is missing between them.
    lines = residue("GLY", 35, 0) + residue("GLY", 37, 3.3) + residue("SER", 38, 6.6)
    (record,) = read(text(seqres(["GLY", "GLY", "GLY", "SER"]), lines))
    assert record.observed.tolist() == [False, True, True, True]


def test_caps_at_the_ends_of_seqres_are_no_residues(read):
    (record,) = read(text(seqres(["ACE", "GLY", "ALA", "NH2"]), chain([("GLY", 1), ("ALA", 2)])))
    assert record.sequence == "GA" and record.residue_index.tolist() == [0, 1]


def test_the_observed_residue_overrules_seqres(read):
    names = ["GLY", "ALA", "SER", "THR", "VAL"]
    seen = [("GLY", 1), ("ALA", 2), ("CYS", 3), ("THR", 4), ("VAL", 5)]
    (record,) = read(text(seqres(names), chain(seen)))
    assert record.sequence == "GACTV" and "S3C" in record.warnings[0]


def test_seqres_that_lacks_residues_of_the_chain_is_not_believed(read):
    """A residue between two others cannot be left out; one that stands apart is no part of the chain."""
    names = [("GLY", 1), ("ALA", 2), ("SER", 3), ("TRP", 4), ("LYS", 5)]
    (record,) = read(text(seqres(["GLY", "ALA", "TRP", "LYS"]), chain(names)))
    assert record.sequence == "GASWK" and record.observed.all()
    assert record.warnings == ("SEQRES lacks 1 residues of the chain: SER A3; observed sequence used",)
    apart = [*chain(names), *residue("GLU", 90, 200)]
    (record,) = read(text(seqres([name for name, _ in names]), apart))
    assert record.sequence == "GASWK" and record.warnings == ("1 residues that are not in SEQRES dropped: GLU A90",)


def test_seqres_of_another_protein_is_not_believed(read):
    (record,) = read(text(seqres(["TRP"] * 4), chain([("GLY", 1), ("ALA", 2), ("SER", 3), ("THR", 4)])))
    assert record.sequence == "GAST" and "do not align" in record.warnings[0]


def test_chain_listed_backwards(read):
    (record,) = read(text(residue("SER", 3, 9), residue("ALA", 2, 6), residue("GLY", 1, 3)))
    assert record.sequence == "GAS" and "reverse order" in record.warnings[0]


def test_header(read):
    lines = [
        "HEADER    OXIDOREDUCTASE                          13-SEP-11   4A10",
        "EXPDTA    X-RAY DIFFRACTION; NEUTRON DIFFRACTION",
        "REVDAT   2   28-DEC-11 4A10    1       JRNL",
        "REVDAT   1   07-DEC-11 4A10    0",
        "REMARK   2 RESOLUTION.    2.25 ANGSTROMS.",
    ]
    (record,) = read(text(lines, chain([("GLY", 1)])))
    assert (record.resolution, record.method) == (2.25, "X-RAY DIFFRACTION; NEUTRON DIFFRACTION")
    assert (record.deposition_date, record.release_date) == ("2011-09-13", "2011-12-07")


# Damage


@pytest.mark.parametrize("field", ["********", "        ", "     nan", "   1e5  ", "  1.2.3 ", "99999.99"])
def test_a_coordinate_that_is_no_number_is_never_made_up(read, field):
    lines = chain([(name, i) for i, name in enumerate(["GLY", "ALA", "SER"] * 5)])
    lines[5] = lines[5][:46] + field + lines[5][54:]  # CA of residue 1
    (record,) = read(text(lines))
    assert record.ca_mask.sum() == 14 and not record.ca_mask[1]
    assert record.warnings[0].startswith("1 damaged ATOM records dropped")


def test_a_coordinate_cut_off_with_its_line_is_none(read):
    """'  23' of '  23.075' is a number, and not the one that was written."""
    lines = chain([("GLY", 1), ("ALA", 2), ("SER", 3)])
    lines[4] = lines[4][:50]
    (record,) = read(text(lines))
    assert record.atom37_mask.sum() == 11 and record.warnings[0].startswith("1 damaged ATOM records dropped")
    whole = [line[:54] for line in chain([("GLY", 1), ("ALA", 2), ("SER", 3)])]
    assert read(text(whole))[0].atom37_mask.sum() == 12


def test_many_damaged_records_refuse_the_file(read):
    lines = chain([("GLY", 1), ("ALA", 2)])
    with pytest.raises(StructureError, match=r"damaged ATOM records: 4 of 8"):
        read(text([line[:46] + " " * 8 + line[54:] if i % 2 else line for i, line in enumerate(lines)]))


def test_a_last_line_cut_inside_its_coordinates_is_dropped(read):
    data = text(chain([("GLY", 1), ("ALA", 2)])).split(b"END")[0].rstrip()[:-30]
    (record,) = read(data)
    assert record.atom37_mask.sum() == 7 and "the file ends inside an ATOM record" in record.warnings[0]


@pytest.mark.parametrize("write", [write_pdb, write_mmcif])
def test_mutated_files_are_read_or_refused(records, tmp_path, write):
    """Bytes changed, removed, repeated, the end cut off: nothing but a StructureError, nothing not finite."""
    path = tmp_path / "y"
    write(path, records)
    original, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(600):
        data = bytearray(original)
        for _ in range(rng.choice([1, 4, 40])):
            place = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[place] = rng.choice(b" \n\t0-.?'\"#;_AH\xff\x01")
            elif kind == 1:
                del data[place : place + rng.randrange(1, 90)]
            elif kind == 2:
                data[place:place] = data[place : place + rng.randrange(1, 200)]
            elif rng.random() < 0.1:
                del data[place:]
            if len(data) < 10:
                break
        path.write_bytes(data)
        try:
            for record in read_structure(path):
                check_storable(record)
        except StructureError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < 600


def test_a_single_damaged_atom_is_no_structure(read):
    with pytest.raises(StructureError, match="no sound ATOM record"):
        read(text([atom_line("CA", "GLY", 1, 1).replace("0.000", "?????")]))


def test_entry_ids_in_columns_73_to_80_do_not_matter(read):
    lines = [line[:66].ljust(72) + "1GDR 109" for line in chain([("GLY", 1)])]
    assert read(text(lines))[0].sequence == "G"


def test_gzip_is_checked_and_capped(tmp_path):
    data = gzip.compress(text(chain([("GLY", i) for i in range(200)])))
    path = tmp_path / "x.pdb.gz"
    path.write_bytes(data)
    assert len(read_structure(path)[0]) == 200
    with pytest.raises(StructureError, match="larger than the limit of 1000 bytes"):
        read_text(path, max_bytes=1000)
    path.write_bytes(data[:-20])
    with pytest.raises(StructureError, match="gzip stream ends early"):
        read_structure(path)
    path.write_bytes(data + gzip.compress(b"END\n") + b"\0" * 100)
    assert len(read_structure(path)[0]) == 200, "several members and padding are one file"
    path.write_bytes(data + b"<html>")
    with pytest.raises(StructureError, match="something else follows the stream"):
        read_structure(path)
    path.write_bytes(data[:-8] + b"\0\0\0\0" + data[-4:])
    with pytest.raises(StructureError, match="gzip checksum mismatch"):
        read_structure(path)


def test_gzip_in_small_pieces_is_the_same(tmp_path, monkeypatch):
    """Members, padding and the checksum may fall on any boundary of the pieces in which a file is read."""
    first, second = text(chain([("GLY", i) for i in range(60)])), b"END\n" * 50
    path = tmp_path / "x.pdb.gz"
    path.write_bytes(gzip.compress(first) + b"\0" * 7 + gzip.compress(second) + b"\0" * 9)
    whole = read_text(path)
    assert whole.data == first + second and whole.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for size in (2, 3, 7, 64, 501):
        monkeypatch.setattr(structure_bytes, "_PIECE_BYTES", size)
        assert read_text(path) == whole, size
        (tmp_path / "short.pdb.gz").write_bytes(gzip.compress(first)[:-1])
        with pytest.raises(StructureError, match="gzip stream ends early"):
            read_text(tmp_path / "short.pdb.gz")


@pytest.mark.parametrize("make", [lambda data: data, gzip.compress])
def test_the_largest_text_is_read_and_one_byte_more_is_not(tmp_path, monkeypatch, make):
    data = text(chain([("GLY", i) for i in range(200)]))
    path = tmp_path / "x.pdb.gz"
    path.write_bytes(make(data))
    monkeypatch.setattr(structure_bytes, "_PIECE_BYTES", 1000)
    assert read_text(path, max_bytes=len(data)).data == data
    with pytest.raises(StructureError, match=f"larger than the limit of {len(data) - 1} bytes"):
        read_text(path, max_bytes=len(data) - 1)


def test_a_text_of_line_breaks_is_refused_before_its_lines_are_cut(read):
    """It compresses to a thousandth, within what is allowed, and would take sixty times its size."""
    atoms = text(chain([("GLY", 1), ("ALA", 2)]))
    tracemalloc.start()
    for padding in (b"\n", b"\r\n", b"\r", b"TER\n"):
        data = atoms + padding * (12_000_000 // len(padding))
        with pytest.raises(StructureError, match="lines of fewer than 20 characters in the mean"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    tracemalloc.stop()
    assert read(atoms + b"\n" * 1_000_000)[0].sequence == "GA"


def test_a_compression_bomb_takes_little_memory(tmp_path, monkeypatch):
    """40 MB of one ATOM record in less than 1% of that: refused long before all of it is there."""
    path = tmp_path / "bomb.pdb.gz"
    path.write_bytes(gzip.compress((atom_line("CA", "GLY", 1, 1).ljust(80) + "\n").encode() * 500_000))
    size = path.stat().st_size
    assert 100 * size < 20_000_000, "a bomb by our measure"
    reason = "a gzip stream of more than 100 times its size: no structure file"
    for least, cap, message, most in (
        (16 << 20, structure_bytes.MAX_TEXT_BYTES, reason, 40_000_000),
        (0, structure_bytes.MAX_TEXT_BYTES, reason, 2.5 * 100 * size),
        (0, 100_000, "larger than the limit of 100000 bytes", 4_000_000),
    ):
        monkeypatch.setattr(structure_bytes, "MIN_EXPANDED_BYTES", least)
        tracemalloc.start()
        with pytest.raises(StructureError, match=message):
            read_text(path, max_bytes=cap)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, (least, cap, peak)


def test_what_is_no_file(tmp_path):
    (tmp_path / "d.pdb").mkdir()
    with pytest.raises(StructureError, match=r"d\.pdb: a directory, expected a structure file"):
        read_structure(tmp_path / "d.pdb")
    with pytest.raises(StructureError, match=r"no\.pdb: cannot be read \(No such file or directory\)"):
        read_structure(tmp_path / "no.pdb")


def test_stem():
    names = ["1abc.pdb", "a/1abc.ent.gz", "1abc.CIF", "1abc.mmcif.gz", "1abc.pdb1", "7vf3.B.pdb", "1abc.txt"]
    stems = ["1abc", "1abc", "1abc", "1abc", "1abc", "7vf3.B", "1abc.txt"]
    assert [structure_stem(name) for name in names] == stems


# Writing


@pytest.fixture
def records(read):
    lines = (
        chain([("MET", 3), ("LYS", 4)]) + residue("TRP", 4, 9.9, icode="B") + [atom_line("OXT", "TRP", 4, 1, icode="B")]
    )
    head = ["REMARK   2 RESOLUTION.    1.90 ANGSTROMS.", "EXPDTA    X-RAY DIFFRACTION"]
    second = chain([("SER", -1), ("GLY", 0), ("ALA", 10)], chain="B")
    return read(text(head, seqres(["ALA", "MET", "LYS", "TRP", "UNK", "VAL"]), lines, ["TER"], second))


@pytest.mark.parametrize("write", [write_pdb, write_mmcif])
def test_what_is_written_is_read_back(records, tmp_path, write):
    path = tmp_path / "y.pdb"
    write(path, records)
    back = read_structure(path, name="x")
    assert [differences(a, b) for a, b in zip(records, back, strict=True)] == [[], []]
    assert [record.warnings for record in back] == [(), ()]
    first = path.read_bytes()
    write(path, back)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


@pytest.mark.parametrize(("write", "parser"), [(write_pdb, PDBParser()), (write_mmcif, MMCIFParser())])
def test_other_programs_read_what_is_written(records, tmp_path, write, parser):
    path = tmp_path / ("y.pdb" if write is write_pdb else "y.cif")
    write(path, records)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, _ = parser.get_structure("y", path)[0]
    assert [residue.id[1:] for residue in first] == [(3, " "), (4, " "), (4, "B")]
    structure = gemmi.read_structure(str(path))
    assert [len(chain) for chain in structure[0]] == [3, 3]
    assert structure.resolution == 1.9


def test_pdb_refuses_what_it_cannot_hold(records, tmp_path):
    with pytest.raises(ValueError, match="write mmCIF instead"):
        write_pdb(tmp_path / "y.pdb", [records[0], records[0]])
    assert not (tmp_path / "y.pdb").exists()


def test_residue_numbers_beyond_9999(read, tmp_path):
    (record,) = read(text(chain([("GLY", 9998), ("ALA", 9999)])))
    record.auth_seq_id[:] = [9999, 10001]
    write_pdb(tmp_path / "y.pdb", [record])
    assert b"A001" in (tmp_path / "y.pdb").read_bytes()
    assert read_structure(tmp_path / "y.pdb")[0].auth_seq_id.tolist() == [9999, 10001]


# Sets of files


def by_format(structures_dir) -> dict[str, dict]:
    """Files whose names differ in the format only: stem in lower case -> format -> path."""
    found: dict[str, dict] = {}
    for path in sorted(structures_dir.iterdir()):
        kind = "mmcif" if re.search(r"\.(mm)?cif(\.gz)?$", path.name) else "pdb"
        found.setdefault(structure_stem(path).lower(), {}).setdefault(kind, path)
    return {stem: paths for stem, paths in found.items() if len(paths) == 2}


def test_pdb_and_mmcif_of_one_entry_are_identical(structures_dir):
    """Chains that both files state with the same number of residues must agree in every array and in the header."""
    pairs = by_format(structures_dir)
    if not pairs:
        pytest.skip(f"{structures_dir} has no entry in both formats")
    compared = 0
    for paths in pairs.values():
        cif = {record.chain_id: record for record in read_structure(paths["mmcif"])}
        for record in read_structure(paths["pdb"]):
            other = cif[record.chain_id]
            if record.observed.sum() == other.observed.sum():
                # Cut and converted files state less in their header than the entry does.
                stated = [f for f in differences(record, other) if None not in (getattr(record, f), getattr(other, f))]
                assert stated == [], f"{paths['pdb'].name} chain {record.chain_id}"
                assert record.warnings == other.warnings
                compared += 1
    assert compared >= len(pairs) / 2


def sample(directory, every: int) -> list:
    return sorted(path for path in directory.iterdir() if re.search(r"\.(pdb|cif)(\.gz)?$", path.name))[::every]


def test_mmcif_and_its_conversion_to_pdb_give_the_same_residues(structures_dir, tmp_path):
    """gemmi writes the PDB file, and the alignment to SEQRES must find the places that label_seq_id states."""
    cifs = [path for path in sorted(structures_dir.iterdir()) if ".cif" in path.name][::8]
    compared = 0
    for path in cifs:
        structure = gemmi.read_structure(str(path))
        if any(len(chain.name) > 1 for chain in structure[0]):
            continue
        structure.write_pdb(str(tmp_path / "c.pdb"))
        converted = {record.chain_id: record for record in read_structure(tmp_path / "c.pdb")}
        for record in read_structure(path):
            other = converted[record.chain_id]
            compared += 1
            assert set(differences(record, other, header=False)) <= {"atom37_positions", "b_factors"}, path.name
            # The converter rounds to the PDB's decimals, where halves may go the other way.
            assert np.abs(record.atom37_positions - other.atom37_positions).max() < 0.0015
            assert np.abs(record.b_factors - other.b_factors).max() < 0.0051
    assert compared or not cifs


def test_biopython_sees_the_same_alpha_carbons(structures_dir):
    """Second opinion on chains, numbers, names and coordinates, where no altloc makes the programs choose."""
    compared = 0
    for path in sample(structures_dir, 40):
        opener = gzip.open if path.suffix == ".gz" else open
        parser = MMCIFParser(QUIET=True) if ".cif" in path.name else PDBParser(QUIET=True)
        with opener(path, "rt") as file:
            model = parser.get_structure("x", file)[0]
        for record in read_structure(path):
            if any("alternate" in warning or "heterogeneous" in warning for warning in record.warnings):
                continue
            ours = {
                (int(number), str(icode) or " "): tuple(xyz)
                for number, icode, xyz, here in zip(
                    record.auth_seq_id, record.insertion_code, record.ca_positions, record.ca_mask, strict=True
                )
                if here
            }
            theirs = [
                (residue.id, tuple(np.round(residue["CA"].coord.astype(np.float64), 3).astype(np.float32)))
                for residue in model[record.chain_id or " "]
                if "CA" in residue and residue["CA"].element == "C"
            ]
            # HETATM records may be modified residues of the chain or amino acids as ligands.
            assert ours.items() >= {(place[1:], xyz) for place, xyz in theirs if place[0] == " "}, path.name
            assert ours.items() <= {(place[1:], xyz) for place, xyz in theirs}, path.name
            compared += 1
    assert compared > 0


@pytest.mark.parametrize("write", [write_pdb, write_mmcif])
def test_real_files_come_back_from_writing(structures_dir, tmp_path, write):
    for path in sample(structures_dir, 60):
        records = read_structure(path)
        if write is write_pdb and any(len(record.chain_id) > 1 for record in records):
            continue
        write(tmp_path / "y", records)
        for record, back in zip(records, read_structure(tmp_path / "y"), strict=True):
            left = set(differences(record, back))
            if write is write_pdb:  # two decimals are all that the format has
                assert np.abs(record.b_factors - back.b_factors).max() < 0.0051
                assert abs((record.resolution or 0) - (back.resolution or 0)) < 0.0051
                left -= {"b_factors", "resolution"}
            assert left == set(), f"{path.name} chain {record.chain_id}"


# Damaged files with the report that each deserves


def pytest_generate_tests(metafunc):
    if "bad_case" in metafunc.fixturenames:
        directory = case_dir(metafunc.config, "--bad-inputs-dir")
        cases = []
        if directory is not None:
            with open(directory / "expected.csv", newline="") as file:
                cases = [row for row in csv.DictReader(file) if row["stage"] in ("both", "prepare")]
        metafunc.parametrize("bad_case", cases, ids=[row["path"] for row in cases])


def test_bad_inputs(bad_inputs_dir, bad_case):
    """Status by the table, and the number of residues where the report states one."""
    status, report = bad_case["expected_status"], bad_case["expected_report"]
    if status == "skip" or "share a stem" in report or report.startswith("see "):
        pytest.skip("about several files or the directory: tests/pipeline/test_prepare.py")
    path = bad_inputs_dir / bad_case["path"]
    try:
        records = read_structure(path)
    except StructureError as error:
        assert "error" in status, str(error)
        assert "\n" not in str(error) and str(error).startswith(str(path))
        return
    assert status != "error"
    if status == "warning" and "identical" not in report:
        assert any(record.warnings for record in records)
    stated = re.search(r"\b(\d+) residues\b", report)
    if stated and status == "ok":
        assert sum(len(record) for record in records) == int(stated[1])
