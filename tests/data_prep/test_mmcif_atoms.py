"""However an _atom_site loop is written, the same atoms are read; the aligned way is checked against the other."""

import re

import pytest

from data_prep.structure.io import StructureError, read_structure, write_mmcif
from data_prep.structure.mmcif import AlignedLoop, ParsedLoop, read_atom_loop
from tests.data_prep.compare import differences
from tests.data_prep.pdb_text import chain, residue, text


@pytest.fixture
def cif(tmp_path) -> str:
    """mmCIF text of two chains with an unobserved residue, an insertion code and negative coordinates."""
    lines = chain([("MET", 3), ("LYS", 4)]) + residue("TRP", 4, -9.9, icode="B")
    (tmp_path / "x.pdb").write_bytes(text(lines, ["TER"], chain([("SER", -1), ("GLY", 9)], chain="B")))
    write_mmcif(tmp_path / "x.cif", read_structure(tmp_path / "x.pdb"))
    return (tmp_path / "x.cif").read_text()


def aligned(cif: str) -> str:
    """The rows as a table, as the wwPDB writes them."""
    lines = cif.splitlines()
    numbers = [i for i, line in enumerate(lines) if line.startswith("ATOM")]
    rows = [lines[i].split() for i in numbers]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in zip(numbers, rows, strict=True):
        lines[i] = " ".join(item.ljust(width) for item, width in zip(row, widths, strict=True)) + " "
    return "\n".join([*lines[: numbers[-1] + 1], "#", *lines[numbers[-1] + 1 :]]) + "\n"


def loop(cif: str):
    return read_atom_loop("x.cif", cif.encode())[0]


def test_both_ways_give_the_same_records(cif, tmp_path):
    table = aligned(cif)
    assert isinstance(loop(table), AlignedLoop) and isinstance(loop(cif), ParsedLoop)
    (tmp_path / "table.cif").write_text(table)
    records = read_structure(tmp_path / "table.cif", name="x"), read_structure(tmp_path / "x.cif")
    assert [differences(a, b) for a, b in zip(*records, strict=True)] == [[], []]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace(" CA ", "'CA'", 1),  # quotes are part of a table too
        lambda t: t.replace(" CA ", ' "C A" ', 1),
        lambda t: t.replace(" CA ", " #A ", 1),
        lambda t: re.sub(r"(?m)^(ATOM .*) $", r"\1", t, count=1),
        lambda t: t.replace("\nATOM", "\n\nATOM", 2),
        lambda t: t.replace(" SER", "\nSER", 1),
        lambda t: t.replace("loop_\n_atom_site.", "loop_ # atoms\n_atom_site."),
        lambda t: t.replace("data_", "data_a\n_x.y\n;\n", 1).replace("\n#\n", "\n;\n#\n"),
    ],
)
def test_a_table_that_is_not_quite_one_is_parsed_or_refused_as_any_cif(cif, change):
    """Whatever the fast way makes of a text, the CIF parser says the same."""
    from gemmi import cif as parser

    changed = change(aligned(cif))
    assert changed != aligned(cif)
    try:
        block = parser.read_string(changed)[0]
        names = [parser.as_string(item) for item in block.find_values("_atom_site.label_atom_id")]
    except (ValueError, RuntimeError):
        names = []
    if names:
        assert loop(changed).words("label_atom_id").list() == names
    else:
        with pytest.raises(StructureError):
            loop(changed)


def test_coordinates_that_are_no_numbers(cif):
    def second_x(text_of: str, item: str) -> float:
        """The x of the second atom, after ``item`` takes its place in the file."""
        changed = re.sub(r" 4\.300( +)", lambda m: f" {item} ".ljust(len(m[0])), text_of, count=1)
        assert changed != text_of
        return loop(changed).numbers("Cartn_x", -1.0)[1]

    for text_of in (cif, aligned(cif)):
        assert (second_x(text_of, "?"), second_x(text_of, "4.3(1)"), second_x(text_of, "+5")) == (-1.0, 4.3, 5.0)
        for damage in ("nan", "1_0.00", "0x1.00"):
            with pytest.raises(StructureError, match=f'Cartn_x holds "{damage}"'):
                second_x(text_of, damage)
