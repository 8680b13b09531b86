from data_prep.dataset.ledger import LedgerRow, read_ledger, reasons, write_ledger


def test_columns_order_and_odd_characters(tmp_path):
    rows = [
        LedgerRow("b.pdb", "", "unreadable", 'has "quotes", commas'),
        LedgerRow("a\udcff.pdb", "B", "accepted", "", "a_B"),
        LedgerRow("a\udcff.pdb", "A", "rejected", "too short: 3 residues (minimum 20)"),
    ]
    write_ledger(tmp_path / "ledger.csv", rows)
    assert (tmp_path / "ledger.csv").read_bytes().splitlines()[0] == b"file,chain,status,reason,id,sha256"
    assert read_ledger(tmp_path / "ledger.csv") == [rows[1], rows[2], rows[0]], "by file; chains keep their order"


def test_kinds_of_reasons():
    rows = [LedgerRow(f"{i}.pdb", "A", "rejected", f"too short: {i} residues (minimum 20)") for i in range(4)]
    rows += [LedgerRow("x", "", "unreadable", "empty file (0 bytes)"), LedgerRow("y", "A", "accepted", "a: b", "y_A")]
    assert reasons(rows, examples=2) == [
        ("rejected", "too short", 4, ["0.pdb A", "1.pdb A"]),
        ("unreadable", "empty file", 1, ["x"]),
    ]
